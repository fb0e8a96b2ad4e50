/*
 * who: which VM is at the other end of a connection.
 *
 * Theory of operation: facts are asked of the kernel once, right after accept, and kept as text.
 *
 * A pid is a name that is given again: the process is pinned by a pidfd (the socket's own, from
 * Linux 6.5 on; else one opened for the pid), its cgroup is read, and if the pidfd then says that
 * the process is gone, what was read may be another's and is not believed. Whoever has gone by then
 * shares one key with all who have: else a pod could be as many VMs as it has processes to end.
 *
 * A cgroup path is made from its outside in: whoever runs a container or a VM decides about the
 * outer part, who is in it may add to the inner one and call it what he likes. So the outermost
 * part that names a VM counts; one that looks as if and is none ends the search. A path that begins
 * with ".." is seen from inside of a cgroup namespace: what it begins with is hidden, so nothing
 * may stand before the part that counts. Below user.slice nothing does: users make that themselves.
 *
 * What becomes part of a name has no characters but letters, digits, '.', '_', '-'.
 */
#include "qgs-bridge/who.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "relay/hash.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define CGROUP_MAX 4096 /* of /proc/PID/cgroup: more is not looked at */

/* A component of a path, or a piece of one. */
struct piece {
	const char *at;
	size_t len;
};

static bool is(struct piece p, const char *text)
{
	return p.len == strlen(text) && memcmp(p.at, text, p.len) == 0;
}

/* If it begins with text: takes that away. */
static bool take(struct piece *p, const char *text)
{
	size_t len = strlen(text);

	if (p->len < len || memcmp(p->at, text, len) != 0)
		return false;
	p->at += len;
	p->len -= len;
	return true;
}

/* If text is in it: cuts it off there. */
static bool cut_at(struct piece *p, const char *text)
{
	const char *found = memmem(p->at, p->len, text, strlen(text));

	if (!found)
		return false;
	p->len = (size_t)(found - p->at);
	return true;
}

/* The same where it is for the last time. */
static bool cut_at_last(struct piece *p, const char *text)
{
	size_t len = strlen(text);

	for (size_t end = p->len; end >= len; end--)
		if (memcmp(p->at + end - len, text, len) == 0) {
			p->len = end - len;
			return true;
		}
	return false;
}

static bool ends_with(struct piece p, const char *text)
{
	size_t len = strlen(text);

	return p.len >= len && memcmp(p.at + p.len - len, text, len) == 0;
}

static bool is_name_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       c == '.' || c == '_' || c == '-';
}

/* The next component of a path that is left. False: there is none. */
static bool next_component(struct piece *path, struct piece *c)
{
	const char *slash;

	while (take(path, "/"))
		;
	if (!path->len)
		return false;
	slash = memchr(path->at, '/', path->len);
	c->at = path->at;
	c->len = slash ? (size_t)(slash - path->at) : path->len;
	path->at += c->len;
	path->len -= c->len;
	return true;
}

/* systemd: '-' in the uid is written '_'. A uid that is none leaves pod empty. */
static void take_pod(struct piece uid, bool systemd, char pod[WHO_POD_MAX])
{
	if (!uid.len || uid.len >= WHO_POD_MAX)
		return;
	for (size_t i = 0; i < uid.len; i++)
		if (!is_name_char(uid.at[i]))
			return;
	for (size_t i = 0; i < uid.len; i++)
		pod[i] = systemd && uid.at[i] == '_' ? '-' : uid.at[i];
	pod[uid.len] = '\0';
}

/*
 * The kubelet's with the systemd driver: kubepods-burstable-podUID.slice, the name of one slice
 * telling the whole way; or the same with ":cri-containerd:ID" behind it, where the runtime was
 * told of another driver. False: one of the slices above it.
 */
static bool read_pod_slice(struct piece rest, char pod[WHO_POD_MAX])
{
	if (!take(&rest, "-burstable"))
		take(&rest, "-besteffort");
	if (!take(&rest, "-pod"))
		return false;
	if (cut_at(&rest, ".slice"))
		take_pod(rest, true, pod);
	return true;
}

/* With the cgroupfs driver: kubepods/burstable/podUID. path: what follows kubepods. */
static void read_pod_folder(struct piece path, char pod[WHO_POD_MAX])
{
	struct piece c;

	if (!next_component(&path, &c))
		return;
	if ((is(c, "burstable") || is(c, "besteffort")) && !next_component(&path, &c))
		return;
	if (take(&c, "pod"))
		take_pod(c, false, pod);
}

