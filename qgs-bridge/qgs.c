/*
 * qgs: is the node's QGS there, and does it answer?
 *
 * Theory of operation: one timer, one probe at a time. A probe is a connection, closed at once; the
 * answer is in whether there was one.
 *
 *   DOWN    -> UP      a probe connected
 *   UP      -> away    (a flag) a probe or a request was refused: probes every QGS_PROBE_SOON_MS
 *   away    -> UP      a probe connected; changed is called, for those who wait
 *   away    -> DOWN    QGS_GRACE_MS are over; if the process that listened has ended, changed is
 *                      called at once for those who might still come
 *   UP      -> suspect (a flag) stuck_count silences in a row: a platform-info request of our own
 *                      is sent. A guest may know requests that hang, and must not be believed
 *   suspect -> UP      it was answered, or another one was
 *   suspect -> WEDGED  it was not, within QGS_SUSPECT_MS; stuck_command is run
 *   WEDGED  -> UP      a probe's platform-info request, or an old request, was answered; or QGS
 *                      closed the probe: it does so to what it cannot answer, once it has looked
 *   WEDGED  -> DOWN    a probe was refused
 *
 * A sign of change (the path is another file, the process has ended, the command is over) makes it
 * probe at once and a few times more: a socket is there before anybody listens on it. While
 * requests are answered, probes are left out.
 *
 * Who listens is known from SO_PEERCRED of a probe (who called listen(2)); a pidfd of that process
 * tells its end.
 *
 * A vsock or hybrid address has no pid to watch: there the probe's connection is left standing.
 * Nothing is sent in it. It ends with QGS, or after QGS's 30 s; either way it is time for a probe.
 *
 * Longer than other files: each sign is weighed against all others.
 *
 * With framing: none nothing is known of what is asked: there is no WEDGED, and who does not accept
 * refuses.
 */
#include "qgs-bridge/qgs.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "config/bridge.h"
#include "qgs-bridge/command.h"
#include "qgs-bridge/pathwatch.h"
#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/edge.h"
#include "relay/fd.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define SOON_PROBES 10 /* after a sign of change */

struct qgs {
	struct worker *worker;
	const struct qgs_config *config;
	uint64_t dial_ms;
	void (*changed)(struct qgs *q);
	void *user;
	enum qgs_state state;
	bool known; /* a first state has been found */
	bool away;
	bool suspect;
	bool again; /* a sign came while a probe was under way */
	unsigned soon; /* so many probes come quickly */
	unsigned in_a_row; /* silences */
	uint64_t asked_at; /* worker_now */
	uint64_t answered; /* worker_now of the last answer */
	uint64_t changes;  /* qgs_changes */
	struct dial *dial;
	struct conduit *asked; /* a platform-info request waits for its reply */
	struct conduit *standing; /* nothing is said in it: its end may be QGS's */
	uint64_t stood_at; /* worker_now: since when */
	struct timer probe, grace;
	struct deferred tell;
	struct pathwatch *path; /* NULL: no path, or no inotify */
	struct command *command; /* NULL: none */
	int pidfd; /* -1: none */
	pid_t pid; /* whose; 0: none */
	bool ended; /* it has, or may have, and none was met since */
	struct edge process;
	struct qgs_counts counts;
	char detail[256];
};

static const uint8_t platform_info[] = { 0, 0, 0, 16, 1, 0, 1, 0, 4, 0,
					 0, 0, 16, 0, 0, 0, 0, 0, 0, 0 };

static void probe_soon(struct qgs *q);

/* ---- states ---- */

static void on_tell(struct deferred *d)
{
	struct qgs *q = (struct qgs *)((char *)d - offsetof(struct qgs, tell));

	q->changed(q);
}

static void set_detail(struct qgs *q, const char *detail)
{
	snprintf(q->detail, sizeof(q->detail), "%s", detail);
}

