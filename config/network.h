/*
 * network: whom a setting means: a range of IP addresses, or whoever comes by a Unix socket.
 *
 *   10.0.0.0/8   192.0.2.7   2001:db8::/32   ::1   unix
 */
#ifndef CONFIG_NETWORK_H
#define CONFIG_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum network_kind { NETWORK_NONE, NETWORK_UNIX, NETWORK_IPV4, NETWORK_IPV6 };

struct network {
	enum network_kind kind;
	unsigned bits;  /* of the address that count, from its first */
	uint8_t ip[16]; /* IPv4 in the first four; the other bits are 0 */
};

#define NETWORK_TEXT_MAX 64

/* NULL; or what is wrong with text, in words that follow it, and n is untouched. */
const char *network_parse(struct network *n, const char *text);
/* Writes what network_parse reads. Returns buf. */
const char *network_format(const struct network *n, char *buf, size_t size);
/* IPv4 addresses are in IPv4 networks only. kind: how many bytes there are. */
bool network_has_ip(const struct network *n, enum network_kind kind, const uint8_t *ip);

#endif
