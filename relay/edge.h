/*
 * edge: edge-triggered watches on sockets.
 *
 * For what libevent's events cannot do: a watch of 24 bytes that is registered once and never
 * changed while its owner takes turns at reading and writing; bytes that are peeked and stay
 * unread; a peer's abort while nothing is wanted. One epoll instance per worker, in which it
 * sleeps. (libevent has EV_ET, but an event of it takes 128 bytes, and it reports EPOLLERR as
 * reading and writing only.) Thread: the worker's own.
 */
#ifndef RELAY_EDGE_H
#define RELAY_EDGE_H

#include <stdint.h>
#include <sys/epoll.h>

struct worker;

struct edge {
	struct worker *worker; /* NULL: not watching */
	int fd;		       /* stays the owner's */
	void (*fired)(struct edge *e, uint32_t events);
};

#define EDGE_BATCH 128 /* events told in a turn; timers and deferred work have theirs in between */

struct edge_batch {
	struct epoll_event at[EDGE_BATCH];
	int next, n; /* those from next on have not been told yet */
};

/*
 * Watches fd for epoll(7) events (EPOLLERR and EPOLLHUP are always among them); what holds already
 * is told in the next turn. 0 or -errno. Forget before the fd is closed or e is freed.
 */
int edge_watch(struct worker *w, struct edge *e, int fd, uint32_t events,
	       void (*fired)(struct edge *e, uint32_t events));
/*
 * A listening socket that other workers watch as well: told in each turn while there is somebody to
 * accept; whoever comes wakes one worker, not all (EPOLLEXCLUSIVE).
 */
int edge_watch_listening(struct worker *w, struct edge *e, int fd,
			 void (*fired)(struct edge *e, uint32_t events));
/* Watches for these events instead; what holds already is told, again, in the next turn. */
int edge_change(struct edge *e, uint32_t events);
void edge_forget(struct edge *e); /* not watching: nothing */
/* The same where the fd, of which there is no copy, is closed next: the kernel forgets it then. */
void edge_forget_closing(struct edge *e);

/* For the worker: tells what happened; if nothing, waits for so long (ms; -1: until it does). */
void edge_turn(struct worker *w, int ms);

#endif
