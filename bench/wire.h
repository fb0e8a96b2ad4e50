/*
 * wire: what a client and the far end of the benchmarks say to each other.
 *
 * A stream begins with a request of WIRE_REQUEST bytes: a header (magic "BNCH", u8 op, u8 flags,
 * u16 0, u64 amount, u64 seed, u64 id; all little endian) and a fixed padding, which is compared.
 *
 *	op  the client then                    the far end
 *	X   may send the next request          answers each with WIRE_REPLY bytes: its id, padding
 *	I   holds the stream                   the same as X
 *	U   sends data, ends its direction     says its verdict, closes
 *	D   ends its direction if amount is 0  sends amount bytes, or until then; verdict, closes
 *	V   sends amount bytes, ends           sends amount bytes at the same time; verdict, closes
 *	S   reads                              sends a line of JSON about itself, closes
 *
 * Flags: 1, data is by seed, and compared; 2, in a request with an amount, the client does not end
 * its direction: the far end says its verdict when the amount has come.
 *
 * A verdict has WIRE_VERDICT bytes: magic "BNCV", u8 op, u8 good, u16 0, u64 id, u64 bytes
 * received, u64 bytes sent. Data is what data.h says.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_REQUEST 1024
#define WIRE_REPLY 4096
#define WIRE_HEADER 32
#define WIRE_VERDICT 32

enum wire_op {
	WIRE_EXCHANGE = 'X',
	WIRE_IDLE = 'I',
	WIRE_UP = 'U',
	WIRE_DOWN = 'D',
	WIRE_BOTH = 'V',
	WIRE_STATISTICS = 'S',
};

struct wire_request {
	enum wire_op op;
	bool verify, no_half_close;
	uint64_t amount, seed, id;
};

struct wire_verdict {
	enum wire_op op;
	bool good;
	uint64_t id, received, sent;
};

void wire_init(void); /* once, before the others */

void wire_put_request(uint8_t buf[WIRE_REQUEST], const struct wire_request *r);
/* The header alone; false: not one of ours. */
bool wire_get_request(const uint8_t buf[WIRE_HEADER], struct wire_request *r);
/* Is this what a request has from byte `at`, which is behind the header? */
bool wire_is_padding(const uint8_t *buf, size_t at, size_t len);

void wire_put_reply(uint8_t buf[WIRE_REPLY], uint64_t id);
/* Is this what the reply to id has from byte `at`? */
bool wire_is_reply(const uint8_t *buf, size_t at, size_t len, uint64_t id);

void wire_put_verdict(uint8_t buf[WIRE_VERDICT], const struct wire_verdict *v);
bool wire_get_verdict(const uint8_t buf[WIRE_VERDICT], struct wire_verdict *v);

#endif
