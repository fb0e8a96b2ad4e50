/*
 * folders: which folders match a path with one '*' in it.
 *
 * Theory of operation: one inotify watch, on the folder above those that match, or on the nearest
 * one above it that is there. An event that may matter, an overrun of the kernel's queue, and a
 * look now and then at whether the folder is another or has changed, all lead to the same: the
 * watch is placed anew by its path, the folder is read, and what differs from what was told is
 * told. So nothing depends on the order of events, but for one thing: who was deleted has gone,
 * even if one of his name and inode is there again by the time that the folder is read.
 *
 * The folder is read twice: who is gone makes room for who is new. If it cannot be read for another
 * reason than that it is not there, nobody has gone; the next look tries again.
 *
 * Known: a sorted array of at most max. Bounded work: FOLDERS_READS of events a wake-up, then
 * others have a turn; FOLDERS_ENTRIES_MAX.
 */
#include "qgs-bridge/folders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/edge.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define FOLDERS_READS 16
#define PLACE_TRIES 8 /* folders may come while the watch is being placed */
#define WATCHED                                                                                \
	(IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | \
	 IN_ONLYDIR)

struct folder {
	char name[FOLDERS_NAME_MAX];
	ino_t ino;
	bool seen;     /* in the reading that goes on */
	bool replaced; /* it has gone, whatever is there now */
};

/* Which state of the folder above was read. */
struct stamp {
	dev_t dev;
	ino_t ino; /* 0: none */
	struct timespec changed;
};

struct folders {
	struct worker *worker;
	const struct folders_events *events;
	void *user;
	int fd, wd; /* inotify; wd -1: no watch */
	struct edge edge;
	struct timer timer;
	struct stamp stamp;
	/* the pattern's pieces: above/BEFORE*AFTER, then rest ("" or "/...") */
	char *above, *before, *after, *rest;
	const char *awaited; /* the part of above that is not there, or NULL: above is watched */
	struct folder *known;
	unsigned n, room, max;
};

/* --- names --- */

bool folders_is_pattern(const char *path)
{
	return path[0] == '/' && strchr(path, '*');
}

