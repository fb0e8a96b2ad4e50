/*
 * who: which VM is at the other end of a connection, as far as the kernel vouches for it.
 *
 * Nothing here comes from the guest itself. What each fact proves: a CID is the guest's own, since
 * the host drops packets that claim another (any process inside that guest may have it; 1 and 2 are
 * processes of this host); a Unix peer's pid is that of its VMM, whose cgroup names the Kubernetes
 * pod or the libvirt domain; a socket's own path says which VM's folder it stands in.
 */
#ifndef QGS_BRIDGE_WHO_H
#define QGS_BRIDGE_WHO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "relay/peer.h"

#define WHO_KEY_MAX 96	  /* with NUL; longer ones are cut and end in '~' and a hash */
#define WHO_NAME_MAX 64	  /* the part of a path that '*' stood for, with NUL */
#define WHO_POD_MAX 64	  /* a Kubernetes pod uid, with NUL */
#define WHO_DOMAIN_MAX 96 /* a libvirt domain's name, with NUL; longer ones are cut */
#define WHO_LABEL_MAX 128 /* an SELinux label, with NUL; a longer one is no label: "" */

struct who {
	struct peer peer;
	/*
	 * The VM, as queues, limits, metrics and logs have it; the first that is known of
	 *   name:NAME      the socket stands in this VM's folder (a '*' in the listener's path)
	 *   cid:42         vsock; cid:42@NETNS in a network namespace other than the bridge's own
	 *   pod:UID        Kubernetes
	 *   domain:NAME    libvirt
	 *   pid:4711       any other Unix peer: one process is one VM; pid:0: all those of whom
	 *                  nothing is known: of another pid namespace, or gone since they came
	 *   port:1080      TCP: one port for each VM; @NETNS as above
	 */
	char vm[WHO_KEY_MAX];
	char name[WHO_NAME_MAX]; /* each of these "" if not known */
	char pod[WHO_POD_MAX];
	char domain[WHO_DOMAIN_MAX];
	char label[WHO_LABEL_MAX];
	bool unsure;	   /* whether pod and domain are "" because there is none is not known */
	uint32_t uid, gid; /* UINT32_MAX: not known */
	ino_t netns;	   /* the namespace of the listener; 0: not known */
	bool elsewhere;	   /* that is not the bridge's own: CIDs are given anew there */
};

/* What the socket that was connected to says. Strings are the caller's. */
struct who_place {
	const char *name; /* what '*' stood for, or NULL */
	uint32_t port;	  /* TCP */
	ino_t netns;	  /* of the listener */
	ino_t own_netns;  /* of the bridge itself */
};

/*
 * Asks the kernel about fd, just accepted from peer. Never fails: what is not known is "". For a
 * chardev, to which we connected: the peer is who listens there.
 */
void who_of(struct who *w, int fd, const struct peer *peer, const struct who_place *place);

/*
 * Reads a text of /proc/PID/cgroup for a pod's uid or a libvirt domain's name (systemd's escapes
 * undone, odd characters '?'). Pure; outputs are "" where there is none. Seen from inside of
 * another cgroup namespace than the host's, not all pods can be told.
 */
void who_read_cgroup(const char *text, size_t len, char pod[WHO_POD_MAX],
		     char domain[WHO_DOMAIN_MAX]);

/* "cid:42 (vsock:42:1025)", "pod:1234... (unix:pid=77,uid=107)". Returns buf. */
#define WHO_TEXT_MAX (WHO_KEY_MAX + PEER_TEXT_MAX + 8)
const char *who_format(const struct who *w, char *buf, size_t size);

#endif
