/*
 * pool: a few HTTP/2 sessions to a relay's connect door, with many streams in each.
 *
 * Made when somebody wants a stream, closed when nobody has wanted one for POOL_IDLE_MS (twice as
 * long at most: it is looked at so often); a lost one is made again when it is wanted. TLS, with a
 * certificate of our own if there is one, and ALPN h2; we are the HTTP/2 client. Streams are opened
 * where there are fewest.
 */
#ifndef TUNNEL_POOL_H
#define TUNNEL_POOL_H

#include <stdint.h>

#include "relay/reason.h"
#include "relay/timer.h"

struct addresses;
struct conduit;
struct egress;
struct pool;
struct worker;

#define POOL_IDLE_MS 60000    /* a session without streams is closed after */
#define POOL_SPREAD 32        /* streams in each session before there is another one */
#define POOL_WAITING_MAX 4096 /* wishes waiting for a session: more are refused */

/* Copied; what it points at is kept by its owner. */
struct pool_config {
	const struct addresses *addresses; /* the relays, at least one; tried in turn */
	const char *server_name; /* of their certificates; NULL: the host of the address */
	const char *ca_file; /* NULL: the system's CAs */
	const char *certificate, *key; /* ours; both or neither */
	const struct egress *egress; /* NULL: no proxies */
	uint64_t connections; /* sessions at a time, those that end or come too late not counted */
	uint64_t streams; /* at a time in a session */
	const char *limits; /* what sets these two, for people */
	uint64_t stream_window, session_window;
	uint64_t dial_ms, handshake_ms, ping_ms, dead_ms;
	uint64_t pickup_ms; /* for a wish to wait */
	/* What is pointed at begins to be used, or is used no more. NULL: it outlives the pool. */
	void (*hold)(void *owner);
	void (*release)(void *owner);
	void *owner;
};

/* Somebody who wants a stream. Embedded; zero at first. */
struct pool_wish {
	const char *service; /* must outlive the wish */
	char id[24];         /* our number for it, for the far end's logs */
	/*
	 * Once, from the loop or from inside pool_open: a stream the callee owns (bytes may follow
	 * at once; what the relay says of it comes as its abort, see session_stream_reason), or
	 * NULL, the reason, and a line for people (valid during the call).
	 */
	void (*done)(struct pool_wish *w, struct conduit *c, enum reason why, const char *detail);
	struct pool *pool; /* NULL: no wish */
	struct pool_wish *next, **prevp;
	struct timer timer; /* pickup_ms */
};

/* NULL with *why, to be freed: a file cannot be read, ... */
struct pool *pool_new(struct worker *w, const struct pool_config *config, char **why);
/*
 * Another config, or the same whose files may be others: sessions that are there take no new
 * streams and end with those they have. 0, or -EINVAL with *why, and nothing has changed.
 */
int pool_reload(struct pool *p, const struct pool_config *config, char **why);
/* Ends its sessions, after what was queued; refuses wishes with SHUTDOWN, also new ones. */
void pool_end(struct pool *p);
struct pool *pool_free(struct pool *p); /* after pool_end and a loop's end; NULL is fine */

/* The relay's address that the last stream went to; "" before. Valid until the loop goes on. */
const char *pool_via(const struct pool *p);

void pool_open(struct pool *p, struct pool_wish *w);
void pool_cancel(struct pool_wish *w); /* no wish: nothing */

struct pool_counts {
	unsigned sessions, streams, waiting;     /* now */
	uint64_t sessions_made, sessions_failed; /* ever */
};
struct pool_counts pool_counts(const struct pool *p);
/* As tls_context_expires: of our own certificate. */
const struct tls_context *pool_tls(const struct pool *p);

#endif
