/*
 * no_proxy: the entries of NO_PROXY, as curl and Go's programs read them.
 *
 * Theory of operation: an entry is taken apart into host, port and prefix length, which also tells
 * if it is well-formed; then the two hosts are compared, as addresses if both are, else as names.
 * Where the two families of programs differ, more is understood: "*" and ports as Go does, a dot in
 * front as curl does (it covers the host itself too).
 */
#include "config/no_proxy.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#define ENTRY_MAX 300 /* a name, brackets, a port, a prefix */

struct entry {
	char host[ENTRY_MAX]; /* "" with any */
	bool any;
	bool is_address;
	int family;
	uint8_t address[16];
	uint32_t port;	 /* 0: every port */
	unsigned prefix; /* bits of the address that count */
};

/* AF_INET, AF_INET6 or 0. */
static int to_address(const char *text, uint8_t out[16])
{
	if (inet_pton(AF_INET, text, out) == 1)
		return AF_INET;
	return inet_pton(AF_INET6, text, out) == 1 ? AF_INET6 : 0;
}

static bool to_number(const char *text, uint32_t max, uint32_t *out)
{
	uint32_t n = 0;

	if (!*text || strlen(text) > 5)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		n = n * 10 + (uint32_t)(*text - '0');
	}
	*out = n;
	return n <= max;
}

/* Cuts off :PORT. An IPv6 address has colons of its own, so it has a port in brackets only. */
static bool take_port(struct entry *e)
{
	char *close = e->host[0] == '[' ? strchr(e->host, ']') : NULL;
	char *colon = strrchr(close ? close : e->host, ':');
	bool good = true;

	if (e->host[0] == '[' && (!close || (close[1] && close[1] != ':')))
		return false;
	if (colon && (close || strchr(e->host, ':') == colon)) {
		good = to_number(colon + 1, UINT16_MAX, &e->port) && e->port > 0;
		*colon = '\0';
	}
	if (close) {
		*close = '\0';
		memmove(e->host, e->host + 1, strlen(e->host));
	}
	return good;
}

static bool take_network(struct entry *e)
{
	char *slash = strchr(e->host, '/');
	uint32_t prefix, most;

	if (slash)
		*slash = '\0';
	e->family = to_address(e->host, e->address);
	e->is_address = e->family != 0;
	most = e->family == AF_INET ? 32 : 128;
	e->prefix = most;
	if (!slash)
		return true;
	if (!e->is_address || !to_number(slash + 1, most, &prefix))
		return false;
	e->prefix = prefix;
	return true;
}

/* As lax as the hosts that config/address lets be dialled. */
static bool is_name(const char *text)
{
	if (!*text)
		return false;
	for (; *text; text++)
		if (!(*text >= 'a' && *text <= 'z') && !(*text >= 'A' && *text <= 'Z') &&
		    !(*text >= '0' && *text <= '9') && !strchr("-_.", *text))
			return false;
	return true;
}

static bool parse(const char *text, size_t len, struct entry *e)
{
	size_t skip;

	*e = (struct entry){ 0 };
	if (len == 0 || len >= sizeof(e->host) || memchr(text, '\0', len))
		return false;
	memcpy(e->host, text, len);
	if (!memchr(e->host, '/', len) && !take_port(e))
		return false;
	e->any = strcmp(e->host, "*") == 0;
	if (e->any)
		return true;
	if (!take_network(e))
		return false;
	if (e->is_address)
		return true;
	skip = strncmp(e->host, "*.", 2) == 0 ? 2 : e->host[0] == '.' ? 1 : 0;
	memmove(e->host, e->host + skip, strlen(e->host) - skip + 1);
	len = strlen(e->host);
	if (len > 1 && e->host[len - 1] == '.')
		e->host[len - 1] = '\0';
	return is_name(e->host);
}

static bool same_network(const struct entry *e, const uint8_t address[16])
{
	unsigned whole = e->prefix / 8, rest = e->prefix % 8;

	if (memcmp(e->address, address, whole) != 0)
		return false;
	return rest == 0 || ((e->address[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

/* host is that name, or below it. */
static bool under(const char *name, const char *host)
{
	size_t len = strlen(host), n = strlen(name);

	if (len > 1 && host[len - 1] == '.')
		len--;
	return len >= n && strncasecmp(host + len - n, name, n) == 0 &&
	       (len == n || host[len - n - 1] == '.');
}

bool no_proxy_covers(const char *text, size_t len, const char *host, uint32_t port)
{
	uint8_t address[16];
	struct entry e;
	int family;

	if (!parse(text, len, &e) || (e.port && e.port != port))
		return false;
	if (e.any)
		return true;
	family = to_address(host, address);
	if (e.is_address)
		return family == e.family && same_network(&e, address);
	return !family && under(e.host, host);
}

bool no_proxy_list_covers(const char *list, const char *host, uint32_t port)
{
	while (*list) {
		size_t len = strcspn(list, NO_PROXY_BETWEEN);

		if (no_proxy_covers(list, len, host, port))
			return true;
		list += len;
		list += strspn(list, NO_PROXY_BETWEEN);
	}
	return false;
}

bool no_proxy_is_entry(const char *text)
{
	struct entry e;

	return parse(text, strlen(text), &e);
}
