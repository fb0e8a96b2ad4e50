/*
 * proxy_words: what is said to a proxy and what it answers, until it has connected us: HTTP CONNECT
 * (RFC 9110) with Basic authentication, and SOCKS5 (RFC 1928, RFC 1929). Pure: no input, no output.
 *
 * The owner sends say, puts what it hears into heard, and asks for a verdict, until there is one.
 */
#ifndef TUNNEL_PROXY_WORDS_H
#define TUNNEL_PROXY_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/proxy_url.h"
#include "relay/httphead.h"

#define PROXY_SAY_MAX 2048 /* two hosts of 253, and 511 bytes of credentials in base64 */
#define PROXY_HEARD_MAX HTTPHEAD_MAX
#define PROXY_DETAIL_MAX 320

struct proxy_credentials {
	bool known; /* there are some */
	char user[PROXY_WORD_MAX + 1];
	char password[PROXY_WORD_MAX + 1];
};

enum proxy_verdict {
	PROXY_MORE, /* send what is in say, if anything; then hear more */
	PROXY_OPEN, /* what comes next is from where we wanted to go */
	PROXY_NO,   /* detail says why, in words that follow "the proxy ..." */
};

enum proxy_step { PROXY_STEP_CONNECT, PROXY_STEP_METHOD, PROXY_STEP_PASSWORD, PROXY_STEP_REQUEST };

struct proxy_talk {
	enum proxy_scheme scheme;
	enum proxy_step step; /* what is being answered */
	const char *host;     /* a name or an IP address; the owner's, as credentials are */
	uint16_t port;
	const struct proxy_credentials *credentials;
	bool rejected; /* PROXY_NO: to the credentials, which were shown */
	size_t say_len, heard_len;
	uint8_t say[PROXY_SAY_MAX]; /* the owner sets say_len to 0 when it has sent it */
	uint8_t heard[PROXY_HEARD_MAX];
	char detail[PROXY_DETAIL_MAX];
};

/* Fills say with the first words. -EINVAL: a host that cannot be said. */
int proxy_talk_begin(struct proxy_talk *t, enum proxy_scheme scheme, const char *host,
		     uint16_t port, const struct proxy_credentials *credentials);

/*
 * Judges what is in heard. Bytes behind an answer, in the clear and before we have said anything
 * further, are nobody's that we may trust: that is a no.
 */
enum proxy_verdict proxy_talk_judge(struct proxy_talk *t);

void proxy_talk_wipe(struct proxy_talk *t); /* credentials have passed through */

#endif
