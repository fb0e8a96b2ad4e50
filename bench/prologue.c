/*
 * prologue: a ClientHello, and the head of a CONNECT.
 *
 * Theory of operation: the hello is what a TLS 1.3 client of today says, in one record: a session
 * id, SNI, groups, signature algorithms, versions and an X25519 share. It is well-formed and the
 * same each time; nobody answers it, the far end skips it. Lengths are written when what they count
 * is behind them.
 */
#include "bench/prologue.h"

#include <stdio.h>
#include <string.h>

#include "bench/data.h"

struct writer {
	uint8_t *buf;
	size_t len;
};

static void put8(struct writer *w, unsigned value)
{
	w->buf[w->len++] = (uint8_t)value;
}

static void put16(struct writer *w, unsigned value)
{
	put8(w, value >> 8);
	put8(w, value);
}

static void put(struct writer *w, const void *data, size_t len)
{
	memcpy(w->buf + w->len, data, len);
	w->len += len;
}

/* Room for a length of two bytes; the place to close it at. */
static size_t open16(struct writer *w)
{
	put16(w, 0);
	return w->len;
}

static void close16(struct writer *w, size_t at)
{
	size_t len = w->len - at;

	w->buf[at - 2] = (uint8_t)(len >> 8);
	w->buf[at - 1] = (uint8_t)len;
}

static void put_random(struct writer *w, uint64_t seed)
{
	data_fill(seed, 0, w->buf + w->len, 32);
	w->len += 32;
}

static void put_server_name(struct writer *w, const char *name)
{
	size_t extension, list, host;

	put16(w, 0); /* server_name */
	extension = open16(w);
	list = open16(w);
	put8(w, 0); /* host_name */
	host = open16(w);
	put(w, name, strlen(name));
	close16(w, host);
	close16(w, list);
	close16(w, extension);
}

static void put_extensions(struct writer *w, const char *name)
{
	static const uint8_t fixed[] = {
		0, 23, 0, 0,                                   /* extended_master_secret */
		0, 10, 0, 6,  0, 4,  0, 29, 0, 23,             /* groups: x25519, P-256 */
		0, 11, 0, 2,  1, 0,                            /* point formats: uncompressed */
		0, 35, 0, 0,                                   /* session_ticket */
		0, 13, 0, 10, 0, 8,  4, 3,  8, 4,  5, 3, 8, 5, /* signature algorithms */
		0, 43, 0, 5,  4, 3,  4, 3,  3,                 /* versions: 1.3, 1.2 */
		0, 45, 0, 2,  1, 1,                            /* psk_key_exchange_modes */
		0, 51, 0, 38, 0, 36, 0, 29, 0, 32,             /* key_share: x25519 ... */
	};
	size_t all = open16(w);

	put_server_name(w, name);
	put(w, fixed, sizeof(fixed));
	put_random(w, 6); /* ... which is this */
	close16(w, all);
}

size_t prologue_hello(uint8_t buf[PROLOGUE_MAX], const char *name)
{
	static const uint8_t ciphers[] = {
		0, 10, 0x13, 1, 0x13, 2, 0x13, 3, 0xc0, 0x2b, 0xc0, 0x2f
	};
	struct writer w = { .buf = buf };
	size_t record, message;

	put8(&w, 22); /* handshake */
	put16(&w, 0x0301);
	record = open16(&w);
	put8(&w, 1); /* client_hello */
	put8(&w, 0); /* its length has three bytes */
	message = open16(&w);
	put16(&w, 0x0303);
	put_random(&w, 4);
	put8(&w, 32);
	put_random(&w, 5); /* session id */
	put(&w, ciphers, sizeof(ciphers));
	put16(&w, 0x0100); /* no compression */
	put_extensions(&w, name);
	close16(&w, message);
	close16(&w, record);
	return w.len;
}

size_t prologue_connect(uint8_t buf[PROLOGUE_MAX], const char *name)
{
	return (size_t)snprintf((char *)buf, PROLOGUE_MAX,
				"CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", name, name);
}
