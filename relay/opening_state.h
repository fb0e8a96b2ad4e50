/*
 * opening_state: what an opening and its search share; see relay/opening.h for the contract.
 *
 * opening.c has an opening's life: its record, its joining, its end. search.c has its way to a
 * target.
 */
#ifndef RELAY_OPENING_STATE_H
#define RELAY_OPENING_STATE_H

#include "relay/destination.h"
#include "relay/gateway.h"
#include "relay/listener.h"
#include "relay/peer.h"
#include "relay/splice.h"
#include "relay/worker.h"

struct figure;
struct search;

/* One per stream for as long as it lives: kept small. */
struct opening {
	struct worker *worker;
	struct listener
		*listener;      /* a reference; of another worker's, maybe: its name, its gateway */
	struct destination *to; /* as it was when this began; a reference */
	struct conduit *client; /* until joined */
	struct splice *splice;  /* when joined */
	struct search *search;  /* until joined */
	/* For the log: the target in use. tunnel: its label, if it is none that is dialled. */
	const struct address *dialled;
	char *tunnel;
	const char *carrier;  /* of that tunnel; static */
	uint64_t tunnel_id;   /* the same; it may be over by now */
	char *target_address; /* for the audit: the tunnel's agent, or what dialled has led to */
	struct figure *figure; /* its service's */
	uint64_t counted[SIDES]; /* bytes of its splice that the figure has */
	struct claim claim; /* what it has of its owner's, source's and client's limits */
	struct source *source; /* its connection counts there */
	struct registry_load *load; /* of the tunnel it is in, or on its way to; or NULL */
	/* Who the client is, and may be until when; see settings.h. */
	struct identity *identity; /* a reference, or NULL */
	char *rule;                /* the entry of clients that allows it; NULL: none is needed */
	uint64_t until;            /* seconds since 1970 */
	uint64_t judged;           /* the generation of the settings that allowed it */
	char *proxy;        /* for the log: whoever has said who the client is; NULL: nobody */
	uint64_t id, began; /* began: worker_now */
	struct opening *link, **prevp;
	struct reapable reapable;
	struct peer peer;
	enum door door;
	bool answered;   /* the door has said yes */
	bool lingers;    /* the client's connection ends after us, and counts until then */
	bool in_tunnel;  /* joined to a stream, which takes no descriptor */
	bool in_session; /* the client is a stream */
	bool untold;     /* peer is a proxy, which has not told whose the stream is */
	bool crossed;    /* ... and the crossing it is behind counts until it is over */
	char service[];  /* its name */
};

static inline struct gateway *opening_gateway(const struct opening *o)
{
	return o->listener->gateway;
}

/* From one of the worker's lists to another; the opening is always in one, but on its way. */
void opening_enlist(struct opening *o, struct opening **list);
void opening_delist(struct opening *o);
void opening_count(const struct opening *o, enum counter which, int change);
/* It has taken from since (worker_now) until now. */
void opening_note_time(const struct opening *o, enum durations_kind kind, uint64_t since);
/* The target in use, for people. */
const char *opening_via(const struct opening *o, char text[ADDRESS_TEXT_MAX]);
void opening_set_text(char **to, const char *text);

/* May it (still)? REASON_NONE, or why not. By the settings of its worker. */
enum reason opening_judge(struct opening *o);

/*
 * Its client, a stream of a session, behind a crossing: the far end, in no worker yet. NULL: out of
 * memory.
 */
struct conduit *opening_cross(struct opening *o);

/* What a search comes to, once; it is over then. The target is consumed. */
void opening_join(struct opening *o, struct conduit *target);
void opening_refuse(struct opening *o, enum reason why);

#endif
