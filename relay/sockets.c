/*
 * sockets: the relay's listening sockets, one counted object for each address listened at.
 *
 * Theory of operation: a set is made whole or not at all. First each listener of the new config
 * takes over the former set's socket of its name and address, then that of its address alone (it
 * has another name now), and only for the rest sockets are opened. Addresses are compared as they
 * are written. One that overlaps another (0.0.0.0 and 127.0.0.1 at the same port) is opened beside
 * it if that is not in the new set, and listens at once: nobody is refused, and what came of it
 * can still be thrown away.
 *
 * A path is removed only if it is still the file that was bound here: who replaces the socket file
 * of a listener that is about to go keeps his.
 */
#include "relay/sockets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "relay/log.h"
#include "relay/names.h"
#include "relay/why.h"

#define PRIVILEGED_PORTS 1024 /* those below */

/* ---- one ---- */

struct listening *sockets_hold(struct listening *l)
{
	atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
	return l;
}

struct listening *sockets_put(struct listening *l)
{
	if (!l || atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	bind_release(&l->address, l->fd, atomic_load(&l->given_away) ? NULL : &l->file);
	address_deinit(&l->address);
	free(l->name);
	free(l);
	return NULL;
}

static struct listening *listening_new(const struct listener_config *config)
{
	struct listening *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	atomic_init(&l->refs, 1);
	l->fd = -1;
	l->name = strdup(config->name);
	if (!l->name || address_copy(&l->address, &config->address) < 0)
		return sockets_put(l);
	return l;
}

/* ---- opening ---- */

static bool is_taken(const struct sockets *s, const struct listening *l)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->at[i] == l)
			return true;
	return false;
}

/* May be in the way of l by its port, though not the same address. */
static bool is_near(const struct listening *one, const struct address *at)
{
	const struct address *a = &one->address;

	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a set is whole or freed */
	return a->kind == at->kind && a->port == at->port && a->port &&
	       (a->kind == ADDRESS_TCP || a->kind == ADDRESS_VSOCK);
}

/* Those that are near, and are not of the new set s: into fds, of before->n. How many. */
static size_t list_leaving(const struct sockets *s, const struct sockets *before,
			   const struct listener_config *l, int *fds)
{
	size_t n = 0;

	for (size_t i = 0; i < before->n; i++)
		if (is_near(before->at[i], &l->address) && !is_taken(s, before->at[i]))
			fds[n++] = before->at[i]->fd;
	return n;
}

static const struct listening *find_near(const struct sockets *s, const struct address *a)
{
	for (size_t i = 0; s && i < s->n; i++)
		if (s->at[i] && is_near(s->at[i], a))
			return s->at[i];
	return NULL;
}

/* What people can do about it. s: the new set, so far. */
static void add_hint(char **why, const struct sockets *s, const struct sockets *before,
		     const struct listener_config *l, int error)
{
	const struct listening *stays = error == EADDRINUSE ? find_near(s, &l->address) : NULL;
	const struct listening *goes = error == EADDRINUSE ? find_near(before, &l->address) : NULL;
	const bool low = l->address.kind == ADDRESS_TCP && l->address.port < PRIVILEGED_PORTS;
	char where[ADDRESS_TEXT_MAX], *said = *why;

	if (stays)
		why_say(why,
			"%s; listener %s at %s overlaps it, and is in this config, too: only one "
			"of them can be",
			said, stays->name, address_format(&stays->address, where, sizeof(where)));
	else if (goes)
		why_say(why,
			"%s; the relay itself listens at %s (listener %s): take that away with a "
			"reload of its own first, or restart",
			said, address_format(&goes->address, where, sizeof(where)), goes->name);
	else if (before && (error == EACCES || error == EPERM))
		why_say(why, "%s; it needs a restart (%s)", said,
			low ? "the relay gives up its privileges when it has started"
			    : "the sandbox has only the folders that were needed at the start");
	else
		return;
	free(said);
}

