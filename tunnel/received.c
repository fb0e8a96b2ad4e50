/*
 * received: a queue of bytes in blocks.
 *
 * Theory of operation: bytes go into the last block while it has space, so many small chunks do not
 * make many blocks. The first block is as small as will do (most leftovers are), later ones are
 * BLOCK_MAX. There is no bound here: the stream's window is one.
 */
#include "tunnel/received.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_MIN 512
#define BLOCK_MAX 16384

struct received_block {
	struct received_block *next;
	uint32_t start, end, size;
	uint8_t bytes[];
};

static struct received_block *add_block(struct received *q, size_t len)
{
	size_t size = q->tail ? BLOCK_MAX : BLOCK_MIN;
	struct received_block *b;

	while (size < len && size < BLOCK_MAX)
		size *= 2;
	b = malloc(sizeof(*b) + size);
	if (!b)
		return NULL;
	*b = (struct received_block){ .size = (uint32_t)size };
	if (q->tail)
		q->tail->next = b;
	else
		q->head = b;
	q->tail = b;
	return b;
}

int received_add(struct received *q, const uint8_t *data, size_t len)
{
	while (len > 0) {
		struct received_block *b = q->tail;
		size_t n;

		if (!b || b->end == b->size)
			b = add_block(q, len);
		if (!b)
			return -ENOMEM;
		n = b->size - b->end < len ? b->size - b->end : len;
		memcpy(b->bytes + b->end, data, n);
		b->end += (uint32_t)n;
		data += n;
		len -= n;
		q->held += n;
	}
	return 0;
}

size_t received_peek(const struct received *q, const uint8_t **data)
{
	if (!q->head)
		return 0;
	*data = q->head->bytes + q->head->start;
	return q->head->end - q->head->start;
}

void received_take(struct received *q, size_t len)
{
	struct received_block *b = q->head;

	b->start += (uint32_t)len;
	q->held -= len;
	if (b->start < b->end)
		return;
	q->head = b->next;
	if (!q->head)
		q->tail = NULL;
	free(b);
}

void received_clear(struct received *q)
{
	while (q->head)
		received_take(q, q->head->end - q->head->start);
}
