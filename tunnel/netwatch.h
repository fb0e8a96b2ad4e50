/* netwatch: tells when the machine's addresses, links or routes changed (rtnetlink). */
#ifndef TUNNEL_NETWATCH_H
#define TUNNEL_NETWATCH_H

#define NETWATCH_SETTLE_MS 200 /* changes come in bursts: wait for the burst's end */
#define NETWATCH_PAUSE_MS 5000 /* at most one call in this time */

struct worker;
struct netwatch;

/*
 * changed is called from the loop. NULL: the kernel or a sandbox has no netlink for us (logged at
 * debug): the program goes on without.
 */
struct netwatch *netwatch_new(struct worker *w, void (*changed)(void *user), void *user);
struct netwatch *netwatch_free(struct netwatch *n); /* NULL is fine; not from changed */

#endif
