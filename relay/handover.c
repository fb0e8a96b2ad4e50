/*
 * handover: all listening sockets of a running attest-relay, for whoever listens at them next.
 *
 * Theory of operation: the sockets are the gateway's and the admin's; a list of them is made
 * whenever it is needed. One heir at a time; when it is ready, both are told that the sockets are
 * somebody else's too, which leaves Unix paths in place when they are closed here. In systemd's
 * store each has the name of inherit.h, and is put there once; those of socket units of this
 * service (fd:NAME) never, systemd has them anyway. One that came from a process of another service
 * is stored like all others: the socket unit does not know this one.
 */
#include "relay/handover.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/admin.h"
#include "relay/gateway.h"
#include "relay/heir.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/notify.h"
#include "relay/opening.h"
#include "relay/sockets.h"

struct stored {
	char name[INHERIT_NAME_MAX];
	bool wanted;
	struct stored *next;
};

struct handover {
	struct event_base *base;
	struct gateway *gateway;
	struct admin *admin;
	void (*succeeded)(void *user, bool same_unit);
	void *user;
	struct heir *heir; /* NULL: none asks */
	bool over;         /* one has succeeded */
	struct stored *stored;
};

struct handover *handover_new(struct event_base *base, struct gateway *g, struct admin *admin,
			      void (*succeeded)(void *user, bool same_unit), void *user)
{
	struct handover *h = calloc(1, sizeof(*h));

	if (h)
		*h = (struct handover){ .base = base,
					.gateway = g,
					.admin = admin,
					.succeeded = succeeded,
					.user = user };
	return h;
}

/* ---- all there are ---- */

static void add(void *arg, const struct address *address, const struct bind_file *file, int fd)
{
	struct legacy *l = arg;
	void *more = realloc(l->at, (l->n + 1) * sizeof(*l->at));

	if (!more) {
		l->failed = true;
		return;
	}
	l->at = more;
	l->at[l->n++] = (struct handed){ address, file, fd };
}

/* at: to be freed. */
static struct legacy list(const struct handover *h)
{
	const struct sockets *s = h->gateway->sockets;
	struct legacy l = { 0 };

	for (size_t i = 0; s && i < s->n; i++)
		add(&l, &s->at[i]->address, &s->at[i]->file, s->at[i]->fd);
	admin_each_socket(h->admin, add, &l);
	return l;
}

static void let_go(struct handover *h)
{
	sockets_give_away(h->gateway->sockets);
	admin_give_away(h->admin);
}

/* ---- to an heir ---- */

static void on_ready(void *user, pid_t pid, bool same_unit)
{
	struct handover *h = user;

	log_info("takeover: process %d serves now; this one ends with its streams", (int)pid);
	h->over = true;
	let_go(h);
	atomic_store(&h->gateway->succeeded, true);
	opening_wake_all(h->gateway, NULL); /* whoever waits here waits in vain */
	if (same_unit)
		notify_main_pid(pid);
	h->succeeded(h->user, same_unit);
}

static void on_over(void *user)
{
	struct handover *h = user;

	h->heir = heir_free(h->heir);
}

static const struct heir_events events = { .ready = on_ready, .over = on_over };

void handover_asked(struct handover *h, int fd)
{
	struct legacy l;
	pid_t pid;

	if (!heir_may(fd, &pid)) {
		heir_refuse(fd, "403 Forbidden",
			    "only root and the user of this process may take "
			    "its place");
		return;
	}
	if (h->heir) {
		heir_refuse(fd, "409 Conflict", "another process is taking over just now");
		return;
	}
	if (h->over || atomic_load(&h->gateway->draining)) {
		heir_refuse(fd, "409 Conflict", "this process is ending already");
		return;
	}
	l = list(h);
	if (l.failed)
		heir_refuse(fd, "500 Internal Server Error", "out of memory");
	else
		h->heir = heir_new(h->base, fd, &l, &events, h);
	free(l.at);
}

/* ---- to systemd ---- */

static struct stored *find(const struct handover *h, const char *name)
{
	for (struct stored *s = h->stored; s; s = s->next)
		if (strcmp(s->name, name) == 0)
			return s;
	return NULL;
}

static void store_one(struct handover *h, const struct handed *what)
{
	char name[INHERIT_NAME_MAX];
	struct stored *s;

	if (inherit_by_unit(what->address) || !inherit_name(what->address, what->file, name))
		return;
	s = find(h, name);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s || !notify_store(name, what->fd)) {
			free(s);
			return;
		}
		memcpy(s->name, name, sizeof(name));
		s->next = h->stored;
		h->stored = s;
	}
	s->wanted = true;
}

void handover_store(struct handover *h)
{
	struct legacy l;

	if (!notify_has_store())
		return;
	l = list(h);
	for (struct stored *s = h->stored; s; s = s->next)
		s->wanted = l.failed; /* without memory for the list nothing is taken away */
	for (size_t i = 0; i < l.n; i++)
		store_one(h, &l.at[i]);
	free(l.at);
	for (struct stored **at = &h->stored, *s; (s = *at);) {
		if (s->wanted) {
			at = &s->next;
			continue;
		}
		notify_unstore(s->name);
		*at = s->next;
		free(s);
	}
}

void handover_forget(struct handover *h)
{
	struct stored *s;

	while ((s = h->stored)) {
		notify_unstore(s->name);
		h->stored = s->next;
		free(s);
	}
}

bool handover_is_under_way(const struct handover *h)
{
	return h->heir;
}

void handover_leave(struct handover *h)
{
	if (h->stored || h->heir)
		sockets_give_away(h->gateway->sockets);
}

struct handover *handover_free(struct handover *h)
{
	struct stored *s;

	if (!h)
		return NULL;
	if (h->stored || h->heir) /* the admin's, which served until now */
		admin_give_away(h->admin);
	while ((s = h->stored)) {
		h->stored = s->next;
		free(s);
	}
	heir_free(h->heir);
	free(h);
	return NULL;
}
