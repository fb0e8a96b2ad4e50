/*
 * address: a place to listen on or to dial, written the same in every config, flag and log.
 *
 *   tcp:HOST:PORT  tcp:[::1]:PORT    HOST a name or an IP address
 *   unix:/path     unix:@abstract
 *   vsock:CID:PORT                   CID any | hypervisor | local | host | N
 *   hybrid:/path:PORT                Unix-backed vsock (Firecracker, Cloud Hypervisor)
 *   fd:NAME                          a socket handed over by systemd (sd_listen_fds_with_names(3))
 *   service:kbs.acme                 a target behind a relay
 *   tunnel                           a target only: whichever tunnel offers the service
 */
#ifndef CONFIG_ADDRESS_H
#define CONFIG_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum address_kind {
	ADDRESS_NONE,
	ADDRESS_TCP,
	ADDRESS_UNIX,
	ADDRESS_VSOCK,
	ADDRESS_HYBRID,
	ADDRESS_FD,
	ADDRESS_SERVICE,
	ADDRESS_TUNNEL,
	ADDRESS_KINDS
};

struct address {
	enum address_kind kind;
	char *name;    /* TCP: host, without brackets; UNIX: path, or @name; HYBRID: path; FD: its
			* name; SERVICE: the service. Owned. */
	uint32_t cid;  /* VSOCK: VMADDR_CID_ANY (-1), 0, 1, 2 or a guest's */
	uint32_t port; /* TCP 1..65535 (0 only to listen: any free port), VSOCK, HYBRID */
};

#define ADDRESS_TEXT_MAX 512 /* any address written out, with its NUL */

/*
 * 0, or -EINVAL with *why an allocated line that says what was expected; a is untouched then.
 */
int address_parse(struct address *a, const char *text, char **why)
	__attribute__((warn_unused_result));
bool address_has_kind(const char *text); /* it begins as one of the kinds does */
/* Writes what address_parse reads. Returns buf. */
const char *address_format(const struct address *a, char *buf, size_t size);
int address_copy(struct address *to, const struct address *from); /* 0 or -ENOMEM */
bool address_equal(const struct address *a, const struct address *b);
void address_deinit(struct address *a); /* zeroes it; twice is fine */

/*
 * Service names: SERVICE.OWNER. Each label: letters, digits and '-', 1 to 63, neither first nor
 * last '-'; compared without case, kept in lower case. (So they are safe as HTTP authority and
 * as DNS labels.)
 */
bool name_is_label(const char *text);
bool name_is_service(const char *text); /* exactly two labels */
bool name_is_host(const char *text);	/* a DNS name: labels joined by dots, 253 at most */

/*
 * 127.0.0.0/8, ::1 or localhost: TCP tells nothing of who calls, but there it is a process of this
 * machine (and network namespace).
 */
bool host_is_loopback(const char *host);
#define HOST_SIZE 256 /* longest host, and a NUL */
/* host as certificates and SNI have it: without the root's dot at its end. Returns buf. */
const char *host_plain(const char *host, char buf[HOST_SIZE]);

#endif
