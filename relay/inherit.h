/*
 * inherit: listening sockets that somebody else has opened for this process: systemd by a socket
 * unit, systemd's store of descriptors, where an earlier run left them, or the process whose place
 * this one takes (takeover.h).
 *
 * They wait here until bind.h asks for the one at an address. Until inherit_own they are lent: this
 * process may yet fail to start, and who gave them goes on; so it removes none of their paths.
 * Any thread may ask whether one is lent; all else is for the main thread, before others run.
 */
#ifndef RELAY_INHERIT_H
#define RELAY_INHERIT_H

#include <stdbool.h>
#include <stddef.h>

struct address;
struct bind_file;

#define INHERIT_MAX 1024     /* sockets; more are not taken */
#define INHERIT_NAME_MAX 200 /* systemd takes 255 */

/*
 * What a socket is called on its way: its address as configured, with commas for colons, and which
 * file its path is. NULL: it has none that could be said in plain ASCII.
 */
const char *inherit_name(const struct address *a, const struct bind_file *file,
			 char name[INHERIT_NAME_MAX]);

/* All that systemd handed over ($LISTEN_FDS). Once; the first who asks for a socket does it as
 * well. */
void inherit_from_systemd(void);
/* One from another process; name as above. fd is consumed. False: it is none to listen with. */
bool inherit_add(const char *name, int fd);

/*
 * The one at this address, non-blocking and close-on-exec: the caller's, but for one of fd:NAME,
 * which stays open and may be asked for again. *file, which may be NULL: which file its path is.
 * -1: none; *mismatch: there was one of this name, but it is something else, and was closed.
 */
int inherit_take(const struct address *a, struct bind_file *file, bool *mismatch);
/*
 * Is the one taken for fd:NAME there because a socket unit belongs to this service: will systemd
 * hand it to the next run, too? False of one that another process has handed on.
 */
bool inherit_by_unit(const struct address *a);
bool inherit_is_lent(const struct bind_file *file);
/* Is there one at this address, that nobody has taken? */
bool inherit_has(const struct address *a);

/* From now on those that were taken, all still open, are this process's own. */
void inherit_own(void);
/* Closes those that nobody took, and says so: their listeners are in the config no more. */
void inherit_close_rest(void);

#endif
