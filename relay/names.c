/*
 * names: this machine's addresses by name, asked for in a thread of its own.
 *
 * Theory of operation: getaddrinfo can be neither bounded nor called off. So it runs in a thread
 * that nobody joins, one name after the other. What it asks and finds is held by both sides, and
 * goes with the last of them; an eventfd says when all is there. Whoever asked waits so long, and
 * leaves it: the thread ends with its present name.
 *
 * Each question's answered is set last, and read first: what came before it is then to be seen.
 */
#include "relay/names.h"

#include <errno.h>
#include <event2/event.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define IP_TEXT_MAX (INET6_ADDRSTRLEN + 1 + IF_NAMESIZE) /* fe80::1%eth0 */

struct question {
	char *host;
	char ip[IP_TEXT_MAX];
	int error; /* of getaddrinfo; 0: there is ip */
	atomic_bool answered;
};

/* Of whoever asks, and of the thread. */
struct inquiry {
	atomic_uint holders;
	atomic_bool given_up;
	int over; /* an eventfd */
	size_t n;
	struct question at[];
};

struct names {
	struct inquiry *inquiry;
	struct event *over;
	void (*done)(struct names *n, void *user);
	void *user;
};

static atomic_uint threads;

/* ---- the question ---- */

static struct inquiry *inquiry_put(struct inquiry *q)
{
	if (atomic_fetch_sub(&q->holders, 1) != 1)
		return NULL;
	for (size_t i = 0; i < q->n; i++)
		free(q->at[i].host);
	if (q->over >= 0)
		close(q->over);
	free(q);
	return NULL;
}

static const struct question *find(const struct inquiry *q, const char *host)
{
	for (size_t i = 0; i < q->n; i++)
		if (strcmp(q->at[i].host, host) == 0)
			return &q->at[i];
	return NULL;
}

/* With one holder. NULL: errno. */
static struct inquiry *inquiry_new(const char *const *hosts, size_t n)
{
	struct inquiry *q = calloc(1, sizeof(*q) + n * sizeof(struct question));

	if (!q)
		return NULL;
	atomic_init(&q->holders, 1);
	q->over = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (size_t i = 0; i < n && q->over >= 0; i++) {
		if (find(q, hosts[i]))
			continue;
		q->at[q->n].host = strdup(hosts[i]);
		if (!q->at[q->n].host)
			return inquiry_put(q);
		q->n++;
	}
	return q->over >= 0 ? q : inquiry_put(q);
}

/* ---- the thread ---- */

static void answer(struct question *one)
{
	const struct addrinfo ask = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *list;

	one->error = getaddrinfo(one->host, NULL, &ask, &list);
	if (one->error == 0) {
		one->error = getnameinfo(list->ai_addr, list->ai_addrlen, one->ip, sizeof(one->ip),
					 NULL, 0, NI_NUMERICHOST);
		freeaddrinfo(list);
	}
	atomic_store(&one->answered, true);
}

static void *run(void *arg)
{
	struct inquiry *q = arg;

	for (size_t i = 0; i < q->n && !atomic_load(&q->given_up); i++)
		answer(&q->at[i]);
	eventfd_write(q->over, 1);
	inquiry_put(q);
	atomic_fetch_sub(&threads, 1);
	return NULL;
}

/* 0 or -errno. */
static int start(struct inquiry *q)
{
	pthread_attr_t alone;
	sigset_t all, before;
	pthread_t thread;
	int r;

	if (atomic_fetch_add(&threads, 1) >= NAMES_THREADS_MAX) {
		atomic_fetch_sub(&threads, 1);
		return -EAGAIN;
	}
	atomic_fetch_add(&q->holders, 1);
	sigfillset(&all);
	pthread_attr_init(&alone);
	pthread_attr_setdetachstate(&alone, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, &alone, run, q);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&alone);
	if (r) {
		atomic_fetch_sub(&threads, 1);
		atomic_fetch_sub(&q->holders, 1); /* the caller is left */
	}
	return -r;
}

/* ---- whoever asks ---- */

static void on_over(evutil_socket_t fd, short what, void *arg)
{
	struct names *n = arg;

	n->done(n, n->user);
}

struct names *names_ask(struct event_base *base, const char *const *hosts, size_t n,
			void (*done)(struct names *n, void *user), void *user)
{
	const struct timeval wait = { .tv_sec = NAMES_WAIT_S };
	struct names *new = calloc(1, sizeof(*new));
	int r;

	if (!new)
		return NULL;
	new->done = done;
	new->user = user;
	new->inquiry = inquiry_new(hosts, n);
	if (!new->inquiry)
		return names_free(new);
	errno = ENOMEM;
	new->over = event_new(base, new->inquiry->over, EV_READ, on_over, new);
	if (!new->over || event_add(new->over, &wait) < 0)
		return names_free(new);
	r = start(new->inquiry);
	if (r == 0)
		return new;
	names_free(new);
	errno = -r;
	return NULL;
}

static bool is_among(const char *host, const char *const *hosts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(hosts[i], host) == 0)
			return true;
	return false;
}

bool names_is_about(const struct names *n, const char *const *hosts, size_t n_hosts)
{
	for (size_t i = 0; i < n_hosts; i++)
		if (!find(n->inquiry, hosts[i]))
			return false;
	for (size_t i = 0; i < n->inquiry->n; i++)
		if (!is_among(n->inquiry->at[i].host, hosts, n_hosts))
			return false;
	return true;
}

const char *names_failure(const struct names *n, const char *host)
{
	const struct question *one = find(n->inquiry, host);

	if (!one)
		return NULL;
	if (!atomic_load(&one->answered))
		return "its name was not resolved in time: no DNS server answers";
	return one->error ? gai_strerror(one->error) : NULL;
}

struct address names_apply(const struct names *n, const struct address *a)
{
	const struct question *one = n && a->kind == ADDRESS_TCP ? find(n->inquiry, a->name) : NULL;
	struct address numeric = *a;

	if (one && atomic_load(&one->answered) && !one->error)
		numeric.name = (char *)(uintptr_t)one->ip;
	return numeric;
}

struct names *names_free(struct names *n)
{
	if (!n)
		return NULL;
	if (n->over)
		event_free(n->over);
	if (n->inquiry) {
		atomic_store(&n->inquiry->given_up, true);
		inquiry_put(n->inquiry);
	}
	free(n);
	return NULL;
}

bool names_has_name(const struct address *a)
{
	const struct addrinfo ask = { .ai_flags = AI_NUMERICHOST };
	struct addrinfo *list;

	if (a->kind != ADDRESS_TCP)
		return false;
	if (getaddrinfo(a->name, NULL, &ask, &list) != 0)
		return true;
	freeaddrinfo(list);
	return false;
}
