/*
 * serve: the streams of an agent: each one is joined to the local service it asks for.
 *
 * Lazy (default): the stream is taken on at once and the service is dialled when the client's first
 * byte, or its end, is there. Eager: the service is dialled first and the stream taken on after.
 * Thread: the worker's.
 */
#ifndef TUNNEL_SERVE_H
#define TUNNEL_SERVE_H

#include <stdint.h>

#include "relay/figure_class.h"
#include "relay/reason.h"
#include "relay/splice.h"

struct client_words;
struct conduit;
struct offer_config;
struct peer;
struct setup;
struct worker;

/* For metrics. Of a name: offers of it that follow one another share them. */
struct serve_counts {
	unsigned holders;
	uint64_t streams;      /* that reached their service */
	uint64_t live;         /* from accept to end */
	uint64_t bytes[SIDES]; /* from that side */
	uint64_t ended[FIGURE_CLASSES];
};

/* One service with what its splices need. Counted: its streams hold it. */
struct serve_offer {
	unsigned holders;
	struct setup *setup; /* whose config it is of: held */
	const struct offer_config *config;
	struct splice_spec spec;
	char address[128]; /* for log lines; a longer one is cut */
	struct serve_counts *counts;
};

/* All services, and the streams that are being served, over all relays. */
struct serve {
	struct worker *worker;
	struct setup *setup; /* held */
	struct serve_offer **offers;
	unsigned n_offers;
	uint64_t live;                         /* from accept to end; at most limits.streams */
	uint64_t counted;                      /* ever */
	uint64_t turned_away[REASONS];         /* streams that were not taken */
	void (*idle)(struct serve *v);         /* the last live one ended; may be NULL */
	struct serve_stream *streams, *joined; /* those without a splice, and with one */
};

/* deinit closes what is not joined; joined ones end with their session. */
void serve_init(struct serve *v, struct worker *w, struct setup *setup);
void serve_deinit(struct serve *v);
/*
 * Offers from now on what this one says. Live streams go on by what they began with; but those end
 * (REASON_REVOKED) whose service is no more, or whose client may not use it now. Out of memory ends
 * the program.
 */
void serve_reload(struct serve *v, struct setup *setup);

/* A stream while it is there. */
struct serve_live {
	uint64_t number; /* ours: 1, 2, ... */
	const char *id;  /* the relay's, or ours as well */
	const char *state, *relay, *owner;
	const struct serve_offer *offer;
	const struct peer *client; /* as the relay says; family 0: it does not */
	uint64_t age_ms, up, down;
};
/* l is valid during the call, in which none may begin or end. */
void serve_each(const struct serve *v, void (*each)(const struct serve_live *l, void *arg),
		void *arg);

/*
 * An agent session's accept. service has to be NAME.OWNER of an offer and of this owner; relay, its
 * address, is for people; words are the relay's.
 * On REASON_NONE the stream is ours, else it is still the caller's.
 */
enum reason serve_accept(struct serve *v, struct conduit *stream, const char *service,
			 const char *owner, const char *relay, const struct client_words *words);

#endif
