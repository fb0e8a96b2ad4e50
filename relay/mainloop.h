/*
 * mainloop: a program of one worker, which runs on the main thread: its signals, what systemd is
 * told of it, its end. (attest-relay has many workers, and a main thread besides: relay/daemon.)
 *
 * SIGTERM and SIGINT: end in order, a second one at once (relay/ending.h); SIGHUP: reload; SIGUSR1:
 * a line on how things are.
 */
#ifndef RELAY_MAINLOOP_H
#define RELAY_MAINLOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/edge.h"
#include "relay/ending.h"
#include "relay/timer.h"

struct mainloop;
struct worker;

#define MAINLOOP_END_MS 3000     /* lingering closes take 2 s at most */
#define MAINLOOP_STATUS_MAX 1024 /* bytes of a line on how things are */

struct mainloop_ops {
	/* How things are, in a line, for people. */
	void (*status)(char *text, size_t size);
	/* The config once more. False: *why, to be freed; NULL: out of memory. It has been logged.
	 */
	bool (*reload)(char **why);
	void (*drain)(void); /* nothing new; once. Ends in mainloop_finish */
	void (*cut)(void);   /* what is left is ended; the same */
	void (*look)(void);  /* every NOTIFY_STATUS_MS, if the program has something to look at */
};

struct mainloop {
	struct worker *worker;
	const struct mainloop_ops *ops;
	struct ending ending;
	/* its own */
	struct edge signals; /* watches a signalfd */
	struct timer status, watchdog, finish;
	uint64_t watchdog_ms; /* 0: none wanted */
	uint64_t end_at;      /* worker_now; 0: it does not finish yet */
};

/* Makes the worker. False: it has been logged why; mainloop_deinit is due all the same. */
bool mainloop_init(struct mainloop *m, const struct mainloop_ops *ops);
/* The worker, too: what it carries is gone by then. Zeroed: nothing. */
void mainloop_deinit(struct mainloop *m);

/* Until mainloop_finish, and what follows it. */
void mainloop_run(struct mainloop *m);

/* As by a signal to end, but asked for in words: begins a drain, or does nothing. */
void mainloop_drain(struct mainloop *m);
/*
 * All is over. The loop goes on until the last conduits are closed, for streams that lost their
 * session are still to be told, and a connection's last bytes may be waiting for the network; but
 * no longer than MAINLOOP_END_MS. Again: nothing.
 */
void mainloop_finish(struct mainloop *m);

void mainloop_tell(struct mainloop *m); /* systemd, how things are now */

#endif
