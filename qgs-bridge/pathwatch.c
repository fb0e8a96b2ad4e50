/*
 * pathwatch: one file, through the folder it is in.
 *
 * Theory of operation: inotify watches the nearest folder above the path that is there. Whatever
 * happens in it, the path is looked at again: the watch moves down when the next folder has come,
 * up when the watched one is gone, and if the file is not the one it was, that is told.
 *
 * No race is left between looking and watching: after a folder is watched, what is below it is
 * looked for again.
 *
 * Owns the inotify instance and its one watch. Bounded work: a buffer of events a wake-up; what
 * they say does not matter, so an overrun does no harm.
 */
#include "qgs-bridge/pathwatch.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/edge.h"
#include "relay/worker.h"

#define EVENTS                                                                                     \
	(IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF |        \
	 IN_MOVE_SELF)
#define TRIES 16 /* folders that come and go while they are looked at */

/* What makes it another file. */
struct look {
	dev_t dev;
	ino_t ino;
	mode_t mode; /* 0: it is not there */
	uid_t uid;
	gid_t gid;
	struct timespec since; /* inode numbers are given again */
};

struct pathwatch {
	struct worker *worker;
	void (*changed)(void *user);
	void *user;
	int fd, wd; /* wd: -1 none */
	struct edge edge;
	struct look last;
	char path[PATHWATCH_MAX];
};

static struct look look_at(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return (struct look){ 0 };
	return (struct look){ st.st_dev, st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_ctim };
}

static bool same(const struct look *a, const struct look *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->mode == b->mode && a->uid == b->uid &&
	       a->gid == b->gid && a->since.tv_sec == b->since.tv_sec &&
	       a->since.tv_nsec == b->since.tv_nsec;
}

/* Cuts the last component off; false: nothing is left to cut. */
static bool go_up(char *path)
{
	char *slash = strrchr(path, '/');

	if (!slash || !path[1])
		return false;
	slash[slash == path] = '\0';
	return true;
}

/* Watches the nearest folder above. True: it is the nearest for certain. */
static bool watch_nearest(struct pathwatch *p)
{
	char above[PATHWATCH_MAX], below[PATHWATCH_MAX];
	int wd, error = 0;

	strcpy(above, p->path);
	for (;;) {
		strcpy(below, above);
		if (!go_up(above))
			return true;
		wd = inotify_add_watch(p->fd, above, EVENTS | IN_ONLYDIR);
		if (wd >= 0 || (errno != ENOENT && errno != ENOTDIR && errno != EACCES))
			break;
		error = errno; /* of what is below the next one */
	}
	if (p->wd >= 0 && p->wd != wd)
		inotify_rm_watch(p->fd, p->wd);
	p->wd = wd;
	return error != ENOENT || access(below, F_OK) < 0;
}

static void watch(struct pathwatch *p)
{
	for (int i = 0; i < TRIES && !watch_nearest(p);)
		i++;
}

static void on_events(struct edge *e, uint32_t events)
{
	struct pathwatch *p = (struct pathwatch *)((char *)e - offsetof(struct pathwatch, edge));
	struct look now;

	while (read(p->fd, p->worker->scratch, WORKER_SCRATCH) > 0)
		;
	watch(p);
	now = look_at(p->path);
	if (same(&now, &p->last))
		return;
	p->last = now;
	p->changed(p->user);
}

struct pathwatch *pathwatch_new(struct worker *w, const char *path, void (*changed)(void *user),
				void *user)
{
	struct pathwatch *p;
	int r;

	if (strlen(path) >= PATHWATCH_MAX) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	strcpy(p->path, path);
	p->worker = w;
	p->changed = changed;
	p->user = user;
	p->wd = -1;
	p->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (p->fd < 0)
		return pathwatch_free(p);
	r = edge_watch(w, &p->edge, p->fd, EPOLLIN, on_events);
	if (r < 0) {
		pathwatch_free(p);
		errno = -r;
		return NULL;
	}
	watch(p);
	p->last = look_at(path);
	return p;
}

struct pathwatch *pathwatch_free(struct pathwatch *p)
{
	int error = errno;

	if (!p)
		return NULL;
	edge_forget(&p->edge);
	if (p->fd >= 0)
		close(p->fd);
	free(p);
	errno = error;
	return NULL;
}