/* hidden: the outer part of the path is not seen. */
static void read_pod(struct piece path, bool hidden, char pod[WHO_POD_MAX])
{
	struct piece c, rest;

	for (bool outermost = true; next_component(&path, &c); outermost = false) {
		if (outermost && is(c, "user.slice"))
			return;
		rest = c;
		take(&rest, "kubelet-"); /* its --cgroup-root, as kind has it */
		if (take(&rest, "kubepods")) {
			if (!rest.len) {
				read_pod_folder(path, pod);
				return;
			}
			if (read_pod_slice(rest, pod))
				return;
		} else if (hidden && !is(c, "kubelet") && !is(c, "kubelet.slice")) {
			return;
		}
	}
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* systemd's \xHH undone: to has room for as much as from has. */
static struct piece unescape(struct piece from, char *to)
{
	size_t n = 0;

	for (size_t i = 0; i < from.len; n++) {
		const char *p = from.at + i;

		if (from.len - i >= 4 && p[0] == '\\' && p[1] == 'x' && hex(p[2]) >= 0 &&
		    hex(p[3]) >= 0) {
			to[n] = (char)(hex(p[2]) << 4 | hex(p[3]));
			i += 4;
		} else {
			to[n] = *p;
			i++;
		}
	}
	return (struct piece){ to, n };
}

/* qemu-3-NAME, as libvirt names what it starts. */
static void take_domain(struct piece machine, char domain[WHO_DOMAIN_MAX])
{
	size_t digits = 0;

	if (!take(&machine, "qemu-") && !take(&machine, "ch-"))
		return;
	while (digits < machine.len && machine.at[digits] >= '0' && machine.at[digits] <= '9')
		digits++;
	machine.at += digits;
	machine.len -= digits;
	if (!digits || !take(&machine, "-"))
		return;
	if (machine.len >= WHO_DOMAIN_MAX)
		machine.len = WHO_DOMAIN_MAX - 1;
	for (size_t i = 0; i < machine.len; i++)
		domain[i] = is_name_char(machine.at[i]) ? machine.at[i] : '?';
	domain[machine.len] = '\0';
}

/*
 * machine.slice/[machine-PARTITION.slice/]machine-qemu\x2d3\x2dNAME.scope by systemd, or
 * machine/[PARTITION.partition/]qemu-3-NAME.libvirt-qemu; libvirt's own folders are below.
 */
static void read_domain(struct piece path, char domain[WHO_DOMAIN_MAX])
{
	char name[NAME_MAX + 1];
	bool systemd;
	struct piece c;

	if (!next_component(&path, &c) || (!is(c, "machine.slice") && !is(c, "machine")))
		return;
	systemd = is(c, "machine.slice");
	do
		if (!next_component(&path, &c))
			return;
	while (ends_with(c, systemd ? ".slice" : ".partition"));
	if (!systemd) {
		if (cut_at_last(&c, ".libvirt-")) /* a name may have it, too */
			take_domain(c, domain);
	} else if (ends_with(c, ".scope") && c.len < sizeof(name) && take(&c, "machine-")) {
		c.len -= strlen(".scope");
		take_domain(unescape(c, name), domain);
	}
}

static void read_path(struct piece path, char pod[WHO_POD_MAX], char domain[WHO_DOMAIN_MAX])
{
	struct piece ahead = path, c;
	bool hidden = false;

	while (next_component(&ahead, &c) && is(c, "..")) {
		path = ahead;
		hidden = true;
	}
	read_domain(path, domain);
	if (!domain[0])
		read_pod(path, hidden, pod);
}

void who_read_cgroup(const char *text, size_t len, char pod[WHO_POD_MAX],
		     char domain[WHO_DOMAIN_MAX])
{
	struct piece rest = { text, len };
	const char *end;

	pod[0] = domain[0] = '\0';
	/* a line without its end has been cut off, and so might be a name */
	while (!pod[0] && !domain[0] && rest.len && (end = memchr(rest.at, '\n', rest.len))) {
		struct piece line = { rest.at, (size_t)(end - rest.at) };

		rest.at += line.len + 1;
		rest.len -= line.len + 1;
		for (int colons = 0; colons < 2 && line.len; line.at++, line.len--)
			colons += *line.at == ':';
		read_path(line, pod, domain); /* HIERARCHY:CONTROLLERS:PATH */
	}
}

/* A pidfd of who connected; -1: gone, or the kernel cannot say. */
static int pin(int fd, pid_t pid)
{
	int pidfd = -1;
	socklen_t len = sizeof(pidfd);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0)
		return pidfd;
	return errno == ENOPROTOOPT ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

static bool lives(int pidfd)
{
	struct pollfd end = { .fd = pidfd, .events = POLLIN };

	return poll(&end, 1, 0) == 0;
}

static size_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return 0;
	while (len < size && (n = read(fd, buf + len, size - len)) > 0)
		len += (size_t)n;
	close(fd);
	return len;
}

