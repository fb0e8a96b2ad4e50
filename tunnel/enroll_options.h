/* enroll_options: the command line of attest-tunnel enroll. */
#ifndef TUNNEL_ENROLL_OPTIONS_H
#define TUNNEL_ENROLL_OPTIONS_H

#include <stdbool.h>

struct tunnel_config;

struct enroll_options {
	struct tunnel_config *config; /* relays and the way to them; the caller's */
	const char *folder;           /* NULL: none was given */
	const char *code_file;        /* NULL: standard input */
	bool force;
	bool renew;    /* by showing the certificate that is there, for no code */
	bool keep_key; /* renew: with the same key */
};

/* False: *status, and what there is to say has been said. */
bool enroll_options_read(struct enroll_options *o, int argc, char **argv, int *status);

/* A line for people. Both return status; the second takes over an allocated one. */
int enroll_options_complain(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int enroll_options_complain_why(int status, char *why);

#endif
