/*
 * relay_options: the flags that say where relays are and how to get there, the same for
 * attest-tunnel and attest-tunnel enroll.
 */
#ifndef TUNNEL_RELAY_OPTIONS_H
#define TUNNEL_RELAY_OPTIONS_H

#include <stdbool.h>

struct address;
struct tunnel_config;

/* What getopt_long returns for them; a program's own begin at RELAY_OPTIONS_END. */
enum {
	RELAY_OPTION_RELAY = 'r',
	RELAY_OPTION_CA_FILE = 256,
	RELAY_OPTION_SERVER_NAME,
	RELAY_OPTION_PROXY,
	RELAY_OPTION_NO_PROXY,
	RELAY_OPTION_PROXY_CREDENTIALS,
	RELAY_OPTION_PROXY_CA,
	RELAY_OPTIONS_END
};

/* Rows of a table of struct option. */
#define RELAY_OPTIONS_LONG                                                            \
	{ "relay", required_argument, NULL, RELAY_OPTION_RELAY },                     \
		{ "ca-file", required_argument, NULL, RELAY_OPTION_CA_FILE },         \
		{ "server-name", required_argument, NULL, RELAY_OPTION_SERVER_NAME }, \
		{ "proxy", required_argument, NULL, RELAY_OPTION_PROXY },             \
		{ "no-proxy", required_argument, NULL, RELAY_OPTION_NO_PROXY },       \
		{ "proxy-credentials-file", required_argument, NULL,                  \
		  RELAY_OPTION_PROXY_CREDENTIALS },                                   \
	{                                                                             \
		"proxy-ca-file", required_argument, NULL, RELAY_OPTION_PROXY_CA       \
	}

bool relay_options_has(int option);
/* One of them, onto the config. False: what is wrong has been said. */
bool relay_options_apply(struct tunnel_config *c, int option, const char *value);

/* An address that a flag gives, TCP or a path: *a is the caller's, if true. False: as above. */
bool relay_options_address(struct address *a, const char *flag, const char *text);

/* A line for people on standard error. False, always. */
bool relay_options_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
