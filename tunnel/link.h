/*
 * link: an agent's standing connection to one relay: keeps one session up, replaces it when it is
 * lost or when the relay asks for a fresh one.
 *
 * A line is one attempt and, if it comes to that, the session that follows. A link has at most one
 * line that is being made (pending) and one that is up (active), besides those that are retiring.
 */
#ifndef TUNNEL_LINK_H
#define TUNNEL_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "config/address.h"
#include "relay/timer.h"
#include "relay/worker.h"
#include "tunnel/backoff.h"
#include "tunnel/carrier.h"
#include "tunnel/hello.h"

struct agent;
struct link;
struct proxy;
struct session;
struct setup;

/* In this order only. */
enum line_state {
	LINE_CONNECTING,  /* carrier: the network */
	LINE_HANDSHAKING, /* carrier: TLS, and the WebSocket upgrade */
	LINE_HELLO,       /* session; who we are is being settled: HELLO_ANSWER_MS for each step */
	LINE_UP,          /* session; accepted: streams are served */
	LINE_RETIRING,    /* session; live streams finish */
	LINE_OVER,        /* neither; freed at the end of the turn */
	LINE_STATES
};

#define LINK_DETAIL_MAX 768

struct line {
	struct link *link;          /* held */
	struct setup *setup;        /* it was begun with: held */
	uint64_t wave;              /* the agent's when it was begun */
	int32_t hello;              /* the relay's question who we are */
	struct line *next, **prevp; /* of agent->lines */
	enum line_state state;
	enum carrier_kind kind;
	bool second;  /* the other carrier was tried just before, and failed */
	bool greeted; /* the hello was answered: this is a relay's tunnel door */
	bool held;   /* its answer waits until the relay knows that the session before it retires */
	bool asking; /* the answer was a question only: would this be accepted? */
	bool agreed; /* ... and it would */
	bool heard;  /* retiring by our wish: the relay knows, or has had its time to */
	bool refused;
	enum hello_refusal refusal;
	struct carrier *carrier;
	struct session *session;
	struct timer timer;
	struct reapable reapable;
	uint64_t up_since;
	char owner[HELLO_LABEL_MAX];  /* up: whom the relay takes us for */
	char detail[LINK_DETAIL_MAX]; /* why it ended, if we know better than the session */
};

struct link {
	unsigned holders; /* the agent, and lines */
	struct agent *agent;
	struct setup *setup; /* whose relay it is: held */
	unsigned place;      /* which instance name it has */
	bool left;           /* the relay is in the config no more */
	uint64_t agreed;     /* the last wave that the relay would accept */
	const struct address *address;
	const char *name; /* the relay's, for SNI and verification... */
	bool named;       /* ... given by hand: not the host of the address */
	char text[ADDRESS_TEXT_MAX];
	const struct proxy *proxy; /* what is between us and it; or NULL */
	char instance[HELLO_INSTANCE_MAX];
	enum carrier_kind kind; /* to try next: what worked last */
	struct line *active, *pending;
	bool moving;   /* active is up, but a fresh session was asked for */
	bool refused;  /* the last attempt was, for good */
	bool finished; /* once: nothing more will be tried */
	struct backoff backoff;
	struct timer timer;         /* set: waiting to try */
	char said[LINK_DETAIL_MAX]; /* the last failure that was logged for all to see... */
	uint64_t said_at;           /* ... and when */
	uint64_t sessions, failures, losses; /* accepted, attempts in vain, lost: for metrics */
};

/*
 * As whom an agent is known to the relay of this place in the config. Two addresses may lead to one
 * relay, where the same instance would take over from itself without end: so each but the first has
 * a suffix to its name.
 */
void link_name_instance(char out[HELLO_INSTANCE_MAX], const char *instance, unsigned index);

/* index: the relay's place in the agent's config; place: which instance name. */
struct link *link_new(struct agent *a, unsigned index, unsigned place);
void link_follow(struct link *l, unsigned index); /* in the agent's config of now it is there */
void link_leave(struct link *l); /* it is not: ends in order, and the agent's hold of it */
void link_unref(struct link *l);
void link_connect(struct link *l);                 /* now, if it needs a session */
void link_retry(struct link *l, bool refused_too); /* if it waits, or should have another one */
void link_stop(struct link *l);                    /* retires what is up, gives up what is not */

void line_close(struct line *line); /* ends it at once, as part of our shutdown */

#endif
