/*
 * ws_frame: the frames of RFC 6455.
 *
 * Theory of operation: a head is gathered byte by byte, at most 14, and each of its first two bytes
 * is judged as it comes, so that a peer of another kind is told from its first bytes. Payload is
 * moved once: to the front of the buffer, unmasked on the way. Control frames are gathered beside
 * it; of pings the latest is kept. After the peer's close, or a fault, nothing more is looked at.
 *
 * What is a fault: a reserved bit or opcode; a client's frame without mask, a server's with one; a
 * length not in its shortest form, or of 64 bits; a control frame that is long or in fragments; a
 * continuation of nothing; a new message inside another; a close that is malformed. And a text
 * message, which is well-formed and not ours: closed with 1003, all others with 1002. The words in
 * a close are not looked at.
 *
 * Masking works on 64 bytes at a time, loaded before any is stored: so the compiler makes vector
 * code of it, and the target may overlap with its source from below.
 */
#include "tunnel/ws_frame.h"

#include <string.h>

#define FIN 0x80
#define RESERVED 0x70
#define OPCODE 0x0f
#define CONTROL 0x08 /* this bit of an opcode */
#define MASKED 0x80
#define LENGTH 0x7f
#define LENGTH_16 126 /* two bytes of length follow */
#define LENGTH_64 127 /* eight */
#define BLOCK 64

void ws_frame_mask(uint8_t *to, const uint8_t *from, size_t len, const uint8_t key[WS_FRAME_KEY],
		   unsigned phase)
{
	uint8_t bytes[sizeof(uint64_t)];
	uint64_t word;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = key[(phase + i) % WS_FRAME_KEY];
	memcpy(&word, bytes, sizeof(word));
	for (; len >= BLOCK; len -= BLOCK, to += BLOCK, from += BLOCK) {
		uint64_t block[BLOCK / sizeof(word)];

		memcpy(block, from, sizeof(block));
		for (unsigned i = 0; i < BLOCK / sizeof(word); i++)
			block[i] ^= word;
		memcpy(to, block, sizeof(block));
	}
	for (; len >= sizeof(word); len -= sizeof(word), to += sizeof(word), from += sizeof(word)) {
		uint64_t one;

		memcpy(&one, from, sizeof(one));
		one ^= word;
		memcpy(to, &one, sizeof(one));
	}
	for (size_t i = 0; i < len; i++)
		to[i] = from[i] ^ bytes[i];
}

size_t ws_frame_head(uint8_t head[WS_FRAME_HEAD_MAX], enum ws_frame_opcode opcode, uint64_t len,
		     const uint8_t *key)
{
	unsigned more = len < LENGTH_16 ? 0 : len <= UINT16_MAX ? 2 : 8;
	size_t n = 0;

	head[n++] = (uint8_t)(FIN | opcode);
	head[n++] = (uint8_t)((key ? MASKED : 0) | (more == 0   ? (uint8_t)len
						    : more == 2 ? LENGTH_16
								: LENGTH_64));
	while (more)
		head[n++] = (uint8_t)(len >> 8 * --more);
	if (key) {
		memcpy(head + n, key, WS_FRAME_KEY);
		n += WS_FRAME_KEY;
	}
	return n;
}

void ws_frame_in_init(struct ws_frame_in *in, enum ws_frame_role role)
{
	*in = (struct ws_frame_in){ .role = role, .why = "" };
}

static void fault(struct ws_frame_in *in, enum ws_frame_code code, const char *why)
{
	in->over = true;
	in->fault = (uint16_t)code;
	in->why = why;
}

static bool is_control(const struct ws_frame_in *in)
{
	return in->head[0] & CONTROL;
}

static void judge_first(struct ws_frame_in *in)
{
	unsigned opcode = in->head[0] & OPCODE;

	if (in->head[0] & RESERVED)
		fault(in, WS_FRAME_CODE_PROTOCOL, "a reserved bit is set");
	else if (opcode > WS_FRAME_PONG || (opcode > WS_FRAME_BINARY && opcode < WS_FRAME_CLOSE))
		fault(in, WS_FRAME_CODE_PROTOCOL, "a reserved opcode");
	else if (is_control(in) && !(in->head[0] & FIN))
		fault(in, WS_FRAME_CODE_PROTOCOL, "a control frame in fragments");
	else if (opcode == WS_FRAME_CONTINUATION && !in->in_message)
		fault(in, WS_FRAME_CODE_PROTOCOL, "a continuation of no message");
	else if (opcode != WS_FRAME_CONTINUATION && !is_control(in) && in->in_message)
		fault(in, WS_FRAME_CODE_PROTOCOL, "a new message inside another");
	else if (opcode == WS_FRAME_TEXT)
		fault(in, WS_FRAME_CODE_TYPE, "a text message");
}

