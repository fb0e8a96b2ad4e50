/*
 * gateway: what the parts of attest-relay share: the config in effect, the registry, the workers.
 *
 * Everything here is set before the workers start and does not change, but for what is atomic,
 * what is inside the registry and the tenants (which lock), and what is said to be the main
 * thread's: settings, sockets, audit. Workers have those of their own (struct gateway_worker),
 * which a reload exchanges in their own threads.
 */
#ifndef RELAY_GATEWAY_H
#define RELAY_GATEWAY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/client.h"
#include "relay/handshake.h"
#include "relay/listener.h"
#include "relay/settings.h"
#include "relay/splice.h"
#include "relay/tenants.h"

#define WORKERS_MAX 256
/*
 * When more than 7/8 of limits.connections are in use, a source may have no more than one in so
 * many of them, but so many at least: a few sources cannot keep all others out.
 */
#define GATEWAY_CROWDED_PART 64
#define GATEWAY_CROWDED_LEAST 4
#define GATEWAY_WEBSOCKET_PATH "/connect/" /* and a service's name */

struct admin_relay;
struct audit;
struct enrolment;
struct figures;
struct gateway;
struct h2_client;
struct httphead;
struct intake;
struct history;
struct names;
struct opening;
struct orders;
struct prober;
struct proxied;
struct registry;
struct sockets;

/* A stream through a tunnel: what the tunnel side reports about it. */
struct tunnel_stream {
	struct conduit *conduit;     /* the callee's */
	char label[136];             /* "acme/instance" for logs */
	char address[PEER_TEXT_MAX]; /* of the agent */
	const char *carrier;         /* static: "direct" or "websocket" */
};

/* A tunnel that is up, for whoever asks. */
struct tunnel_facts {
	uint64_t id, generation, streams, opened, memory, rtt_us, age_ms;
	const char *owner, *instance, *carrier, *state, *credential, *listener;
	const struct client *client;
	const char *services; /* "kbs.acme, tang.acme"; cut where it is too long */
};

/* What the tunnel side gives the gateway; set by main, so that relay/ need not know tunnel/. */
struct tunnel_side {
	/* Makes and frees what it keeps in each worker, before its thread starts and after it. */
	bool (*start)(struct worker *w);
	void (*stop)(struct worker *w);
	/* An agent at the direct carrier. The conduit is consumed. */
	void (*accept)(struct listener *l, struct worker *w, struct conduit *c,
		       const struct client *client);
	/* An agent at the WebSocket carrier: its request head is still unread in the conduit. */
	void (*upgrade)(struct listener *l, struct worker *w, struct conduit *c,
			const struct client *client);
	/* Opens a stream in a tunnel of this worker. False and *why: GOING_AWAY if it is gone. */
	bool (*open)(struct worker *w, uint64_t tunnel, const char *service,
		     const struct client_words *words, struct tunnel_stream *out, enum reason *why);
	/*
	 * Ends this worker's tunnels whose credential's time is over, and, all: those that the
	 * worker's new settings would not let in.
	 */
	void (*recheck)(struct worker *w, bool all);
	/* Draining: asks the agents of this worker to go elsewhere, with what is new. */
	void (*advise)(struct worker *w);
	/* Shutting down: tells the agents of this worker and ends their sessions. */
	void (*shutdown)(struct worker *w);
	/* Each of this worker's tunnels that are up: what there is to say of it, for the moment. */
	void (*each)(struct worker *w, void (*fn)(const struct tunnel_facts *t, void *user),
		     void *user);
	/* Ends this one; its agent is told why. False: it is not there (any more). */
	bool (*close)(struct worker *w, uint64_t tunnel, enum reason why, const char *detail);
};

/*
 * A client that has come by some protocol, all it has said still unread. The conduit is consumed.
 * verdict: REASON_NONE, or why whatever it asks for is refused.
 */
typedef void gateway_client_accept(struct listener *l, struct worker *w, struct conduit *c,
				   const struct client *client, enum reason verdict);

/* The same of HTTP/2 at the connect door: many clients' streams in one connection. */
struct h2_side {
	gateway_client_accept *accept;
	/* As that of tunnels: those whose certificate is not good any more. */
	void (*recheck)(struct worker *w, bool all);
	/* Draining: tells this worker's clients to open no more streams here. */
	void (*drain)(struct worker *w);
	/* Shutting down: ends this worker's connections. */
	void (*shutdown)(struct worker *w);
};

