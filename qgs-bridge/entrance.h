/*
 * entrance: one listener of the config as sockets: made, taken away while QGS is down, made again.
 *
 * A path with '*' is one socket for each folder that matches (folders.h), any other address is one
 * socket. Those with socket: connect hold a connection to each instead (chardev.h). What may not be
 * had now (a folder that is not there yet, an address in use) is tried again; a path or a network
 * namespace that somebody takes away is noticed, and the socket made anew.
 */
#ifndef QGS_BRIDGE_ENTRANCE_H
#define QGS_BRIDGE_ENTRANCE_H

#include <stdbool.h>

#include "config/bridge.h"

struct bridge;
struct entrance;

#define ENTRANCE_RETRY_MS 1000 /* until the next try at what could not be made */
#define ENTRANCE_LOOK_MS 5000  /* until the next look whether all are still there */

/*
 * config must outlive it (the bridge holds a reference of its file's). Nothing is open yet. NULL:
 * out of memory.
 */
struct entrance *entrance_new(struct bridge *b, const struct entrance_config *config);
/* Removes its paths, and takes in who is in its queues: before entrance_free, if they may stay. */
void entrance_drain(struct entrance *e);
/* Closes its sockets and removes their paths; connections that came by it go on. NULL is fine. */
struct entrance *entrance_free(struct entrance *e);

/*
 * Tries whether it can be opened at all, and leaves no socket behind: 0, or negative with *why (to
 * be freed, may be NULL). For the start of the program, where a wrong address is to end it. What
 * can only be seen later is fine: a pattern, a network namespace that is not there yet.
 */
int entrance_try(struct entrance *e, char **why);
/* Opens it, now and again whenever something keeps it closed; what fails is logged once. */
void entrance_open(struct entrance *e);
/*
 * Takes it away: Unix paths are removed, vsock and TCP listeners closed; who waits in the kernel's
 * queue is reset, as he would be in that of a QGS that ends. fd: (systemd's) cannot be taken away:
 * it accepts and closes at once meanwhile.
 */
void entrance_close(struct entrance *e);
bool entrance_is_open(const struct entrance *e);
unsigned entrance_sockets(const struct entrance *e); /* open now */
const struct entrance_config *entrance_config(const struct entrance *e);
/* An equal listener, read anew: its sockets stay. The old pointer is forgotten. */
void entrance_adopt(struct entrance *e, const struct entrance_config *config);
/* Both would be made the same way. */
bool entrance_equal(const struct entrance_config *a, const struct entrance_config *b);

#endif
