/*
 * log_out: where lines of the log leave, without waiting.
 *
 * Theory of operation: a line goes out at once, by the thread that has it, in a call that does not
 * block. When that would (nobody reads the pipe, journald is stuck) it is copied into a queue, as
 * are all that come after it; a thread that is there for as long as the queue has something tries
 * until it is through. Above LOG_OUT_MAX bytes lines are lost, counted, and told when the queue is
 * empty again. At the program's end the rest has END_MS; without a thread (there may be too many)
 * what finds room goes out then.
 *
 * stderr is shared with others, who must not find it non-blocking: a socket is asked by a flag of
 * the call; a pipe or a terminal is opened anew, or where that is not allowed asked beforehand
 * whether it has room for a line, one thread at a time: the room is for one. A file never blocks.
 *
 * journald is spoken to by its socket: sd_journal_sendv(3) waits for ever when it is stuck.
 */
#include "relay/log_out.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay/log.h"

#define RETRY_MS 100 /* at first 1, and twice as long each time */
#define END_MS 1000
#define END_TICK_MS 10

struct entry {
	struct entry *next;
	size_t len, sent;
	bool journal;
	char text[];
};

static struct {
	int fd;      /* of stderr */
	bool socket; /* it is one */
	bool ask;    /* it might block: see first whether it has room, under asking */
	pthread_mutex_t asking;
	int journal; /* -1: none */
	atomic_uint_fast64_t lost, waiting;
	pthread_mutex_t lock; /* of what follows */
	struct entry *first, **last;
	size_t bytes;
	bool running; /* the thread is there */
	uint64_t lost_said;
} out = { .fd = 2,
	  .journal = -1,
	  .asking = PTHREAD_MUTEX_INITIALIZER,
	  .lock = PTHREAD_MUTEX_INITIALIZER,
	  .last = &out.first };

/* ---- setting up ---- */

/* For its owner alone, as far as blocking goes. */
static void open_stderr(void)
{
	struct stat st;
	int flags = fcntl(2, F_GETFL), own;

	if (out.fd != 2)
		close(out.fd);
	out.fd = 2;
	out.socket = out.ask = false;
	if (flags < 0 || fstat(2, &st) < 0 || S_ISREG(st.st_mode))
		return;
	out.socket = S_ISSOCK(st.st_mode);
	if (out.socket || flags & O_NONBLOCK || (!S_ISFIFO(st.st_mode) && !isatty(2)))
		return;
	own = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	out.ask = own < 0;
	if (own >= 0)
		out.fd = own;
}

static bool is_running(void)
{
	bool running;

	pthread_mutex_lock(&out.lock);
	running = out.running;
	pthread_mutex_unlock(&out.lock);
	return running;
}

/* Until the thread is through with the queue, or its time is over. */
static void settle(void)
{
	for (unsigned i = 0; i < END_MS / END_TICK_MS && is_running(); i++)
		poll(NULL, 0, END_TICK_MS);
}

void log_out_journal(void)
{
	if (out.journal < 0)
		out.journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* ---- sending ---- */

/* Bytes, or -errno; -EAGAIN: not now. */
static ssize_t send_journal(const char *text, size_t len)
{
	static const struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = LOG_OUT_JOURNAL };
	struct iovec iov = { (char *)(uintptr_t)text, len };
	const struct msghdr m = { .msg_name = (struct sockaddr *)(uintptr_t)&to,
				  .msg_namelen = sizeof(to),
				  .msg_iov = &iov,
				  .msg_iovlen = 1 };
	ssize_t n = sendmsg(out.journal, &m, MSG_NOSIGNAL);

	if (n < 0)
		return errno == ENOBUFS || errno == EINTR ? -EAGAIN : -errno;
	return n;
}

/* As write(2) does, to what might block. */
static ssize_t ask_and_write(const char *text, size_t len)
{
	struct pollfd room = { .fd = out.fd, .events = POLLOUT };
	ssize_t n = -1;

	pthread_mutex_lock(&out.asking);
	if (poll(&room, 1, 0) == 0)
		errno = EAGAIN;
	else
		n = write(out.fd, text, len);
	pthread_mutex_unlock(&out.asking);
	return n;
}