/* One more thing that is wrong, behind what was before. */
static void add_complaint(char **why, const struct listener_config *l, char *complaint)
{
	char *said = *why;

	why_say(why, "%s%slistener %s: %s", said ? said : "", said ? "; " : "", l->name,
		complaint ? complaint : "out of memory");
	free(said);
	free(complaint);
}

/* Where l is to be, beside those of before that are not in s. A socket; -1: *why and errno. */
static int listen_at(const struct address *at, const struct sockets *s,
		     const struct sockets *before, const struct listener_config *l, char **why)
{
	struct bind_access access = { 0 };
	int *leaving =
		before && at->kind == ADDRESS_TCP ? calloc(before->n + 1, sizeof(int)) : NULL;
	int fd, error;

	if (leaving)
		access.n_leaving = list_leaving(s, before, l, leaving);
	access.leaving = leaving;
	fd = access.n_leaving ? bind_listen_with(at, &access, NULL, NULL, why)
			      : bind_listen(at, why);
	error = errno;
	free(leaving);
	errno = error;
	return fd;
}

static struct listening *open_one(const struct sockets *s, const struct sockets *before,
				  const struct listener_config *l, const struct names *names,
				  char **why)
{
	const struct address at = names_apply(names, &l->address);
	struct listening *made = listening_new(l);
	char *complaint = NULL, where[ADDRESS_TEXT_MAX];

	errno = 0;
	if (made)
		made->fd = listen_at(&at, s, before, l, &complaint);
	if (made && made->fd >= 0) {
		bind_identify(&l->address, &made->file);
		log_info("listener %s at %s", l->name,
			 bind_describe(&l->address, made->fd, where, sizeof(where)));
		return made;
	}
	if (complaint)
		add_hint(&complaint, s, before, l, errno);
	add_complaint(why, l, complaint);
	return sockets_put(made);
}

/* ---- the set ---- */

static struct listening *take_over(const struct sockets *s, const struct sockets *before,
				   const struct listener_config *l, bool by_name)
{
	for (size_t i = 0; before && i < before->n; i++) {
		struct listening *old = before->at[i];

		if (address_equal(&old->address, &l->address) && !is_taken(s, old) &&
		    (!by_name || strcmp(old->name, l->name) == 0))
			return sockets_hold(old);
	}
	return NULL;
}

bool sockets_have(const struct sockets *s, const struct address *a)
{
	for (size_t i = 0; s && i < s->n; i++)
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a set is whole or freed */
		if (address_equal(&s->at[i]->address, a))
			return true;
	return false;
}

struct sockets *sockets_open(const struct sockets *before, const struct relay_config *c,
			     const struct names *names, char **why)
{
	struct sockets *s = calloc(1, sizeof(*s) + c->n_listeners * sizeof(struct listening *));
	bool good = true;

	*why = NULL;
	if (!s)
		return NULL;
	s->n = c->n_listeners;
	for (size_t i = 0; i < s->n; i++)
		s->at[i] = take_over(s, before, &c->listeners[i], true);
	for (size_t i = 0; i < s->n; i++)
		if (!s->at[i])
			s->at[i] = take_over(s, before, &c->listeners[i], false);
	for (size_t i = 0; i < s->n; i++) {
		if (!s->at[i])
			s->at[i] = open_one(s, before, &c->listeners[i], names, why);
		good = good && s->at[i];
	}
	return good ? s : sockets_close(s);
}

struct sockets *sockets_close(struct sockets *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		sockets_put(s->at[i]);
	free(s);
	return NULL;
}

void sockets_yield(const struct sockets *before, const struct sockets *now)
{
	bool any = false;

	for (size_t i = 0; i < before->n; i++) {
		const struct listening *old = before->at[i];

		if (old->address.kind != ADDRESS_TCP || is_taken(now, old) ||
		    !find_near(now, &old->address))
			continue;
		bind_begin_no_more(old->fd);
		any = true;
	}
	if (any)
		nanosleep(&(struct timespec){ .tv_nsec = SOCKETS_YIELD_MS * 1000000L }, NULL);
}

void sockets_give_away(struct sockets *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		atomic_store(&s->at[i]->given_away, true);
}
