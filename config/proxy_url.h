/* proxy_url: where a proxy is and what it speaks, as a URL, http://user@host:3128. Pure. */
#ifndef CONFIG_PROXY_URL_H
#define CONFIG_PROXY_URL_H

#include <stdbool.h>

#include "config/address.h"

enum proxy_scheme {
	PROXY_HTTP,    /* HTTP CONNECT */
	PROXY_HTTPS,   /* HTTP CONNECT inside TLS to the proxy */
	PROXY_SOCKS5,  /* the host's name is resolved here */
	PROXY_SOCKS5H, /* ... is resolved by the proxy */
	PROXY_SCHEMES
};

#define PROXY_WORD_MAX 255 /* longest user name or password: RFC 1929's bound */
#define PROXY_URL_EXPECTED "http, https, socks5 or socks5h, as in http://proxy.example:3128"

struct proxy_url {
	enum proxy_scheme scheme;
	struct address address; /* TCP */
	char *user, *password;	/* without their %XX; NULL: none */
};

/*
 * SCHEME://[USER[:PASSWORD]@]HOST:PORT; without SCHEME:// it is http, as in the environment. The
 * port is mandatory, since programs do not agree on a default. 0, or -EINVAL with *why an allocated
 * line that never shows user or password; u is untouched then.
 */
int proxy_url_parse(struct proxy_url *u, const char *text, char **why)
	__attribute__((warn_unused_result));
/* SCHEME://HOST:PORT, and nothing secret. Returns buf. */
const char *proxy_url_format(const struct proxy_url *u, char *buf, size_t size);
void proxy_url_deinit(struct proxy_url *u); /* wipes what is secret; zeroes it; twice is fine */

bool proxy_url_is_http(const struct proxy_url *u); /* speaks HTTP CONNECT */

#endif
