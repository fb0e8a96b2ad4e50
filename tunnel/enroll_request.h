/*
 * enroll_request: one POST /enroll to a relay, on the way that its agent would go: dialled or
 * through a proxy, inside TLS, the relay's certificate verified.
 */
#ifndef TUNNEL_ENROLL_REQUEST_H
#define TUNNEL_ENROLL_REQUEST_H

#include <stddef.h>

#include "relay/reason.h"

struct address;
struct carrier_shared;
struct enroll_request;

#define ENROLL_ANSWER_MAX 65536 /* head and body */

struct enroll_answer {
	unsigned status;  /* of HTTP; 0: there was no answer */
	const char *body; /* with a NUL behind it */
	size_t len;
	enum reason why;    /* status 0 */
	const char *detail; /* status 0: a line for people */
};

/* Once, from the loop. All in it is valid during the call. */
typedef void enroll_request_done(void *user, const struct enroll_answer *answer);

/*
 * shared: its direct kind's TLS offers http/1.1, and shows a certificate if code is NULL. address
 * and name must stay valid until done; code and csr need not. NULL: out of memory.
 */
struct enroll_request *enroll_request_start(const struct carrier_shared *shared,
					    const struct address *address, const char *name,
					    const char *code, const char *csr,
					    enroll_request_done *done, void *user);
void enroll_request_cancel(struct enroll_request *r); /* done will not be called; NULL is fine */

#endif
