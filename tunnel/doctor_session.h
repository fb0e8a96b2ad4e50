/* doctor_session: a session with a relay in which nothing is offered and no stream opened. */
#ifndef TUNNEL_DOCTOR_SESSION_H
#define TUNNEL_DOCTOR_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "tunnel/carrier.h"
#include "tunnel/hello.h"

struct address;
struct doctor;
struct tunnel_config;

#define DOCTOR_PINGS 5

struct doctor_session {
	enum { DOCTOR_FAILED, DOCTOR_ACCEPTED, DOCTOR_REFUSED } outcome;
	char why[512]; /* FAILED */
	struct hello_accepted accepted;
	struct hello_refused refused;
	unsigned pings; /* answered */
	uint64_t least_us, sum_us;
};

/* Whom to speak to, and how; see carrier_open. */
struct doctor_peer {
	const struct carrier_shared *shared;
	enum carrier_kind kind;
	const struct address *address;
	const char *name;
};

/* At the tunnel door: would these services be accepted? (PROTOCOL.md, "Asking only") */
void doctor_ask(struct doctor *d, const struct doctor_peer *peer,
		const struct tunnel_config *config, const char *instance, struct doctor_session *s);
/* At the connect door: ACCEPTED if the relay speaks HTTP/2 with us. */
void doctor_greet(struct doctor *d, const struct doctor_peer *peer, struct doctor_session *s);

#endif
