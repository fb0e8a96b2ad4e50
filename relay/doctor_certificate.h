/* doctor_certificate: checks of certificates with their keys, and of CAs. Each is its own check. */
#ifndef RELAY_DOCTOR_CERTIFICATE_H
#define RELAY_DOCTOR_CERTIFICATE_H

#include <stdbool.h>

struct doctor;

/* For what is NULL, nothing. True: said nothing wrong. */

/* "certificate": our own as a client, and its key. */
bool doctor_certificate_client(struct doctor *d, const char *certificate, const char *key);
/* The same of a server; and "chain": what it sends beside it. */
bool doctor_certificate_server(struct doctor *d, const char *certificate, const char *key);
/* "names": does the server's certificate have this one? sni: others are services'. */
void doctor_certificate_names(struct doctor *d, const char *certificate, const char *domain,
			      bool sni);
/* "ca": CAs that others' certificates are verified with. */
bool doctor_certificate_authorities(struct doctor *d, const char *ca_file);

#endif
