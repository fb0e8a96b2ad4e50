/*
 * refresh: takes certificates, keys, CAs and revocation lists anew when their files have changed.
 *
 * The config itself is not looked at: that is for a reload. Thread: the main one.
 */
#ifndef RELAY_REFRESH_H
#define RELAY_REFRESH_H

struct event_base;
struct gateway;
struct refresh;

/*
 * How often files are looked at. A change is taken when two looks in a row have found the same, so
 * that a pair is not taken between its halves.
 */
#define REFRESH_LOOK_MS 2000
#define REFRESH_AGAIN_LOOKS 30 /* and what could not be taken is tried again after so many */

/* g is prepared, and outlives it. NULL: out of memory. */
struct refresh *refresh_start(struct event_base *base, struct gateway *g);
struct refresh *refresh_stop(struct refresh *r); /* NULL is fine; returns NULL */

#endif
