/*
 * audit_sink: where audit records go: a file, or journald; by a thread that alone ever waits.
 *
 * Theory of operation: whoever has a record puts a copy at the queue's end. The thread takes the
 * queue as a whole and writes record by record, one write(2) or one datagram each, then naps for
 * NAP_MS: under load it is woken 200 times a second and not once for each record.
 *
 * A record that cannot be written is kept and tried again (the disk is full, journald is stuck or
 * gone), so nothing is lost until AUDIT_QUEUE_MAX records wait. What comes then is lost, and
 * counted; when there is room again a record says how many. Dropping is a choice: were clients
 * refused instead, whoever can fill a disk could stop all attestation. That record stands where
 * they are missing, since each in the queue knows how many were lost before it.
 *
 * journald is spoken to by its socket and not by sd_journal_sendv(3), which waits for ever when
 * journald is stuck, and says that all is well when there is none.
 *
 * The writer goes at the end when the queue is empty, or after END_MS. If even then it hangs in the
 * kernel (a dead NFS server), it is left there with what it uses.
 */
#include "relay/audit_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "relay/log.h"
#include "relay/thread.h"

#define NAP_MS 5
#define RETRY_MS 1000
#define TELL_MS 60000 /* between two lines about the same trouble */
#define END_MS 3000

struct entry {
	struct entry *next;
	uint64_t lost; /* so many were, up to now */
	size_t len;
	char text[];
};

