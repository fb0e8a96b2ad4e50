/*
 * link_line: one attempt of a link to reach its relay and, if it comes to that, the session that
 * follows.
 *
 * A line knows how to get to a session and what is said on it. Which line serves, when the relay is
 * told who we are, and what comes after a line's end are the link's: each thing that happens is
 * told to it by one of the functions of link.h, "what its lines tell it".
 */
#ifndef TUNNEL_LINK_LINE_H
#define TUNNEL_LINK_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/timer.h"
#include "relay/worker.h"
#include "tunnel/carrier.h"
#include "tunnel/hello.h"

struct link;
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

struct link_line {
	struct link *link;               /* held */
	struct setup *setup;             /* it was begun with: held */
	uint64_t wave;                   /* the agent's when it was begun */
	int32_t hello;                   /* the relay's question who we are */
	struct link_line *next, **prevp; /* of agent->lines */
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

/*
 * Begins one, which ends by link_ended. first_failure: why the other carrier did not do, or
 * NULL: this is the first. NULL: out of memory.
 */
struct link_line *link_line_open(struct link *l, enum carrier_kind kind, const char *first_failure);

/* Tells the relay who we are; with asking set, only to hear whether it would have us. */
void link_line_answer(struct link_line *line);
/* It serves from now on, which the relay has said. */
void link_line_up(struct link_line *line);
/* The relay ends it, or is to: it takes no new streams. */
void link_line_retiring(struct link_line *line);
/* Ends it at once, as part of our shutdown. */
void link_line_close(struct link_line *line);

#endif