static bool is_harmless(const char *name, size_t len)
{
	static const char harmless[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				       "0123456789._-+:@";

	return len > 0 && len < FOLDERS_NAME_MAX && strspn(name, harmless) >= len;
}

/* What '*' stands for in an entry's name. False: it does not match. */
static bool matches(const struct folders *f, const char *entry, char name[FOLDERS_NAME_MAX])
{
	size_t len = strlen(entry), before = strlen(f->before), after = strlen(f->after);

	if (len <= before + after || strncmp(entry, f->before, before) != 0 ||
	    strcmp(entry + len - after, f->after) != 0)
		return false;
	if (entry[0] == '.' && !before) /* hidden: being made, or none of our business */
		return false;
	len -= before + after;
	if (!is_harmless(entry + before, len)) {
		log_limited(LOG_LEVEL_WARNING, NULL, 0,
			    "%s: an entry is left out: its name is over %d bytes or has other "
			    "characters than letters, digits and ._-+:@",
			    f->above, FOLDERS_NAME_MAX - 1);
		return false;
	}
	memcpy(name, entry + before, len);
	name[len] = '\0';
	return true;
}

/* --- who is known --- */

/* Where it is, or where it belongs. */
static unsigned find(const struct folders *f, const char *name, bool *there)
{
	unsigned from = 0, to = f->n;

	while (from < to) {
		unsigned middle = from + (to - from) / 2;
		int order = strcmp(f->known[middle].name, name);

		if (order == 0) {
			*there = true;
			return middle;
		}
		if (order < 0)
			from = middle + 1;
		else
			to = middle;
	}
	*there = false;
	return from;
}

static void tell_came(struct folders *f, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s%s%s%s", f->above, f->before, name, f->after, f->rest);
	f->events->came(f->user, name, path);
}

static void tell_went(struct folders *f, unsigned at)
{
	char name[FOLDERS_NAME_MAX];

	memcpy(name, f->known[at].name, sizeof(name));
	f->n--;
	memmove(&f->known[at], &f->known[at + 1], (f->n - at) * sizeof(f->known[0]));
	f->events->went(f->user, name);
}

static void add(struct folders *f, unsigned at, const char *name, ino_t ino)
{
	if (f->n >= f->max || f->n == f->room) {
		log_limited(LOG_LEVEL_WARNING, NULL, 0,
			    "%s: more than %u match (limits.vms): the others are left out",
			    f->above, f->max);
		return;
	}
	memmove(&f->known[at + 1], &f->known[at], (f->n - at) * sizeof(f->known[0]));
	f->known[at] = (struct folder){ .ino = ino };
	strcpy(f->known[at].name, name);
	f->n++;
	tell_came(f, name);
}

/* --- reading the folder --- */

/* A folder, or a socket if '*' is in the last component; not a link to one. */
static bool is_wanted(const struct folders *f, int dir, const struct dirent *entry)
{
	bool sockets = !f->rest[0];
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == (sockets ? DT_SOCK : DT_DIR);
	if (fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	return sockets ? S_ISSOCK(st.st_mode) : S_ISDIR(st.st_mode);
}

static void mark(struct folders *f, const char *name, ino_t ino)
{
	bool there;
	unsigned at = find(f, name, &there);

	if (there && f->known[at].ino == ino)
		f->known[at].seen = true;
}

static void add_new(struct folders *f, const char *name, ino_t ino)
{
	bool there;
	unsigned at = find(f, name, &there);

	if (!there)
		add(f, at, name, ino);
}

/* False: it could not be read to its end. */
static bool each_entry(struct folders *f, DIR *dir,
		       void (*take)(struct folders *f, const char *name, ino_t ino))
{
	char name[FOLDERS_NAME_MAX];
	struct dirent *entry;

	for (unsigned i = 0; i < FOLDERS_ENTRIES_MAX; i++) {
		errno = 0;
		entry = readdir(dir);
		if (!entry)
			return errno == 0;
		if (matches(f, entry->d_name, name) && is_wanted(f, dirfd(dir), entry))
			take(f, name, entry->d_ino);
	}
	log_limited(LOG_LEVEL_WARNING, NULL, 0, "%s: more than %d entries: the others are left out",
		    f->above, FOLDERS_ENTRIES_MAX);
	return true;
}

static void tell_gone(struct folders *f)
{
	for (unsigned i = f->n; i-- > 0;)
		if (!f->known[i].seen || f->known[i].replaced)
			tell_went(f, i);
}

static struct stamp stamp_of(const struct stat *st)
{
	return (struct stamp){ .dev = st->st_dev, .ino = st->st_ino, .changed = st->st_mtim };
}

static void read_folder(struct folders *f)
{
	DIR *dir = opendir(f->above[0] ? f->above : "/");
	struct stat st;
	bool whole = false;

	f->stamp = (struct stamp){ 0 }; /* what fails is tried again at the next look */
	for (unsigned i = 0; i < f->n; i++)
		f->known[i].seen = false;
	if (!dir && (errno == ENOENT || errno == ENOTDIR)) {
		tell_gone(f);
		return;
	}
	if (dir && fstat(dirfd(dir), &st) == 0 && each_entry(f, dir, mark)) {
		tell_gone(f);
		rewinddir(dir);
		whole = each_entry(f, dir, add_new);
	}
	if (whole)
		f->stamp = stamp_of(&st);
	else
		log_limited(LOG_LEVEL_WARNING, NULL, 0, "%s cannot be read: %s", f->above,
			    strerror(errno));
	if (dir)
		closedir(dir);
}

/* --- watching --- */

/* Watches the first len bytes of above, as a path. False: it is not there. */
static bool watch(struct folders *f, size_t len)
{
	char path[PATH_MAX];
	int wd;

	snprintf(path, sizeof(path), "%.*s", len ? (int)len : 1, len ? f->above : "/");
	wd = inotify_add_watch(f->fd, path, WATCHED);
	if (wd < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			log_limited(LOG_LEVEL_WARNING, NULL, 0,
				    "%s cannot be watched, and is looked at every %d s: %s", path,
				    FOLDERS_LOOK_MS / 1000, strerror(errno));
		return false;
	}
	if (f->wd >= 0 && f->wd != wd)
		inotify_rm_watch(f->fd, f->wd);
	f->wd = wd;
	f->awaited = f->above[len] ? f->above + len + 1 : NULL;
	return true;
}

/* Is what is waited for there, by now? */
static bool has_come(const struct folders *f)
{
	size_t len = (size_t)(f->awaited - f->above) + strcspn(f->awaited, "/");
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%.*s", (int)len, f->above);
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* On the folder above, or on the nearest above that. */
static void place_watch(struct folders *f)
{
	for (unsigned i = 0; i < PLACE_TRIES; i++) {
		size_t len = strlen(f->above);

		while (!watch(f, len) && len)
			while (f->above[--len] != '/')
				;
		if (f->wd < 0 || !f->awaited || !has_come(f))
			return;
	}
}

static void look_again(struct folders *f)
{
	place_watch(f);
	read_folder(f);
}

static void on_timer(struct timer *t)
{
	struct folders *f = (struct folders *)((char *)t - offsetof(struct folders, timer));
	struct stamp now = { 0 };
	struct stat st;

	if (stat(f->above[0] ? f->above : "/", &st) == 0)
		now = stamp_of(&st);
	timer_set(f->worker, t, FOLDERS_LOOK_MS, on_timer);
	if (now.dev != f->stamp.dev || now.ino != f->stamp.ino ||
	    now.changed.tv_sec != f->stamp.changed.tv_sec ||
	    now.changed.tv_nsec != f->stamp.changed.tv_nsec)
		look_again(f);
}

/* Of an event: is there anything to look at? Who was removed is marked. */
static bool matters(struct folders *f, const struct inotify_event *event)
{
	char name[FOLDERS_NAME_MAX];
	unsigned at;
	bool there;

	if (event->mask & IN_Q_OVERFLOW)
		return true;
	if (event->wd != f->wd)
		return false; /* of an earlier watch */
	if (event->mask & IN_IGNORED)
		f->wd = -1;
	if (!event->len)
		return true; /* of the folder itself */
	if (f->awaited) {
		size_t len = strcspn(f->awaited, "/");

		return strncmp(event->name, f->awaited, len) == 0 && !event->name[len];
	}
	if (!matches(f, event->name, name))
		return false;
	at = find(f, name, &there);
	if (there && event->mask & (IN_DELETE | IN_MOVED_FROM))
		f->known[at].replaced = true;
	return true;
}

static void on_readable(struct edge *e, uint32_t events)
{
	struct folders *f = (struct folders *)((char *)e - offsetof(struct folders, edge));
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	unsigned reads = 0;
	bool look = false;
	ssize_t len = 0;

	while (reads++ < FOLDERS_READS && (len = read(f->fd, buf, sizeof(buf))) > 0) {
		const struct inotify_event *event;

		for (ssize_t at = 0; at < len; at += (ssize_t)(sizeof(*event) + event->len)) {
			event = (const struct inotify_event *)(const void *)(buf + at);
			look |= matters(f, event);
		}
	}
	if (len > 0)
		edge_change(e, EPOLLIN); /* there may be more: in the next turn */
	if (look)
		look_again(f);
}

/* --- begin and end --- */

/* Takes the pattern apart. 0 or -errno. */
static int take_apart(struct folders *f, const char *pattern)
{
	const char *star = strchr(pattern, '*'), *slash, *end;

	if (pattern[0] != '/' || !star || strchr(star + 1, '*') || strlen(pattern) >= PATH_MAX / 2)
		return -EINVAL;
	for (slash = star; *slash != '/'; slash--)
		;
	end = star + strcspn(star, "/");
	while (slash > pattern && slash[-1] == '/') /* no empty components before it */
		slash--;
	f->above = strndup(pattern, (size_t)(slash - pattern));
	slash += strspn(slash, "/");
	f->before = strndup(slash, (size_t)(star - slash));
	f->after = strndup(star + 1, (size_t)(end - star - 1));
	f->rest = strdup(end);
	return f->above && f->before && f->after && f->rest ? 0 : -ENOMEM;
}

struct folders *folders_new(struct worker *w, const char *pattern, unsigned max,
			    const struct folders_events *events, void *user)
{
	struct folders *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return NULL;
	f->worker = w;
	f->events = events;
	f->user = user;
	f->max = max;
	f->wd = -1;
	f->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	f->room = max ? max : 1;
	f->known = calloc(f->room, sizeof(f->known[0]));
	r = f->fd < 0 ? -errno : !f->known ? -ENOMEM : take_apart(f, pattern);
	if (r == 0)
		r = edge_watch(w, &f->edge, f->fd, EPOLLIN, on_readable);
	if (r < 0) {
		folders_free(f);
		errno = -r;
		return NULL;
	}
	/* an impossible stamp: the first look finds that all is new */
	f->stamp.ino = (ino_t)-1;
	timer_set(w, &f->timer, 0, on_timer);
	return f;
}

void folders_limit(struct folders *f, unsigned max)
{
	struct folder *known = max > f->room ? realloc(f->known, max * sizeof(*known)) : NULL;

	if (known) {
		f->known = known;
		f->room = max;
	}
	if (max > f->max)
		f->stamp = (struct stamp){ 0 }; /* for those that were left out */
	f->max = max;
}

struct folders *folders_free(struct folders *f)
{
	if (!f)
		return NULL;
	timer_cancel(f->worker, &f->timer);
	edge_forget(&f->edge);
	if (f->fd >= 0)
		close(f->fd);
	free(f->above);
	free(f->before);
	free(f->after);
	free(f->rest);
	free(f->known);
	free(f);
	return NULL;
}