/* False: it is gone. */
static bool ask_cgroup(struct who *w, int fd, pid_t pid)
{
	char path[64], text[CGROUP_MAX];
	int pidfd = pin(fd, pid);
	size_t len;
	bool alive;

	if (pidfd < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	len = read_file(path, text, sizeof(text));
	who_read_cgroup(text, len, w->pod, w->domain);
	alive = lives(pidfd);
	if (!alive)
		w->pod[0] = w->domain[0] = '\0';
	w->unsure = !alive || !len;
	close(pidfd);
	return alive;
}

/*
 * user:role:type or user:role:type:level. Other security modules have other labels, and mean other
 * things by them.
 */
static bool is_selinux(const char *label, size_t len)
{
	unsigned colons = 0;

	for (size_t i = 0; i < len; i++) {
		if (label[i] == ':') {
			if (i == 0 || i + 1 == len || label[i - 1] == ':')
				return false;
			colons++;
		} else if (!is_name_char(label[i]) && !(label[i] == ',' && colons > 2)) {
			return false;
		}
	}
	return colons >= 2;
}

static void ask_label(struct who *w, int fd)
{
	char label[WHO_LABEL_MAX];
	socklen_t len = sizeof(label);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERSEC, label, &len) < 0)
		return; /* no such label, or it is too long */
	len = (socklen_t)strnlen(label, len);
	if (len >= sizeof(label) || !is_selinux(label, len))
		return;
	memcpy(w->label, label, len);
	w->label[len] = '\0';
}

/* The pid that it is to be told from others by; 0: it cannot be. */
static uint32_t ask_unix(struct who *w, int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	w->unsure = true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return 0;
	w->uid = cred.uid;
	w->gid = cred.gid;
	ask_label(w, fd);
	/* 0: in a namespace that we do not see into */
	return cred.pid > 0 && ask_cgroup(w, fd, cred.pid) ? (uint32_t)cred.pid : 0;
}

/* The hash is the same at any time, so that dashboards and rules may rely on it. */
static void shorten(char vm[WHO_KEY_MAX], const char *key)
{
	static const struct hash_key fixed = { { 0, 0 } };
	int head = WHO_KEY_MAX - 1 - 17;

	if (strlen(key) < WHO_KEY_MAX)
		snprintf(vm, WHO_KEY_MAX, "%s", key);
	else
		snprintf(vm, WHO_KEY_MAX, "%.*s~%016llx", head, key,
			 (unsigned long long)hash_string(&fixed, key));
}

static void name_vm(struct who *w, const struct who_place *place, uint32_t pid)
{
	char key[PATH_MAX], at[24] = "";

	if (w->elsewhere)
		snprintf(at, sizeof(at), "@%llu", (unsigned long long)place->netns);
	if (place->name)
		snprintf(key, sizeof(key), "name:%s", place->name);
	else if (w->peer.family == AF_VSOCK)
		snprintf(key, sizeof(key), "cid:%u%s", w->peer.a, at);
	else if (w->pod[0])
		snprintf(key, sizeof(key), "pod:%s", w->pod);
	else if (w->domain[0])
		snprintf(key, sizeof(key), "domain:%s", w->domain);
	else if (w->peer.family == AF_UNIX)
		snprintf(key, sizeof(key), "pid:%u", pid);
	else
		snprintf(key, sizeof(key), "port:%u%s", place->port, at);
	shorten(w->vm, key);
}

void who_of(struct who *w, int fd, const struct peer *peer, const struct who_place *place)
{
	memset(w, 0, sizeof(*w));
	w->peer = *peer;
	w->uid = w->gid = UINT32_MAX;
	w->netns = place->netns;
	w->elsewhere = place->netns && place->netns != place->own_netns;
	if (place->name && strlen(place->name) < sizeof(w->name))
		strcpy(w->name, place->name);
	name_vm(w, place, peer->family == AF_UNIX ? ask_unix(w, fd) : 0);
}

const char *who_format(const struct who *w, char *buf, size_t size)
{
	char peer[PEER_TEXT_MAX];

	snprintf(buf, size, "%s (%s)", w->vm, peer_format(&w->peer, peer, sizeof(peer)));
	return buf;
}