static void become(struct qgs *q, enum qgs_state state, const char *detail)
{
	bool news = !q->known || q->away || q->state != state;

	log_debug("QGS: %s -> %s%s", qgs_state_word(q->state), qgs_state_word(state),
		  q->away ? " (was away)" : "");
	if (q->known && state == QGS_DOWN && q->state != QGS_DOWN)
		q->counts.downs++;
	if (state == QGS_WEDGED && q->state != QGS_WEDGED)
		q->counts.wedges++;
	if (state != q->state)
		q->in_a_row = 0;
	q->state = state;
	q->known = true;
	q->away = false;
	q->suspect = false;
	timer_cancel(q->worker, &q->grace);
	set_detail(q, detail);
	if (news)
		worker_defer(q->worker, &q->tell);
}

static void on_grace(struct timer *t)
{
	struct qgs *q = (struct qgs *)((char *)t - offsetof(struct qgs, grace));
	char why[sizeof(q->detail)];

	memcpy(why, q->detail, sizeof(why));
	become(q, QGS_DOWN, why);
}

/* It was refused, to a probe or to a request. */
static void refused(struct qgs *q, const char *detail)
{
	if (q->state != QGS_UP) {
		become(q, QGS_DOWN, detail);
		return;
	}
	set_detail(q, detail);
	if (q->away)
		return;
	q->changes++;
	q->away = true;
	if (q->ended)
		worker_defer(q->worker, &q->tell);
	timer_set(q->worker, &q->grace, QGS_GRACE_MS, on_grace);
}

/* It takes no connection within the dial time-out: its queue is full. */
static bool is_silence(const struct qgs *q, enum reason why)
{
	return why == REASON_DIAL_TIMEOUT && q->config->framing == FRAMING_QGS &&
	       q->state != QGS_DOWN;
}

void qgs_met_refusal(struct qgs *q, enum reason why, const char *detail)
{
	if (is_silence(q, why)) {
		qgs_met_silence(q);
		return;
	}
	if (q->state != QGS_UP)
		return; /* known; probes see to the rest */
	refused(q, detail);
	probe_soon(q);
}

void qgs_met_answer(struct qgs *q)
{
	q->answered = worker_now(q->worker);
	q->in_a_row = 0;
	q->suspect = false;
	if (q->state == QGS_WEDGED)
		become(q, QGS_UP, "");
}

void qgs_met_silence(struct qgs *q)
{
	q->counts.silences++;
	q->in_a_row++;
	if (q->state != QGS_UP || q->config->framing != FRAMING_QGS || q->suspect ||
	    q->in_a_row < q->config->stuck_count)
		return;
	q->suspect = true;
	probe_soon(q);
}

/* The suspicion was right. */
static void wedged(struct qgs *q)
{
	char detail[96];

	snprintf(detail, sizeof(detail), "%u requests in a row, and one of our own, had no answer",
		 q->in_a_row);
	become(q, QGS_WEDGED, detail);
	if (q->command)
		command_run(q->command);
}

/* ---- probes ---- */

/* How long the request of our own may still take; 0: no longer. */
static uint64_t suspicion_left(const struct qgs *q)
{
	uint64_t stuck = q->config->stuck_after;
	uint64_t end = q->asked_at + (stuck < QGS_SUSPECT_MS ? stuck : QGS_SUSPECT_MS);
	uint64_t now = worker_now(q->worker);

	return end > now ? end - now : 0;
}

static uint64_t next_probe_ms(struct qgs *q)
{
	if (q->asked && q->suspect)
		return suspicion_left(q);
	if (q->soon > 0 || q->away) {
		q->soon -= q->soon > 0;
		return QGS_PROBE_SOON_MS;
	}
	return q->state == QGS_UP     ? QGS_PROBE_MS :
	       q->state == QGS_WEDGED ? QGS_PROBE_WEDGED_MS :
					QGS_PROBE_DOWN_MS;
}

static void on_probe_due(struct timer *t);

