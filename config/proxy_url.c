/*
 * proxy_url: the URL of a proxy, taken apart.
 *
 * Theory of operation: cut at "://", at the last '@' (a password may hold others, unescaped), at
 * the user's first ':'. What is left is a host and a port, and for config/address to judge. No
 * message quotes the text: it may hold a password, in places where it was not expected too.
 */
#include "config/proxy_url.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/xalloc.h"

static const char *const schemes[] = {
	[PROXY_HTTP] = "http",
	[PROXY_HTTPS] = "https",
	[PROXY_SOCKS5] = "socks5",
	[PROXY_SOCKS5H] = "socks5h",
};
_Static_assert(sizeof(schemes) / sizeof(*schemes) == PROXY_SCHEMES, "a word for each scheme");

bool proxy_url_is_http(const struct proxy_url *u)
{
	return u->scheme == PROXY_HTTP || u->scheme == PROXY_HTTPS;
}

const char *proxy_url_format(const struct proxy_url *u, char *buf, size_t size)
{
	char where[ADDRESS_TEXT_MAX];

	address_format(&u->address, where, sizeof(where)); /* tcp:HOST:PORT */
	snprintf(buf, size, "%s://%s", schemes[u->scheme], where + strlen("tcp:"));
	return buf;
}

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

void proxy_url_deinit(struct proxy_url *u)
{
	address_deinit(&u->address);
	wipe(u->user);
	wipe(u->password);
	*u = (struct proxy_url){ 0 };
}

static int hex(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	ch |= 0x20;
	return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* A user name or password without its %XX. NULL, or what is wrong with it. */
static const char *decode(const char *from, size_t len, char **to)
{
	char out[PROXY_WORD_MAX + 1];
	const char *bad = NULL;
	size_t n = 0;

	for (size_t i = 0; i < len && !bad; i++) {
		int ch = (unsigned char)from[i];

		if (ch == '%') {
			int high = i + 1 < len ? hex(from[i + 1]) : -1;
			int low = i + 2 < len ? hex(from[i + 2]) : -1;

			if (high < 0 || low < 0)
				bad = "has a % without two hexadecimal digits before its @; "
				      "expected %25 for %";
			ch = high * 16 + low;
			i += 2;
		}
		if (bad)
			break;
		if (ch < ' ' || ch == 0x7f)
			bad = "has a control character before its @";
		else if (n == PROXY_WORD_MAX)
			bad = "has a user name or password that is longer than 255 bytes";
		else
			out[n++] = (char)ch;
	}
	if (!bad)
		*to = xstrndup(out, n);
	explicit_bzero(out, sizeof(out));
	return bad;
}

/* USER[:PASSWORD]. */
static const char *parse_user(struct proxy_url *u, const char *from, size_t len)
{
	const char *colon = memchr(from, ':', len), *bad;
	size_t user = colon ? (size_t)(colon - from) : len;

	bad = decode(from, user, &u->user);
	if (!bad && strchr(u->user, ':') && proxy_url_is_http(u))
		bad = "has a user name with a ':', which HTTP cannot say";
	if (!bad && colon)
		bad = decode(colon + 1, len - user - 1, &u->password);
	if (!bad && !*u->user)
		bad = "has no user name before its @";
	return bad;
}

/* HOST:PORT[/]. NULL, or what is wrong, allocated. */
static char *parse_host(struct proxy_url *u, const char *from)
{
	size_t len = strlen(from);
	char *host, *whole, *why = NULL;

	if (len && from[len - 1] == '/')
		len--;
	host = xstrndup(from, len);
	whole = xasprintf("tcp:%s", host);
	if (strpbrk(host, "/?#"))
		why = xstrdup("has something behind its port; expected http://HOST:PORT");
	else if (address_parse(&u->address, whole, &why) < 0 || u->address.port == 0) {
		free(why);
		why = xstrdup("has no good host and port; expected http://HOST:PORT, such as "
			      "http://proxy.example:3128");
	}
	free(host);
	free(whole);
	return why;
}

static bool parse_scheme(struct proxy_url *u, const char *text, size_t len)
{
	for (u->scheme = 0; u->scheme < PROXY_SCHEMES; u->scheme++)
		if (strlen(schemes[u->scheme]) == len &&
		    strncasecmp(schemes[u->scheme], text, len) == 0)
			return true;
	return false;
}

int proxy_url_parse(struct proxy_url *u, const char *text, char **why)
{
	const char *end = strstr(text, "://"), *rest = end ? end + 3 : text;
	const char *at = strrchr(rest, '@'), *bad = NULL;
	struct proxy_url new = { .scheme = PROXY_HTTP };

	*why = NULL;
	if (end && !parse_scheme(&new, text, (size_t)(end - text)))
		bad = "is for another kind of proxy; expected " PROXY_URL_EXPECTED;
	else if (at)
		bad = parse_user(&new, rest, (size_t)(at - rest));
	if (bad)
		*why = xstrdup(bad);
	else
		*why = parse_host(&new, at ? at + 1 : rest);
	if (*why) {
		proxy_url_deinit(&new);
		return -EINVAL;
	}
	*u = new;
	return 0;
}