/* The same of WebSockets, by which clients in browsers come. */
struct websocket_side {
	gateway_client_accept *accept; /* its head is whole, and asks for GATEWAY_WEBSOCKET_PATH */
	/* It has been told 101: messages from now on. c is consumed. NULL: out of memory. */
	struct conduit *(*open)(struct conduit *c);
};

/* What each worker of the gateway keeps: worker->user. */
struct gateway_worker {
	struct gateway *gateway;
	struct worker *worker;
	struct settings *settings;       /* in effect here; its reference */
	struct audit *audit;             /* NULL: none; the gateway's */
	_Atomic(struct orders *) orders; /* of a reload, to be taken; or NULL */
	atomic_uint_fast64_t generation; /* of settings, for the main thread */
	struct timer sweep;              /* each SWEEP_MS: for what has expired */
	struct listener *listeners;
	struct proxied *proxied;      /* list: those whose PROXY header comes before the intake */
	struct intake *intakes;       /* list */
	struct handshakes handshakes; /* of proxied, intakes and tunnels */
	struct enrolment *enrolments; /* list */
	unsigned n_enrolments;
	struct opening *openings;              /* list: on their way */
	struct opening *parked;                /* list: waiting for a tunnel */
	struct opening *joined, **joined_last; /* list, the oldest first: streams, ... */
	struct opening *lasting;               /* ... and those that are recorded to go on */
	struct timer lasts;                    /* for the first of joined to do so */
	void *tunnels;                         /* the tunnel side's */
	struct h2_client *h2_clients;          /* list; the HTTP/2 side's */
	bool stopped;                          /* listens no more */
	struct timer ending;                   /* shutting down: waits for the last conduits, ... */
	uint64_t end_at;                       /* ... no longer than this */
};

struct gateway {
	/* What it was started with. For what no reload changes; all else is gateway_config's. */
	const struct relay_config *config;
	/* The main thread's: in effect, or on its way to the workers. */
	struct settings *settings;
	struct sockets *sockets;    /* listened at; NULL: none any more */
	struct audit *audit;        /* NULL: none; stopped by the daemon */
	struct audit *audit_before; /* a worker may still have it; or NULL */
	struct tenants tenants;
	struct registry *registry;
	struct prober *prober;   /* the first worker's */
	struct figures *figures; /* what is counted by name */
	struct history *history; /* the main thread's; NULL: none */
	struct tunnel_side tunnel;
	struct h2_side h2;
	struct websocket_side websocket;
	struct worker *workers[WORKERS_MAX];
	unsigned n_workers;
	uint64_t files_max;             /* descriptors that the process may have; 0: nobody knows */
	atomic_uint_fast64_t pipes_max; /* for splice(2), all workers together */
	atomic_uint_fast64_t connections_max; /* limits.connections, or what descriptors allow */
	atomic_uint_fast64_t descriptors_max; /* for connections and their targets */
	/*
	 * For metrics. Reloads that have changed all they were to, certificates read again
	 * included, and those that have changed nothing; when the last good one was, or the start:
	 * seconds since 1970. The generation is that of settings: 1, and one more with each good
	 * reload.
	 */
	atomic_uint_fast64_t reloads, reload_failures, reloaded_at, generation;
	pthread_mutex_t lock;             /* for exchanged */
	pthread_cond_t exchanged;         /* a worker has taken its orders */
	atomic_uint_fast64_t connections; /* clients and agents, from accept to the end */
	/* Set aside: one for each connection, and one for its target unless that has none. */
	atomic_uint_fast64_t descriptors;
	atomic_uint_fast64_t moving;               /* openings on their way to another worker */
	atomic_uint_fast64_t next_id, next_tunnel; /* of streams; of tunnels, in a part of theirs */
	atomic_bool draining, ending;
	atomic_bool succeeded; /* another process has the listeners, and agents go there */
	struct admin_relay *admin; /* the main thread's */
};

/*
 * Main thread. config and what tunnel/ gives are set before. False: what is wrong has been logged;
 * gateway_end and gateway_deinit are due all the same. What prepare does may take rights that start
 * needs no more: what the process gives up in between, its threads never have.
 */