struct audit_sink {
	char *path;
	bool journal;
	audit_sink_say_lost *say_lost;
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows, up to the next line */
	pthread_cond_t wake;
	struct entry *first, **last;
	bool asleep, ending;
	uint64_t end_at;
	/* the thread's */
	int fd;           /* -1: not connected */
	size_t begun;     /* bytes of a record that were written before the disk was full */
	bool torn;        /* the file's last line has no end: a record that somebody began */
	uint64_t told_at; /* 0: there is no trouble */
	uint64_t lost_said;
	/* anybody's */
	atomic_uint_fast64_t written, lost, queued;
	atomic_bool reopen; /* set under the lock, so that nobody falls asleep over it */
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- opening ---- */

static int open_journal(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd, size = 8 << 20, r;

	if (strlen(path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)); /* as far as it is allowed */
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static int open_sink(const struct audit_sink *s)
{
	int fd;

	if (s->journal)
		return open_journal(s->path);
	/* not blocking: a FIFO that nobody reads is an error, and one that is full can be waited
	 * for */
	fd = open(s->path, O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, 0640);
	return fd < 0 ? -errno : fd;
}

/*
 * Does a line stand there without its end: of who was killed while the disk was full, or our own?
 * What is appended to it would be lost as well. A file that may not be read: who knows.
 */
static bool is_torn(const struct audit_sink *s)
{
	struct stat st;
	bool torn = false;
	char last;
	int fd;

	if (s->journal || fstat(s->fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
		return false;
	fd = open(s->path, O_RDONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	torn = pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n';
	close(fd);
	return torn;
}

static void open_again(struct audit_sink *s)
{
	int fd = open_sink(s);

	if (fd < 0) {
		log_error("audit: cannot reopen %s: %s; records go on into the file that was open",
			  s->path, strerror(-fd));
		return;
	}
	if (s->fd >= 0)
		close(s->fd);
	s->fd = fd;
	s->begun = 0;         /* the new file has the record as a whole */
	s->torn = is_torn(s); /* it is the old one if nobody has renamed it */
}

/* ---- the thread ---- */

/* The file was renamed, or whatever was sent SIGHUP for. */
static void reopen_if_asked(struct audit_sink *s)
{
	if (atomic_load(&s->reopen) && atomic_exchange(&s->reopen, false) && !s->journal)
		open_again(s);
}

/* Sleeps on the condition, locked. ms 0: until woken. */
static void sleep_on(struct audit_sink *s, uint64_t ms)
{
	struct timespec until;

	s->asleep = true;
	if (ms) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += (time_t)(ms / 1000);
		until.tv_nsec += (long)(ms % 1000) * 1000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&s->wake, &s->lock, &until);
	} else {
		pthread_cond_wait(&s->wake, &s->lock);
	}
	s->asleep = false;
}

static bool is_late(struct audit_sink *s)
{
	bool late;

	pthread_mutex_lock(&s->lock);
	late = s->ending && now_ms() >= s->end_at;
	pthread_mutex_unlock(&s->lock);
	return late;
}

static void tell_trouble(struct audit_sink *s, int error)
{
	uint64_t now = now_ms();

	if (s->told_at && now - s->told_at < TELL_MS)
		return;
	s->told_at = now;
	log_error(
		"audit: cannot write to %s: %s; %llu records wait and %llu are lost; above %d the "
		"next are lost, so make room or mend it",
		s->path, error == EAGAIN ? "it takes nothing more" : strerror(error),
		(unsigned long long)atomic_load(&s->queued),
		(unsigned long long)atomic_load(&s->lost), AUDIT_QUEUE_MAX);
}

/* One try. 0: it is written; or -errno. */
static int try_write(struct audit_sink *s, const char *text, size_t len)
{
	ssize_t n;

	if (s->fd < 0) {
		int fd = open_sink(s);

		if (fd < 0)
			return fd;
		s->fd = fd;
	}
	if (s->torn) {
		n = write(s->fd, "\n", 1);
		if (n != 1)
			return n < 0 ? -errno : -ENOSPC;
		s->torn = false;
	}
	if (s->journal)
		n = send(s->fd, text, len, MSG_NOSIGNAL);
	else
		n = write(s->fd, text + s->begun, len - s->begun);
	if (n < 0) {
		int error = errno;

		if (s->journal && error != EAGAIN && error != EINTR && error != ENOBUFS) {
			close(s->fd); /* journald is another one now */
			s->fd = -1;
		}
		return -error;
	}
	if (!s->journal && s->begun + (size_t)n < len) {
		s->begun += (size_t)n;
		return -ENOSPC;
	}
	s->begun = 0;
	return 0;
}

/* Until it may be worth another try; a reopen is. False: given up. */
static bool wait_for_room(struct audit_sink *s, int error)
{
	if (error == EAGAIN || error == ENOBUFS) {
		struct pollfd room = { .fd = s->fd, .events = POLLOUT };

		if (poll(&room, 1, RETRY_MS) > 0)
			return !is_late(s);
	}
	tell_trouble(s, error);
	if (error != EAGAIN) {
		pthread_mutex_lock(&s->lock);
		if (!atomic_load(&s->reopen))
			sleep_on(s, RETRY_MS);
		pthread_mutex_unlock(&s->lock);
	}
	return !is_late(s);
}

/* False: given up, the program ends. */
static bool write_out(struct audit_sink *s, const char *text, size_t len)
{
	for (;;) {
		int r;

		reopen_if_asked(s);
		r = try_write(s, text, len);
		if (r == 0)
			break;
		if (r != -EINTR && !wait_for_room(s, -r))
			return false;
	}
	atomic_fetch_add(&s->written, 1);
	if (s->told_at)
		log_warning("audit: writing to %s again", s->path);
	s->told_at = 0;
	return true;
}

/* Of those that were lost, in the place where they are missing. False: given up. */
static bool say_lost(struct audit_sink *s, uint64_t lost)
{
	char text[AUDIT_RECORD_MAX];
	size_t len;

	if (lost == s->lost_said)
		return true;
	len = s->say_lost(lost - s->lost_said, text);
	if (!write_out(s, text, len))
		return false;
	log_error("audit: %llu records were lost while %s took none",
		  (unsigned long long)(lost - s->lost_said), s->path);
	s->lost_said = lost;
	return true;
}

/* What is lost from now on is missing behind all that are queued. */
static bool is_drained(struct audit_sink *s, uint64_t *lost)
{
	bool drained;

	pthread_mutex_lock(&s->lock);
	drained = !s->first;
	*lost = atomic_load(&s->lost);
	pthread_mutex_unlock(&s->lock);
	return drained;
}

static void write_all(struct audit_sink *s, struct entry *e)
{
	bool good = true;
	uint64_t lost;

	while (e) {
		struct entry *next = e->next;

		good = good && say_lost(s, e->lost) && write_out(s, e->text, e->len);
		if (!good)
			atomic_fetch_add(&s->lost, 1);
		atomic_fetch_sub(&s->queued, 1);
		free(e);
		e = next;
	}
	if (good && is_drained(s, &lost))
		say_lost(s, lost);
}

static void *run(void *arg)
{
	const struct timespec nap = { .tv_nsec = NAP_MS * 1000000 };
	struct audit_sink *s = arg;
	bool ending = false;

	/* here: others' names are files in /proc, which the sandbox forbids */
	pthread_setname_np(pthread_self(), "audit");
	while (!ending) {
		struct entry *batch;

		pthread_mutex_lock(&s->lock);
		while (!s->first && !s->ending && !atomic_load(&s->reopen))
			sleep_on(s, 0);
		batch = s->first;
		s->first = NULL;
		s->last = &s->first;
		ending = s->ending;
		pthread_mutex_unlock(&s->lock);
		reopen_if_asked(s);
		write_all(s, batch);
		if (!ending)
			nanosleep(&nap, NULL);
	}
	return NULL;
}

/* ---- for others ---- */

static struct audit_sink *forget(struct audit_sink *s)
{
	if (s->fd >= 0)
		close(s->fd);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
	return NULL;
}

/* Signals are the main thread's; a file over RLIMIT_FSIZE is an error like others here. */
static int start_thread(struct audit_sink *s)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&s->thread, NULL, run, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

struct audit_sink *audit_sink_new(const char *path, bool journal, audit_sink_say_lost *lost,
				  char **why)
{
	struct audit_sink *s = calloc(1, sizeof(*s));
	pthread_condattr_t monotonic;
	int r;

	*why = NULL;
	if (!s)
		return NULL;
	s->fd = -1;
	s->last = &s->first;
	s->journal = journal;
	s->say_lost = lost;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	s->path = strdup(path);
	if (!s->path)
		return forget(s);
	s->fd = r = open_sink(s);
	if (r >= 0) {
		s->torn = is_torn(s);
		r = start_thread(s);
	}
	if (r >= 0)
		return s;
	if (asprintf(why, "cannot write audit records to %s: %s", path, strerror(-r)) < 0)
		*why = NULL;
	return forget(s);
}

void audit_sink_put(struct audit_sink *s, const char *text, size_t len)
{
	struct entry *e = malloc(sizeof(*e) + len);
	bool room, wake;

	if (e) {
		e->next = NULL;
		e->len = len;
		memcpy(e->text, text, len);
	}
	pthread_mutex_lock(&s->lock);
	room = e && atomic_load(&s->queued) < AUDIT_QUEUE_MAX;
	if (room) {
		e->lost = atomic_load(&s->lost);
		*s->last = e;
		s->last = &e->next;
		atomic_fetch_add(&s->queued, 1);
	} else {
		atomic_fetch_add(&s->lost, 1);
	}
	wake = s->asleep && room;
	pthread_mutex_unlock(&s->lock);
	if (wake)
		pthread_cond_signal(&s->wake);
	if (!room)
		free(e);
}

void audit_sink_reopen(struct audit_sink *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->reopen, true);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_signal(&s->wake);
}

struct audit_counts audit_sink_counts(struct audit_sink *s)
{
	return (struct audit_counts){ .written = atomic_load(&s->written),
				      .lost = atomic_load(&s->lost),
				      .queued = atomic_load(&s->queued) };
}

void audit_sink_free(struct audit_sink *s)
{
	uint64_t lost;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	s->end_at = now_ms() + END_MS;
	pthread_mutex_unlock(&s->lock);
	pthread_cond_signal(&s->wake);
	if (!thread_join_within(s->thread, 2 * END_MS)) {
		log_error("audit: %s hangs; %llu records that wait for it are lost", s->path,
			  (unsigned long long)atomic_load(&s->queued));
		return; /* the thread may come back to what it uses */
	}
	lost = atomic_load(&s->lost) - s->lost_said;
	if (lost)
		log_error("audit: %llu records were lost: %s took none before the end",
			  (unsigned long long)lost, s->path);
	forget(s);
}
