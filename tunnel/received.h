/* received: bytes a stream's owner has not read yet; a list of blocks. Private to stream.c. */
#ifndef TUNNEL_RECEIVED_H
#define TUNNEL_RECEIVED_H

#include <stddef.h>
#include <stdint.h>

struct received_block;

/* Zeroed: empty. Empty, it owns no memory. */
struct received {
	struct received_block *head, *tail;
	size_t held; /* bytes in there */
};

int received_add(struct received *q, const uint8_t *data,
		 size_t len); /* 0 or -ENOMEM: some may be in */
size_t received_peek(const struct received *q, const uint8_t **data); /* the first ones; 0: empty */
void received_take(struct received *q, size_t len); /* as many as peek showed, at most */
void received_clear(struct received *q);

#endif
