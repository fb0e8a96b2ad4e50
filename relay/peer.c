/*
 * peer: who is at the other end of a socket.
 *
 * Theory of operation: asked of the kernel once, right after accept; a few bytes that print on
 * demand.
 */
#include "relay/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/vm_sockets.h>

void peer_of(struct peer *p, int fd, const struct sockaddr_storage *told)
{
	union {
		struct sockaddr_storage any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
	} from = { .any = *told };
	socklen_t len;
	struct ucred cred;

	memset(p, 0, sizeof(*p));
	p->family = from.any.ss_family;
	switch (p->family) {
	case AF_INET:
		memcpy(p->ip, &from.in.sin_addr, 4);
		p->port = ntohs(from.in.sin_port);
		break;
	case AF_INET6:
		p->port = ntohs(from.in6.sin6_port);
		if (IN6_IS_ADDR_V4MAPPED(&from.in6.sin6_addr)) {
			p->family = AF_INET;
			memcpy(p->ip, from.in6.sin6_addr.s6_addr + 12, 4);
		} else {
			memcpy(p->ip, &from.in6.sin6_addr, 16);
		}
		break;
	case AF_VSOCK:
		p->a = from.vm.svm_cid;
		p->b = from.vm.svm_port;
		break;
	case AF_UNIX:
		len = sizeof(cred);
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
			p->a = (uint32_t)cred.pid;
			p->b = cred.uid;
		}
		break;
	}
}

const char *peer_format(const struct peer *p, char *buf, size_t size)
{
	char ip[INET6_ADDRSTRLEN] = "?";

	switch (p->family) {
	case AF_INET:
		inet_ntop(AF_INET, p->ip, ip, sizeof(ip));
		snprintf(buf, size, "tcp:%s:%u", ip, p->port);
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, p->ip, ip, sizeof(ip));
		snprintf(buf, size, "tcp:[%s]:%u", ip, p->port);
		break;
	case AF_VSOCK:
		snprintf(buf, size, "vsock:%u:%u", p->a, p->b);
		break;
	case AF_UNIX:
		snprintf(buf, size, "unix:pid=%u,uid=%u", p->a, p->b);
		break;
	default:
		snprintf(buf, size, "unknown");
	}
	return buf;
}