static void judge_second(struct ws_frame_in *in)
{
	bool masked = in->head[1] & MASKED;

	if (masked != (in->role == WS_FRAME_SERVER))
		fault(in, WS_FRAME_CODE_PROTOCOL,
		      masked ? "a masked frame of a server's" : "an unmasked frame of a client's");
	else if (is_control(in) && (in->head[1] & LENGTH) > WS_FRAME_CONTROL_MAX)
		fault(in, WS_FRAME_CODE_PROTOCOL, "a control frame of more than 125 bytes");
}

/* How many bytes of length follow the first two. */
static unsigned length_bytes(const struct ws_frame_in *in)
{
	unsigned length = in->head[1] & LENGTH;

	return length == LENGTH_64 ? 8 : length == LENGTH_16 ? 2 : 0;
}

/* The head is whole. */
static void begin_frame(struct ws_frame_in *in)
{
	unsigned more = length_bytes(in);
	uint64_t len = more ? 0 : in->head[1] & LENGTH;

	for (unsigned i = 0; i < more; i++)
		len = len << 8 | in->head[2 + i];
	if ((more == 2 && len < LENGTH_16) || (more == 8 && len <= UINT16_MAX)) {
		fault(in, WS_FRAME_CODE_PROTOCOL, "a length longer than it need be");
		return;
	}
	if (len >> 63) {
		fault(in, WS_FRAME_CODE_PROTOCOL, "a length of 64 bits");
		return;
	}
	if (in->role == WS_FRAME_SERVER)
		memcpy(in->key, in->head + 2 + more, WS_FRAME_KEY);
	in->phase = 0;
	in->left = len;
	in->in_frame = true;
}

/* Returns how many bytes it has taken. */
static size_t take_head(struct ws_frame_in *in, const uint8_t *data, size_t len)
{
	size_t used = 0;

	while (used < len && !in->over && !in->in_frame) {
		in->head[in->head_len++] = data[used++];
		if (in->head_len == 1) {
			judge_first(in);
			continue;
		}
		if (in->head_len == 2)
			judge_second(in);
		if (!in->over && in->head_len == 2 + length_bytes(in) +
						 (in->head[1] & MASKED ? WS_FRAME_KEY : 0))
			begin_frame(in);
	}
	return used;
}

/* Codes that may be on the wire: RFC 6455 section 7.4, and what has been registered since. */
static bool is_code(unsigned code)
{
	return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
	       (code >= 3000 && code <= 4999);
}

static void peer_close(struct ws_frame_in *in)
{
	unsigned code = WS_FRAME_CODE_NONE;

	if (in->control_len >= 2)
		code = (unsigned)in->control[0] << 8 | in->control[1];
	if (in->control_len == 1 || (in->control_len >= 2 && !is_code(code))) {
		fault(in, WS_FRAME_CODE_PROTOCOL, "a malformed close");
		return;
	}
	in->closed = (uint16_t)code;
	in->over = true;
}

static void end_frame(struct ws_frame_in *in)
{
	switch (in->head[0] & OPCODE) {
	case WS_FRAME_CLOSE:
		peer_close(in);
		break;
	case WS_FRAME_PING:
		memcpy(in->ping, in->control, in->control_len);
		in->ping_len = in->control_len;
		in->pinged = true;
		break;
	case WS_FRAME_PONG:
		break; /* nobody asked */
	default:
		in->in_message = !(in->head[0] & FIN);
	}
	in->in_frame = false;
	in->head_len = in->control_len = 0;
}

/* len bytes of the frame's payload to where they belong; to is not behind from. */
static void move(struct ws_frame_in *in, uint8_t *to, const uint8_t *from, size_t len)
{
	if (in->role == WS_FRAME_SERVER) {
		ws_frame_mask(to, from, len, in->key, in->phase);
		in->phase = (uint8_t)((in->phase + len) % WS_FRAME_KEY);
	} else if (to != from) {
		memmove(to, from, len);
	}
	in->left -= len;
}

size_t ws_frame_take(struct ws_frame_in *in, uint8_t *buf, size_t len)
{
	size_t at = 0, payload = 0;

	while (at < len && !in->over) {
		if (!in->in_frame) {
			at += take_head(in, buf + at, len - at);
		} else {
			size_t n = in->left < len - at ? (size_t)in->left : len - at;

			if (is_control(in)) {
				move(in, in->control + in->control_len, buf + at, n);
				in->control_len = (uint8_t)(in->control_len + n);
			} else {
				move(in, buf + payload, buf + at, n);
				payload += n;
			}
			at += n;
		}
		if (in->in_frame && in->left == 0)
			end_frame(in);
	}
	return payload;
}