static ssize_t send_stderr(const char *text, size_t len)
{
	ssize_t n;

	if (out.ask)
		n = ask_and_write(text, len);
	else if (out.socket)
		n = send(out.fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	else
		n = write(out.fd, text, len);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return n;
}

static ssize_t send_now(bool journal, const char *text, size_t len)
{
	return journal ? send_journal(text, len) : send_stderr(text, len);
}

/* ---- the queue ---- */

static void nap(bool journal, int ms)
{
	struct pollfd room = { .fd = out.fd, .events = POLLOUT };

	/* whether journald has room is not to be seen at a socket that is not connected to it */
	poll(&room, journal ? 0 : 1, ms);
}

/* False: its time has not come yet. */
static bool send_first(struct entry *e)
{
	ssize_t n = send_now(e->journal, e->text + e->sent, e->len - e->sent);

	if (n == -EAGAIN)
		return false;
	if (n < 0)
		log_out_lose();
	else
		e->sent += (size_t)n; /* less than all: a terminal */
	return n < 0 || e->sent == e->len;
}

static struct entry *drop_first(void)
{
	struct entry *e = out.first;

	out.first = e->next;
	if (!out.first)
		out.last = &out.first;
	out.bytes -= sizeof(*e) + e->len;
	atomic_fetch_sub(&out.waiting, 1);
	free(e);
	return out.first;
}

/* So many were lost and it has not been said; under the lock. */
static uint64_t take_unsaid(void)
{
	uint64_t lost = atomic_load(&out.lost), unsaid = lost - out.lost_said;

	out.lost_said = lost;
	return unsaid;
}

static void *run(void *arg)
{
	uint64_t unsaid;
	struct entry *e;

	pthread_mutex_lock(&out.lock);
	do {
		e = out.first;
		while (e) { /* others only add behind it */
			pthread_mutex_unlock(&out.lock);
			for (int ms = 1; !send_first(e); ms = ms < RETRY_MS ? ms * 2 : ms)
				nap(e->journal, ms);
			pthread_mutex_lock(&out.lock);
			e = drop_first();
		}
		unsaid = take_unsaid();
		if (!unsaid)
			continue;
		pthread_mutex_unlock(&out.lock);
		log_error("%llu lines of the log were lost before this one: nobody took them",
			  (unsigned long long)unsaid);
		pthread_mutex_lock(&out.lock);
	} while (out.first);
	out.running = false;
	pthread_mutex_unlock(&out.lock);
	return NULL;
}

/* Under the lock. Without a thread it is tried again with the next line. */
static void see_to_thread(void)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;

	if (out.running || pthread_attr_init(&attributes) != 0)
		return;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	out.running = pthread_create(&thread, &attributes, run, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
}

static void enqueue(bool journal, const char *text, size_t len)
{
	size_t size = sizeof(struct entry) + len;
	struct entry *e;

	pthread_mutex_lock(&out.lock);
	e = out.bytes + size <= LOG_OUT_MAX ? malloc(size) : NULL;
	if (e) {
		*e = (struct entry){ .len = len, .journal = journal };
		memcpy(e->text, text, len);
		*out.last = e;
		out.last = &e->next;
		out.bytes += size;
		atomic_fetch_add(&out.waiting, 1);
	} else {
		log_out_lose();
	}
	see_to_thread();
	pthread_mutex_unlock(&out.lock);
}

/* The last words. */
static void end(void)
{
	bool running;

	settle();
	pthread_mutex_lock(&out.lock);
	running = out.running;
	while (!running && out.first && send_first(out.first))
		drop_first();
	pthread_mutex_unlock(&out.lock);
}

/* ---- for all ---- */

void log_out_setup(bool journal)
{
	static bool again;

	settle();
	open_stderr();
	if (journal)
		log_out_journal();
	if (!again)
		atexit(end);
	again = true;
}

bool log_out_put(bool journal, const char *text, size_t len)
{
	ssize_t n = -EAGAIN;

	if (journal && out.journal < 0)
		return false;
	if (atomic_load(&out.waiting) == 0)
		n = send_now(journal, text, len);
	if (n == -EAGAIN)
		enqueue(journal, text, len);
	else if (n >= 0 && (size_t)n < len)
		enqueue(journal, text + n, len - (size_t)n);
	return n >= 0 || n == -EAGAIN;
}

void log_out_lose(void)
{
	atomic_fetch_add_explicit(&out.lost, 1, memory_order_relaxed);
}

uint64_t log_out_lost(void)
{
	return atomic_load_explicit(&out.lost, memory_order_relaxed);
}
