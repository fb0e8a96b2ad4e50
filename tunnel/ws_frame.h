/*
 * ws_frame: the frames of RFC 6455, both ways. Pure: no input, no output, no allocation.
 *
 * Receiving is incremental, in place, and strict as the receiver's role demands. Binary messages
 * are one byte stream here: their borders are not told.
 */
#ifndef TUNNEL_WS_FRAME_H
#define TUNNEL_WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_FRAME_HEAD_MAX 14
#define WS_FRAME_CONTROL_MAX 125 /* bytes a ping, a pong or a close may carry */
#define WS_FRAME_KEY 4

enum ws_frame_role { WS_FRAME_SERVER, WS_FRAME_CLIENT }; /* whose end this is */

enum ws_frame_opcode {
	WS_FRAME_CONTINUATION = 0,
	WS_FRAME_TEXT = 1,
	WS_FRAME_BINARY = 2,
	WS_FRAME_CLOSE = 8,
	WS_FRAME_PING = 9,
	WS_FRAME_PONG = 10,
};

enum ws_frame_code { /* why a close */
	WS_FRAME_CODE_EOF = 1000,
	WS_FRAME_CODE_GOING = 1001, /* a browser's page is left */
	WS_FRAME_CODE_PROTOCOL = 1002,
	WS_FRAME_CODE_TYPE = 1003,   /* a text message */
	WS_FRAME_CODE_NONE = 1005,   /* stands for a close without a code; never on the wire */
	WS_FRAME_CODE_FAILED = 1011, /* an abort */
};

struct ws_frame_in {
	/* What the owner looks at. */
	bool over;       /* nothing after this counts: the peer's close has come, or a fault */
	uint16_t closed; /* the peer's close code (CODE_NONE: without one); 0: it did not close */
	uint16_t fault;  /* the code to close with because of what the peer sent, or 0 */
	const char *why; /* of fault: a static line for logs */
	bool pinged;     /* a pong is owed, with ping's bytes; the owner clears it */
	uint8_t ping_len;
	uint8_t ping[WS_FRAME_CONTROL_MAX]; /* the latest: others need no answer (5.5.3) */

	/* Its own. */
	enum ws_frame_role role;
	bool in_frame, in_message;
	uint8_t phase; /* which byte of key is next */
	uint8_t head_len, control_len;
	uint8_t head[WS_FRAME_HEAD_MAX];
	uint8_t key[WS_FRAME_KEY];
	uint64_t left; /* payload bytes of this frame still to come */
	uint8_t control[WS_FRAME_CONTROL_MAX];
};

void ws_frame_in_init(struct ws_frame_in *in, enum ws_frame_role role);

/*
 * Takes the next len bytes from the peer, in buf, wherever frames begin and end in them. The
 * binary payload among them comes to the front of buf, unmasked; its length is returned.
 */
size_t ws_frame_take(struct ws_frame_in *in, uint8_t *buf, size_t len);

/* Writes the head of an unfragmented frame of ours; key NULL: not masked. Returns its length. */
size_t ws_frame_head(uint8_t head[WS_FRAME_HEAD_MAX], enum ws_frame_opcode opcode, uint64_t len,
		     const uint8_t *key);

/*
 * to = from masked (or unmasked: the same) by key, whose first byte is key[phase % 4]. to may be
 * from, or any place before it.
 */
void ws_frame_mask(uint8_t *to, const uint8_t *from, size_t len, const uint8_t key[WS_FRAME_KEY],
		   unsigned phase);

#endif
