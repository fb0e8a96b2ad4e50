/* doctor_relay: the whole way to one relay, from its name to what it says of us. */
#ifndef TUNNEL_DOCTOR_RELAY_H
#define TUNNEL_DOCTOR_RELAY_H

#include <stdbool.h>
#include <stdint.h>

struct address;
struct doctor;
struct egress;
struct tunnel_config;

struct doctor_relay {
	const struct address *address;
	const char *server_name;                 /* NULL: the address's host */
	const char *ca_file, *certificate, *key; /* as in a config; NULL: none */
	const struct egress *egress;             /* NULL: no proxies */
	uint64_t dial_ms, handshake_ms;
	int transport;                      /* enum transport, to the tunnel door */
	const struct tunnel_config *offers; /* what is offered at the tunnel door; NULL: nothing */
	const char *instance;               /* ... and as whom */
	bool connects;                      /* the connect door is used, too */
};

void doctor_check_relay(struct doctor *d, const struct doctor_relay *r);

#endif