static void probe_later(struct qgs *q)
{
	uint64_t ms = q->again ? 0 : next_probe_ms(q);

	q->again = false;
	timer_set(q->worker, &q->probe, ms, on_probe_due);
}

/* Something has changed: whatever it is, probes will tell. */
static void probe_soon(struct qgs *q)
{
	q->soon = SOON_PROBES;
	if (q->dial)
		q->again = true;
	else
		timer_set(q->worker, &q->probe, 0, on_probe_due);
}

static void forget_process(struct qgs *q)
{
	edge_forget(&q->process);
	if (q->pidfd >= 0)
		close(q->pidfd);
	q->pidfd = -1;
	q->pid = 0;
}

static void on_process_end(struct edge *e, uint32_t events)
{
	struct qgs *q = (struct qgs *)((char *)e - offsetof(struct qgs, process));

	forget_process(q);
	q->changes++;
	q->ended = true;
	if (q->away)
		worker_defer(q->worker, &q->tell);
	probe_soon(q);
}

/* Who listens at the other end of a probe: to be told of its end. */
static void watch_process(struct qgs *q, const struct conduit *c)
{
	struct ucred of = { 0 };
	socklen_t len = sizeof(of);

	if (q->config->address.kind != ADDRESS_UNIX ||
	    getsockopt(fd_conduit_socket(c), SOL_SOCKET, SO_PEERCRED, &of, &len) < 0 ||
	    of.pid <= 0 || of.pid == q->pid)
		return;
	forget_process(q);
	q->pidfd = (int)syscall(SYS_pidfd_open, of.pid, 0);
	if (q->pidfd < 0)
		return; /* ended already, or of another pid namespace: other signs have to do */
	if (edge_watch(q->worker, &q->process, q->pidfd, EPOLLIN, on_process_end) < 0)
		forget_process(q);
	else
		q->pid = of.pid;
}

static void stop_asking(struct qgs *q)
{
	conduit_close(q->asked, REASON_EOF);
	q->asked = NULL;
}

static void on_probe_answer(struct conduit *c, unsigned events)
{
	struct qgs *q = c->user;
	uint8_t byte;
	ssize_t n = conduit_read(c, &byte, 1);

	if (n == -EAGAIN)
		return;
	stop_asking(q);
	if (n >= 0)
		qgs_met_answer(q);
}

/* ---- a standing connection ---- */

static void stop_standing(struct qgs *q)
{
	conduit_close(q->standing, REASON_EOF);
	q->standing = NULL;
}

/* QGS has ended, or its 30 s for a connection are over: the next probe will tell. */
static void on_standing_end(struct conduit *c, unsigned events)
{
	struct qgs *q = c->user;
	uint8_t byte;

	if (conduit_read(c, &byte, 1) == -EAGAIN)
		return;
	stop_standing(q);
	q->ended = true;
	if (worker_now(q->worker) - q->stood_at >= QGS_PROBE_DOWN_MS)
		probe_soon(q);
	else if (!q->dial) /* perhaps it lets nobody stand there: not too often */
		timer_set(q->worker, &q->probe, QGS_PROBE_DOWN_MS, on_probe_due);
}

/* A probe that connected, and has nothing more to do. */
static void let_stand(struct qgs *q, struct conduit *c)
{
	stop_standing(q);
	if (q->config->address.kind == ADDRESS_UNIX || q->config->framing != FRAMING_QGS) {
		conduit_close(c, REASON_EOF);
		return;
	}
	q->standing = c;
	q->stood_at = worker_now(q->worker);
	c->ready = on_standing_end;
	c->user = q;
	conduit_want(c, READY_READ);
}

/* ---- a request of our own ---- */

static void ask(struct qgs *q, struct conduit *c)
{
	q->asked = c;
	q->asked_at = worker_now(q->worker);
	c->ready = on_probe_answer;
	c->user = q;
	/* 20 bytes into an empty socket; if not, there is no answer */
	(void)conduit_write(c, platform_info, sizeof(platform_info));
	conduit_want(c, READY_READ);
}

