/*
 * hybrid: what is said over a VMM's "hybrid vsock" socket before a stream to the guest begins
 * (Firecracker's docs/vsock.md; Cloud Hypervisor does the same). Pure.
 *
 * We say "CONNECT port\n", the VMM answers "OK port\n" with a port of its own; all that comes after
 * that line is the guest's. When nobody listens in the guest, the VMM closes without a word.
 */
#ifndef RELAY_HYBRID_H
#define RELAY_HYBRID_H

#include <stddef.h>
#include <stdint.h>

#define HYBRID_REQUEST_MAX 32 /* with its NUL */
#define HYBRID_ANSWER_MAX 63  /* bytes of the answer's line: "OK 4294967295\n" and then some */

enum hybrid_verdict {
	HYBRID_MORE, /* hear the next byte, and no more than that */
	HYBRID_OPEN, /* the line is over: what comes next is the guest's */
	HYBRID_NO,   /* not the answer of a VMM that has connected us */
};

/* Writes the request; returns its length. */
size_t hybrid_request(char out[HYBRID_REQUEST_MAX], uint32_t port);

/* Judges the answer's next byte. *heard is how many came before; zero at first, counted here. */
enum hybrid_verdict hybrid_hear(unsigned *heard, char byte);

#endif
