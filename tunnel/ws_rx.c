/*
 * ws_rx: received bytes in a queue of a worker's buffers.
 *
 * Theory of operation: a ring of at most WS_RX_CHUNKS pooled buffers, filled at the tail, taken at
 * the head; an empty queue holds none. The bound is the ring's size: who fills it pauses the peer
 * long before (ws.c), and a put that does not fit is an error, not growth.
 */
#include "tunnel/ws_rx.h"

#include <errno.h>
#include <string.h>

static uint8_t *last(const struct ws_rx *q)
{
	return q->chunk[(q->head + q->n - 1) % WS_RX_CHUNKS];
}

static int grow(struct ws_rx *q, struct worker *w)
{
	uint8_t *b;

	if (q->n == WS_RX_CHUNKS)
		return -ENOBUFS;
	b = worker_buffer_get(w);
	if (!b)
		return -ENOMEM;
	if (q->n == 0)
		q->start = 0;
	q->chunk[(q->head + q->n++) % WS_RX_CHUNKS] = b;
	q->end = 0;
	return 0;
}

int ws_rx_put(struct ws_rx *q, struct worker *w, const uint8_t *data, size_t len)
{
	while (len) {
		size_t n;

		if (q->n == 0 || q->end == WORKER_BUFFER) {
			int r = grow(q, w);

			if (r < 0)
				return r;
		}
		n = WORKER_BUFFER - q->end < len ? WORKER_BUFFER - q->end : len;
		memcpy(last(q) + q->end, data, n);
		q->end += n;
		q->len += n;
		data += n;
		len -= n;
	}
	return 0;
}

size_t ws_rx_peek(const struct ws_rx *q, const uint8_t **data)
{
	if (q->n == 0)
		return 0;
	*data = q->chunk[q->head] + q->start;
	return (q->n == 1 ? q->end : WORKER_BUFFER) - q->start;
}

static void drop_head(struct ws_rx *q, struct worker *w)
{
	worker_buffer_put(w, q->chunk[q->head]);
	q->head = (q->head + 1) % WS_RX_CHUNKS;
	q->n--;
	q->start = 0;
}

void ws_rx_consume(struct ws_rx *q, struct worker *w, size_t len)
{
	q->start += len;
	q->len -= len;
	if (q->start == WORKER_BUFFER || q->len == 0)
		drop_head(q, w);
}

void ws_rx_clear(struct ws_rx *q, struct worker *w)
{
	while (q->n)
		drop_head(q, w);
	q->len = 0;
}
