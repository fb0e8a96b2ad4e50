/*
 * pathwatch: tells when a path comes, goes, or is another file than before (inotify).
 *
 * The folders above may come and go as well. Only what changes the file itself is told: its inode,
 * its mode, its owner. Mounts are not seen: who must know of those looks for itself now and then.
 */
#ifndef QGS_BRIDGE_PATHWATCH_H
#define QGS_BRIDGE_PATHWATCH_H

struct pathwatch;
struct worker;

#define PATHWATCH_MAX 256 /* longest path, with NUL: one of a Unix socket is shorter */

/* path: absolute, copied. NULL: errno says why (a limit of inotify's, mostly). */
struct pathwatch *pathwatch_new(struct worker *w, const char *path, void (*changed)(void *user),
				void *user);
struct pathwatch *pathwatch_free(struct pathwatch *p); /* NULL is fine */

#endif
