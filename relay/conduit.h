/*
 * conduit: a live, ordered, two-way byte stream with two independent ends of direction.
 *
 * A socket, a TLS connection, a stream inside a tunnel and a WebSocket all look like this to a
 * splice. The contract, for every kind:
 *
 *   read      > 0 bytes taken; 0 = EOF (orderly: FIN, close_notify, END_STREAM); -EAGAIN = not
 *             now; any other -errno = the conduit is dead (an abort is never reported as EOF).
 *   write     takes what it can; short is normal; -EAGAIN = nothing now; other -errno = dead.
 *   peek      optional, for conduits whose received bytes already lie in memory: *data points at
 *             them, the length is returned (0 = EOF, -EAGAIN = nothing, other -errno = dead).
 *             Valid until the next call on this conduit; consume(n) takes them. A conduit with
 *             peek also has read.
 *   room      optional, for conduits that pull (a stream takes bytes only when its tunnel can
 *             send): where bytes may be put now and how many, or NULL = not now. A write whose
 *             buffer is that room copies nothing. A conduit with room accepts writes only while
 *             room is not NULL, which is: inside ready(READY_WRITE).
 *   shutdown  no more writes will come: EOF to the peer after all that was written. 0, or
 *             -EAGAIN: call again at READY_WRITE.
 *   want      which events the owner wants told, level-triggered; replaces the earlier set.
 *             Dropping READY_READ is backpressure. 0 detaches the owner from all events.
 *   close     ends both directions and frees the conduit (at the end of the loop turn). With a
 *             clean reason: EOF if not yet sent; bytes still inside are sent first where the kind
 *             can do so in the background. Otherwise an abort, as the kind can say it (TCP RST,
 *             RST_STREAM, TLS without close_notify, WebSocket 1011; Unix and vsock just close).
 *   fd        optional: the plain socket under the conduit, for splice(2); stays the conduit's.
 *             Whoever uses it notes in vain what said EAGAIN.
 *   held      optional, for conduits that keep what their peer does not take yet: bytes of memory,
 *             0 if it is no more than WORKER_LITTLE. READY_WRITE is told when it is gone.
 *   answer    optional, for conduits whose peer waits for a yes or no before anything is sent to it
 *             (an HTTP/2 CONNECT): REASON_NONE is yes; another is no, in the words of the kind's
 *             protocol, and only close may follow. Once, before the first write.
 *   detach    optional pair: take the conduit out of its worker's loop; put it into another's.
 *   attach    Between the two no thread may touch it. A conduit without them cannot move.
 *
 * No op ever calls ready(): events arrive from the loop only (or from a tunnel session's
 * input and output, which run from the loop). So an owner's state is stable across a call.
 *
 * Thread: a conduit belongs to one worker and is touched by that worker's thread alone.
 * Ownership: one owner at a time; handing a conduit over sets the old variable to NULL.
 */
#ifndef RELAY_CONDUIT_H
#define RELAY_CONDUIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "relay/reason.h"

struct conduit;
struct worker;

enum {
	READY_READ = 1 << 0,  /* read or peek will not say -EAGAIN */
	READY_WRITE = 1 << 1, /* write, or a retried shutdown, will get somewhere */
	READY_ABORT = 1 << 2, /* the peer aborted, noticed without reading (best effort) */
	READY_OPEN = 1 << 3,  /* a stream's far end confirmed it (HTTP/2 answer 2xx) */
	READY_GONE = 1 << 4,  /* the peer has closed and left nothing to read (best effort) */
};

struct conduit_ops {
	const char *name; /* "tcp", "unix", "vsock", "tls", "stream", "websocket" */
	bool socket; /* has a descriptor of its own: counted until it is closed for good */
	ssize_t (*read)(struct conduit *c, void *buf, size_t max);
	ssize_t (*write)(struct conduit *c, const void *buf, size_t len);
	ssize_t (*peek)(struct conduit *c, const uint8_t **data);
	void (*consume)(struct conduit *c, size_t len);
	void *(*room)(struct conduit *c, size_t *len);
	int (*shutdown)(struct conduit *c);
	void (*want)(struct conduit *c, unsigned events);
	void (*close)(struct conduit *c, enum reason why);
	int (*fd)(const struct conduit *c);
	size_t (*held)(const struct conduit *c);
	void (*detach)(struct conduit *c);
	int (*attach)(struct conduit *c, struct worker *w);
	void (*answer)(struct conduit *c, enum reason why);
	enum reason (*why)(const struct conduit *c); /* optional: what killed it, if it knows */
};

struct conduit_pushback;

struct conduit {
	const struct conduit_ops *ops;
	struct worker *worker;
	/* The owner's; may be NULL while the owner wants nothing. */
	void (*ready)(struct conduit *c, unsigned events);
	void *user;
	struct conduit_pushback *pushback; /* bytes given back by conduit_unread, or NULL */
	int dead; /* for kinds: the -errno that every later read and write answers, or 0 */
	/* Of those with fd: READY_READ, READY_WRITE known to say -EAGAIN until they are told */
	uint8_t vain;
	bool urgent; /* TCP's urgent data has come: splice(2) stops there, read does not */
};

/* Call these, not the ops: they add what is common to all kinds (pushback). */
ssize_t conduit_read(struct conduit *c, void *buf, size_t max);
ssize_t conduit_write(struct conduit *c, const void *buf, size_t len);
int conduit_shutdown(struct conduit *c);
void conduit_want(struct conduit *c, unsigned events);
void conduit_close(struct conduit *c, enum reason why); /* NULL is fine */

/* True when conduit_peek may be used; a conduit with pushback has it too. */
int conduit_has_peek(const struct conduit *c);
ssize_t conduit_peek(struct conduit *c, const uint8_t **data);
void conduit_consume(struct conduit *c, size_t len);

/* The plain socket for splice(2), or -1 (also while there is pushback). */
int conduit_fd(const struct conduit *c);

/*
 * Gives len bytes back: the next reads see them first. At most CONDUIT_PUSHBACK_MAX; once, before
 * anything else is read. 0 or -ENOMEM. The bytes are copied.
 */
#define CONDUIT_PUSHBACK_MAX 16384 /* the longest head any door reads */
int conduit_unread(struct conduit *c, const void *buf, size_t len);

/*
 * Moves a conduit to another worker. detach: in the old worker's thread; attach: in the new. 0 or
 * -errno: it is the new one's all the same, but deaf, and can only be closed.
 */
void conduit_detach(struct conduit *c);
int conduit_attach(struct conduit *c, struct worker *w);

/* For kinds: initialises the base, frees what the base owns. */
void conduit_init(struct conduit *c, const struct conduit_ops *ops, struct worker *w);
void conduit_deinit(struct conduit *c);

/* Tells the owner. For kinds. */
static inline void conduit_ready(struct conduit *c, unsigned events)
{
	if (c->ready)
		c->ready(c, events);
}

#endif
