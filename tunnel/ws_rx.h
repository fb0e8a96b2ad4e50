/* ws_rx: received bytes in a bounded queue of a worker's buffers. */
#ifndef TUNNEL_WS_RX_H
#define TUNNEL_WS_RX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "relay/worker.h"

#define WS_RX_CHUNKS 6 /* WS_RX_MAX, one piece of libwebsockets' more, a head taken in part */

struct ws_rx {
	uint8_t *chunk[WS_RX_CHUNKS]; /* a ring */
	unsigned head, n;
	size_t start, end; /* valid from start in the first, to end in the last */
	size_t len;
};

int ws_rx_put(struct ws_rx *q, struct worker *w, const uint8_t *data, size_t len); /* or -errno */
size_t ws_rx_peek(const struct ws_rx *q, const uint8_t **data);
void ws_rx_consume(struct ws_rx *q, struct worker *w, size_t len); /* at most what peek said */
void ws_rx_clear(struct ws_rx *q, struct worker *w);

#endif