bool gateway_prepare(struct gateway *g);
bool gateway_start(struct gateway *g);
/*
 * Main thread: from now on this config is in effect, whole; the one that is in effect is fine, its
 * files are read again then. False: nothing has changed. Both ways *why is an allocated line for
 * people, or NULL (nothing to say, or out of memory); it has been logged. What the config does not
 * allow any more ends within a second or two; all workers have it when this returns, unless one is
 * kept busy for RELOAD_WAIT_MS. names: of those hosts of its listeners where nobody listens yet.
 */
#define RELOAD_WAIT_MS 2000
bool gateway_reload(struct gateway *g, struct relay_config *config, const struct names *names,
		    char **why);
void gateway_drain(struct gateway *g);         /* no new connections */
bool gateway_is_idle(const struct gateway *g); /* no client is left */
/* Cuts what is left; waits for the threads. False: one hangs, and may come back to all there is. */
bool gateway_end(struct gateway *g);
void gateway_deinit(struct gateway *g);

static inline struct gateway_worker *gateway_worker(const struct worker *w)
{
	return w->user;
}

/* In effect. Main thread, when prepared. */
static inline const struct relay_config *gateway_config(const struct gateway *g)
{
	return g->settings->config;
}

/* Where records of this worker's go; NULL: nowhere. */
static inline struct audit *gateway_audit(const struct worker *w)
{
	return gateway_worker(w)->audit;
}

/*
 * One more connection, about to be accepted, with a descriptor set aside for its target. NULL, or
 * what there is too little of: nothing has been counted then.
 */
const char *gateway_connection_begin(struct gateway *g);
/* There was none after all. */
void gateway_connection_none(struct gateway *g);
/*
 * It is there, and client->peer is who it is: counts it with its source (and no more with the one
 * it has been of so far), which it then holds until gateway_connection_over. Or why it may not stay
 * (SOURCE_LIMIT, PENALTY) and the setting that says so; it is over then.
 */
enum reason gateway_connection_from(struct gateway *g, struct client *client, uint64_t now,
				    const char **setting);
/* The same of one by a proxy that has not told whose it is: it has no limits until it is told. */
void gateway_connection_unknown(struct gateway *g, struct client *client);

static inline struct gateway *gateway_of_source(const struct source *s)
{
	return sources_user(s);
}

/* Whoever came by this connection has not shown who it is: see penalties. */
void gateway_failed_to_authenticate(const struct client *client, uint64_t now);

/* One accepted connection is gone. */
void gateway_connection_over(struct source *source);

/*
 * The same of a stream in a client's connection: it has no descriptor, only its target will.
 * REASON_NONE, or why not.
 */
enum reason gateway_stream_begin(struct source *source, const char **setting);
void gateway_stream_over(struct source *source);

/*
 * It is a tunnel or an HTTP/2 client's, or is joined to a stream in a tunnel: the target's
 * descriptor is free for others.
 */
static inline void gateway_target_unneeded(struct gateway *g)
{
	atomic_fetch_sub_explicit(&g->descriptors, 1, memory_order_relaxed);
}

/* The above undone, before gateway_connection_over. */
static inline void gateway_target_restored(struct gateway *g)
{
	atomic_fetch_add_explicit(&g->descriptors, 1, memory_order_relaxed);
}

/* The same as callbacks. */
void gateway_on_connection_over(void *source);
void gateway_on_stream_over(void *source);

/* What is in effect in this worker, for as long as the turn lasts. */
static inline const struct settings *gateway_settings(const struct worker *w)
{
	return gateway_worker(w)->settings;
}

/* The relay's own TLS at a listener; NULL: none there. */
static inline struct tls_context *gateway_tls(const struct listener *l)
{
	return l->tls;
}

static inline uint64_t gateway_next_id(struct gateway *g)
{
	return atomic_fetch_add_explicit(&g->next_id, 1, memory_order_relaxed) + 1;
}

/* Not of the streams' numbers: shifted, they would soon be more than a double holds (JSON). */
static inline uint64_t gateway_next_tunnel(struct gateway *g)
{
	return atomic_fetch_add_explicit(&g->next_tunnel, 1, memory_order_relaxed) + 1;
}

#endif