static void on_probed(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct qgs *q = user;

	q->dial = NULL;
	if (!c) {
		if (!is_silence(q, why))
			refused(q, detail);
		else if (q->suspect)
			wedged(q);
		else
			qgs_met_silence(q);
	} else {
		q->soon = 0;
		q->ended = false;
		watch_process(q, c);
		if (q->state == QGS_WEDGED || (q->suspect && !q->away)) {
			ask(q, c);
		} else {
			let_stand(q, c);
			if (!q->known || q->away || q->state == QGS_DOWN)
				become(q, QGS_UP, "");
		}
	}
	probe_later(q);
}

static void on_probe_due(struct timer *t)
{
	struct qgs *q = (struct qgs *)((char *)t - offsetof(struct qgs, probe));
	uint64_t now = worker_now(q->worker);

	if (q->asked && q->suspect && suspicion_left(q) > 0) { /* a sign has come in between */
		probe_later(q);
		return;
	}
	if (q->asked && q->suspect)
		wedged(q);
	stop_asking(q);
	if (q->state == QGS_UP && !q->away && !q->suspect && !q->soon && !q->ended &&
	    (q->standing || (q->answered && now - q->answered < QGS_PROBE_MS))) {
		probe_later(q);
		return;
	}
	q->counts.probes++;
	q->dial = dial_start(q->worker, &q->config->address, q->dial_ms, on_probed, q);
	if (!q->dial)
		probe_later(q); /* no memory now */
}

/* ---- life ---- */

static void on_path_changed(void *user)
{
	struct qgs *q = user;

	q->changes++;
	probe_soon(q);
}

static void on_command_over(void *user)
{
	probe_soon(user);
}

struct qgs *qgs_new(struct worker *w, const struct qgs_config *config, uint64_t dial_ms,
		    void (*changed)(struct qgs *q), void *user)
{
	const struct address *address = &config->address;
	struct qgs *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->worker = w;
	q->config = config;
	q->dial_ms = dial_ms;
	q->changed = changed;
	q->user = user;
	q->pidfd = -1;
	q->tell.run = on_tell;
	set_detail(q, "it has not been looked at yet");
	if (config->stuck_command.n) {
		q->command = command_new(w, &config->stuck_command, on_command_over, q);
		if (!q->command)
			return qgs_free(q);
	}
	if ((address->kind == ADDRESS_UNIX || address->kind == ADDRESS_HYBRID) &&
	    address->name[0] == '/') {
		q->path = pathwatch_new(w, address->name, on_path_changed, q);
		if (!q->path)
			log_debug("QGS: its path is not watched: %s", strerror(errno));
	}
	timer_set(w, &q->probe, 0, on_probe_due);
	return q;
}

struct qgs *qgs_free(struct qgs *q)
{
	if (!q)
		return NULL;
	timer_cancel(q->worker, &q->probe);
	timer_cancel(q->worker, &q->grace);
	worker_undefer(&q->tell);
	dial_cancel(q->dial);
	stop_asking(q);
	stop_standing(q);
	forget_process(q);
	pathwatch_free(q->path);
	command_free(q->command);
	free(q);
	return NULL;
}

void *qgs_user(const struct qgs *q)
{
	return q->user;
}

enum qgs_state qgs_state(const struct qgs *q)
{
	return q->state;
}

bool qgs_is_away(const struct qgs *q)
{
	return !q->known || q->away;
}

uint64_t qgs_changes(const struct qgs *q)
{
	return q->changes;
}

bool qgs_takes_new(const struct qgs *q)
{
	return q->state == QGS_UP && !(q->away && q->ended);
}

const char *qgs_state_word(enum qgs_state s)
{
	static const char *const words[QGS_STATES] = { "down", "up", "wedged" };

	return words[s];
}

const char *qgs_detail(const struct qgs *q)
{
	return q->detail;
}

struct qgs_counts qgs_counts(const struct qgs *q)
{
	return q->counts;
}
