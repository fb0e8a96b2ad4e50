/*
 * folders: which folders match a path with one '*' in it, now and from now on (inotify).
 *
 * With /run/vms/VM-?/vm.vsock each folder of /run/vms that matches and is there is told. Coming
 * and going is told once each. The folder above may itself come and go.
 */
#ifndef QGS_BRIDGE_FOLDERS_H
#define QGS_BRIDGE_FOLDERS_H

#include <stdbool.h>

struct folders;
struct worker;

#define FOLDERS_NAME_MAX 64 /* longest name that is taken, with NUL */

struct folders_events {
	/* path: the pattern with '*' replaced; both are valid during the call. */
	void (*came)(void *user, const char *name, const char *path);
	void (*went)(void *user, const char *name);
};

/*
 * pattern: absolute, '*' in one component, which is not the last (or it may be: then it is sockets
 * that are told, as with chardevs). At most max at a time; more are logged and left out. Those
 * already there are told from the loop. NULL: errno says why.
 */
struct folders *folders_new(struct worker *w, const char *pattern, unsigned max,
			    const struct folders_events *events, void *user);
struct folders *folders_free(struct folders *f); /* nothing is told; NULL is fine */
bool folders_is_pattern(const char *path);

#endif
