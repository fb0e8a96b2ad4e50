/* census_live: what is alive in a worker, streams and tunnels, as a census tells it. */
#ifndef RELAY_CENSUS_LIVE_H
#define RELAY_CENSUS_LIVE_H

struct census_page;
struct worker;

/* For census_ask. */
void census_streams(struct worker *w, struct census_page *page);
void census_tunnels(struct worker *w, struct census_page *page);
/* Ends question.one, with REASON_CLOSED_BY_ADMIN. Its id is in the answer if it was there. */
void census_close_stream(struct worker *w, struct census_page *page);
void census_close_tunnel(struct worker *w, struct census_page *page);

#endif
