/*
 * peer: who is at the other end of a socket.
 *
 * Theory of operation: asked of the kernel once, right after accept, or told by a PROXY header; a
 * few bytes that print on demand.
 */
#include "relay/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/vm_sockets.h>

#include "relay/line.h"

#define NO_UID UINT32_MAX /* no user has it: chown(2) */

void peer_set_ip(struct peer *p, int family, const uint8_t *ip, uint16_t port)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	bool is_mapped = family == AF_INET6 && memcmp(ip, mapped, sizeof(mapped)) == 0;

	memset(p, 0, sizeof(*p));
	p->family = family == AF_INET || is_mapped ? AF_INET : AF_INET6;
	p->port = port;
	memcpy(p->ip, is_mapped ? ip + sizeof(mapped) : ip, p->family == AF_INET ? 4 : 16);
}

void peer_set_unix(struct peer *p)
{
	*p = (struct peer){ .family = AF_UNIX, .b = NO_UID };
}

union any_address {
	struct sockaddr_storage any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_vm vm;
};

static void set(struct peer *p, const union any_address *a)
{
	switch (a->any.ss_family) {
	case AF_INET:
		peer_set_ip(p, AF_INET, (const uint8_t *)&a->in.sin_addr, ntohs(a->in.sin_port));
		break;
	case AF_INET6:
		peer_set_ip(p, AF_INET6, a->in6.sin6_addr.s6_addr, ntohs(a->in6.sin6_port));
		break;
	case AF_VSOCK:
		*p = (struct peer){ .family = AF_VSOCK, .a = a->vm.svm_cid, .b = a->vm.svm_port };
		break;
	default:
		*p = (struct peer){ .family = a->any.ss_family };
	}
}

void peer_of(struct peer *p, int fd, const struct sockaddr_storage *told)
{
	const union any_address from = { .any = *told };
	struct ucred cred;
	socklen_t len = sizeof(cred);

	set(p, &from);
	if (p->family != AF_UNIX)
		return;
	peer_set_unix(p);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
		p->a = (uint32_t)cred.pid;
		p->b = cred.uid;
	}
}

void peer_of_remote(struct peer *p, int fd)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);

	if (getpeername(fd, (struct sockaddr *)&at, &len) < 0)
		at.ss_family = AF_UNSPEC;
	peer_of(p, fd, &at);
}

void peer_of_local(struct peer *p, int fd)
{
	union any_address at = { 0 };
	socklen_t len = sizeof(at);

	if (getsockname(fd, (struct sockaddr *)&at, &len) < 0)
		at.any.ss_family = AF_UNSPEC;
	set(p, &at);
}

/* Decimal digits alone, up to max; what ends it is for the caller. NULL: none. */
static const char *number(const char *text, uint32_t max, uint32_t *value)
{
	uint64_t n = 0;
	const char *at = text;

	for (; *at >= '0' && *at <= '9' && n <= max; at++)
		n = n * 10 + (uint64_t)(*at - '0');
	*value = (uint32_t)n;
	return at == text || n > max ? NULL : at;
}

static bool parse_tcp(struct peer *p, const char *text)
{
	int family = text[0] == '[' ? AF_INET6 : AF_INET;
	const char *ip = family == AF_INET6 ? text + 1 : text;
	size_t len = strcspn(ip, family == AF_INET6 ? "]" : ":");
	char copy[INET6_ADDRSTRLEN];
	const char *end = ip + len;
	uint8_t bytes[16];
	uint32_t port;

	if (len >= sizeof(copy))
		return false;
	memcpy(copy, ip, len);
	copy[len] = '\0';
	if (family == AF_INET6 && *end++ != ']')
		return false;
	if (*end++ != ':' || inet_pton(family, copy, bytes) != 1)
		return false;
	end = number(end, UINT16_MAX, &port);
	if (!end || *end)
		return false;
	peer_set_ip(p, family, bytes, (uint16_t)port);
	return true;
}

bool peer_parse(struct peer *p, const char *text)
{
	uint32_t cid, port;

	if (strncmp(text, "tcp:", 4) == 0)
		return parse_tcp(p, text + 4);
	if (strncmp(text, "vsock:", 6) != 0)
		return false;
	text = number(text + 6, UINT32_MAX, &cid);
	if (!text || *text != ':')
		return false;
	text = number(text + 1, UINT32_MAX, &port);
	if (!text || *text)
		return false;
	*p = (struct peer){ .family = AF_VSOCK, .a = cid, .b = port };
	return true;
}

static void put_ip(struct line *l, const struct peer *p)
{
	char text[INET6_ADDRSTRLEN] = "?";

	if (p->family == AF_INET6) {
		inet_ntop(AF_INET6, p->ip, text, sizeof(text));
		line_put(l, '[');
		line_text(l, text);
		line_put(l, ']');
		return;
	}
	for (unsigned i = 0; i < 4; i++) {
		if (i)
			line_put(l, '.');
		line_number(l, p->ip[i]);
	}
}

/* Without printf(3), which took a tenth of what a short stream costs. */
const char *peer_format(const struct peer *p, char *buf, size_t size)
{
	struct line l = { buf, 0, size - 1 };

	switch (p->family) {
	case AF_INET:
	case AF_INET6:
		line_text(&l, "tcp:");
		put_ip(&l, p);
		line_put(&l, ':');
		line_number(&l, p->port);
		break;
	case AF_VSOCK:
		line_text(&l, "vsock:");
		line_number(&l, p->a);
		line_put(&l, ':');
		line_number(&l, p->b);
		break;
	case AF_UNIX:
		line_text(&l, "unix");
		if (p->b == NO_UID)
			break;
		line_text(&l, ":pid=");
		line_number(&l, p->a);
		line_text(&l, ",uid=");
		line_number(&l, p->b);
		break;
	default:
		line_text(&l, "unknown");
	}
	buf[l.used] = '\0';
	return buf;
}
