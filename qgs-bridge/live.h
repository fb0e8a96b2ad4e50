/* live: what is known of a connection from a guest while it is there. */
#ifndef QGS_BRIDGE_LIVE_H
#define QGS_BRIDGE_LIVE_H

#include <stdint.h>

struct bridge;
struct caller;

struct live {
	const struct caller *caller;
	const char *kind;    /* "quote", "plain", "forward" */
	const char *state;   /* docs/admin-api.md */
	const char *service; /* as in caller_end.to */
	const char *relay;   /* the one that has it; NULL: none, or none yet */
	uint64_t up, down;   /* bytes */
};
/* l is valid during the call, in which none may begin or end. */
typedef void live_each(const struct live *l, void *arg);

#endif
