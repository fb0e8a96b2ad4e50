/*
 * linger: closes a conduit in order after some last words.
 *
 * Closing a socket in which received bytes lie unread makes the kernel send RST, which can destroy
 * what we wrote just before at the peer. So: EOF to the peer, then read and forget until it ends
 * too.
 */
#ifndef RELAY_LINGER_H
#define RELAY_LINGER_H

struct conduit;

#define LINGER_MS 2000			       /* no longer than this */
#define LINGER_BYTES ((size_t)1024 * 1024) /* nor for more than this */

/*
 * Consumes the conduit. over(arg) is called once when it is closed for good, perhaps before this
 * returns: until then the connection is one, and has to be counted as one. NULL: nobody counts.
 */
void linger_close(struct conduit *c, void (*over)(void *arg), void *arg);

#endif
