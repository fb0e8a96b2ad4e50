/*
 * link: an agent's standing connection to one relay: keeps one session up, replaces it when it is
 * lost or when the relay asks for a fresh one.
 *
 * A line (link_line.h) is one attempt and, if it comes to that, the session that follows. A link
 * has at most one line that is being made (pending) and one that is up (active), besides those that
 * are retiring.
 */
#ifndef TUNNEL_LINK_H
#define TUNNEL_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "config/address.h"
#include "relay/timer.h"
#include "tunnel/backoff.h"
#include "tunnel/carrier.h"
#include "tunnel/hello.h"
#include "tunnel/link_line.h"

struct agent;
struct link;
struct proxy;
struct setup;

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
	struct link_line *active, *pending;
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

/* ---- what its lines tell it ---- */

/* The relay asks who we are: link_line_answer follows, now or when that loses nobody. */
void link_greeted(struct link_line *line);
/* ... and would have us; or has us. */
void link_agreed(struct link_line *line);
void link_accepted(struct link_line *line, const struct hello_accepted *a);
/* It asks for a fresh session. */
void link_move(struct link_line *line, enum hello_move why);
/* It takes no new streams on this one. */
void link_goaway(struct link_line *line);
/* It knows that this one retires, or has had its time to. */
void link_heard(struct link_line *line);
/* retiring: it was. reached: something answered. The line is freed when the turn is over. */
void link_ended(struct link_line *line, bool retiring, enum reason why, bool reached,
		const char *detail);

#endif
