/*
 * folders: which folders match a path with one '*' in it, now and from now on (inotify).
 *
 * With @ for the star: /run/vms/@/vm.vsock tells of each folder X of /run/vms. Coming and going is
 * told once each; one that is replaced by another of its name goes and comes. The folder above may
 * itself come and go. Only real folders count, no symbolic links to one: who may write there would
 * have us go where he likes.
 */
#ifndef QGS_BRIDGE_FOLDERS_H
#define QGS_BRIDGE_FOLDERS_H

#include <stdbool.h>

struct folders;
struct worker;

#define FOLDERS_NAME_MAX 64       /* longest name that is taken, with NUL */
#define FOLDERS_ENTRIES_MAX 65536 /* of the folder above that are looked at */
#define FOLDERS_LOOK_MS 5000      /* for what inotify does not tell: mounts, remote file systems */

struct folders_events {
	/*
	 * name: what '*' stands for; path: the pattern with it replaced; both are valid during the
	 * call. Neither may free the folders.
	 */
	void (*came)(void *user, const char *name, const char *path);
	void (*went)(void *user, const char *name);
};

/*
 * pattern: absolute, '*' once, in any component; in the last one it is sockets that are told, as
 * with chardevs, else folders. '*' stands for 1 to FOLDERS_NAME_MAX - 1 letters, digits and any of
 * "._-+:@", and for no '.' at the beginning of a component. At most max at a time; what is left out
 * is logged. Those already there are told from the loop. NULL: errno says why (EINVAL: no such
 * pattern).
 */
struct folders *folders_new(struct worker *w, const char *pattern, unsigned max,
			    const struct folders_events *events, void *user);
struct folders *folders_free(struct folders *f); /* nothing is told; NULL is fine */
/* Another max, from the next look on; those that are there stay, even if they are more. */
void folders_limit(struct folders *f, unsigned max);
bool folders_is_pattern(const char *path);

#endif
