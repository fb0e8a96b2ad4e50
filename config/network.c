/*
 * network: ranges of IP addresses, read and compared.
 *
 * Theory of operation: pure functions. An address with bits behind its prefix is refused, since one
 * of the two is a mistake; so are IPv4 addresses mapped into IPv6, which no peer ever has here.
 */
#include "config/network.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static unsigned width(enum network_kind kind)
{
	return kind == NETWORK_IPV4 ? 32 : 128;
}

static bool prefix(const char *text, unsigned max, unsigned *bits)
{
	unsigned n = 0;

	if (!*text || strlen(text) > 3 || (text[0] == '0' && text[1]))
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		n = n * 10 + (unsigned)(*text - '0');
	}
	*bits = n;
	return n <= max;
}

static bool bit(const uint8_t *ip, unsigned i)
{
	return ip[i / 8] & 0x80 >> i % 8;
}

const char *network_parse(struct network *n, const char *text)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	struct network found = { .kind = strchr(text, ':') ? NETWORK_IPV6 : NETWORK_IPV4 };
	size_t len = strcspn(text, "/");
	char ip[INET6_ADDRSTRLEN];

	if (strcmp(text, "unix") == 0) {
		*n = (struct network){ .kind = NETWORK_UNIX };
		return NULL;
	}
	if (len >= sizeof(ip))
		return "is not an IP address";
	memcpy(ip, text, len);
	ip[len] = '\0';
	if (inet_pton(found.kind == NETWORK_IPV4 ? AF_INET : AF_INET6, ip, found.ip) != 1)
		return "is not an IP address";
	if (found.kind == NETWORK_IPV6 && memcmp(found.ip, mapped, sizeof(mapped)) == 0)
		return "is an IPv4 address inside IPv6, which is to be written as IPv4";
	found.bits = width(found.kind);
	if (text[len] && !prefix(text + len + 1, found.bits, &found.bits))
		return "has no good number of bits after its /";
	for (unsigned i = found.bits; i < width(found.kind); i++)
		if (bit(found.ip, i))
			return "has more bits in its address than the number after / counts";
	*n = found;
	return NULL;
}

const char *network_format(const struct network *n, char *buf, size_t size)
{
	char ip[INET6_ADDRSTRLEN];

	if (n->kind == NETWORK_UNIX || n->kind == NETWORK_NONE) {
		snprintf(buf, size, "%s", n->kind == NETWORK_UNIX ? "unix" : "none");
		return buf;
	}
	inet_ntop(n->kind == NETWORK_IPV4 ? AF_INET : AF_INET6, n->ip, ip, sizeof(ip));
	snprintf(buf, size, "%s/%u", ip, n->bits);
	return buf;
}

bool network_has_ip(const struct network *n, enum network_kind kind, const uint8_t *ip)
{
	unsigned whole = n->bits / 8;

	if (n->kind != kind || memcmp(n->ip, ip, whole) != 0)
		return false;
	for (unsigned i = whole * 8; i < n->bits; i++)
		if (bit(n->ip, i) != bit(ip, i))
			return false;
	return true;
}
