/*
 * qgs: is the node's QGS there, and does it answer?
 *
 *   DOWN     no socket, or nobody listens: our own sockets are taken away, so that clients fail at
 *            connect as they would without us
 *   UP       it takes connections
 *   WEDGED   it takes connections and has not answered stuck_count requests in a row within
 *            stuck_after, nor one of our own: as DOWN, until a probe is answered
 *
 * A socket that vanishes is not DOWN at once: QGS_GRACE_MS for the one that takes its place (SIGHUP
 * makes QGS re-create it). Watched by inotify (the path), a pidfd (the process that listens, where
 * it can be seen), for vsock by a connection in which nothing is said, by slow probes, and by what
 * requests meet.
 */
#ifndef QGS_BRIDGE_QGS_H
#define QGS_BRIDGE_QGS_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/reason.h"

struct qgs;
struct qgs_config;
struct worker;

enum qgs_state { QGS_DOWN, QGS_UP, QGS_WEDGED, QGS_STATES };

#define QGS_GRACE_MS 1000      /* for a new socket in place of the old one */
#define QGS_PROBE_MS 5000      /* between probes while it is up and idle: a connect and a close */
#define QGS_PROBE_DOWN_MS 1000 /* ... while it is down; a path that appears is noticed at once */
#define QGS_PROBE_SOON_MS 60   /* ... while it is away, or has just shown a sign of life */
#define QGS_SUSPECT_MS 5000    /* for our own request, before it is called wedged; or stuck_after */
#define QGS_PROBE_WEDGED_MS 10000 /* ... while wedged: a platform-info request, answered or not */

/*
 * config must outlive it. changed is called from the loop: for the first state found, after each
 * change of state, and when QGS is back from its grace. NULL: errno says why.
 */
struct qgs *qgs_new(struct worker *w, const struct qgs_config *config, uint64_t dial_ms,
		    void (*changed)(struct qgs *q), void *user);
struct qgs *qgs_free(struct qgs *q); /* NULL is fine */
void *qgs_user(const struct qgs *q);

enum qgs_state qgs_state(const struct qgs *q);
/*
 * It may be up in a moment: UP, but in its grace, its socket is not there just now; or DOWN only
 * because it has not been looked at yet. Requests wait.
 */
bool qgs_is_away(const struct qgs *q);
/*
 * UP, and no crash is behind its absence: guests may come. After a crash those who are here already
 * wait for the grace, others are better off failing at connect.
 */
bool qgs_takes_new(const struct qgs *q);
const char *qgs_state_word(enum qgs_state s); /* "down", "up", "wedged" */
/* Why it is not up, for people; "" if it is. Valid until the next change. */
const char *qgs_detail(const struct qgs *q);

/*
 * How often it has been seen that it may be another one, or at another socket: the path is another
 * file, its process has ended, it refused. Who was cut off may be served by the new one.
 */
uint64_t qgs_changes(const struct qgs *q);

/* What requests meet. detail is copied. */
/* At connect. DIAL_TIMEOUT: it does not accept, which is silence; else it is away from now on. */
void qgs_met_refusal(struct qgs *q, enum reason why, const char *detail);
void qgs_met_answer(struct qgs *q);  /* a whole reply: it is up, and those in a row count anew */
void qgs_met_silence(struct qgs *q); /* no whole reply for stuck_after */

struct qgs_counts {
	uint64_t downs, wedges, probes, silences;
};
struct qgs_counts qgs_counts(const struct qgs *q);

#endif
