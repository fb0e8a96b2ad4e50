/*
 * vms: the table of VMs: the config's, and drop-in files.
 *
 * Theory of operation: the folder is read as a whole: at the start, and VMS_SETTLE_MS after an
 * inotify event that asks for it, so that a burst of writes is one reading or two. A file is
 * parsed again only if it looks different (inode, size, time of change). The new list replaces the
 * old one at once; the old one goes after changed() has returned.
 *
 * inotify watches the folder itself and not the way to it: a timer looks whether the path still
 * leads there. While it leads nowhere the timer looks for it; while it cannot be watched (a limit
 * of inotify's) the timer reads it.
 *
 * A file that is wrong keeps what it said before and its new looks, so it is complained of once.
 */
#include "qgs-bridge/vms.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/scalar.h"
#include "qgs-bridge/who.h"
#include "relay/edge.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define VMS_SETTLE_MS 50 /* from the first event to the reading */
#define VMS_LOOK_MS 2000 /* between looks at the way there */
#define EVENTS                                                                              \
	(IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_ATTRIB | \
	 IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

/* What tells one state of a file from another. */
struct looks {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec changed;
};

struct file {
	char *name;
	struct looks looks;
	struct vm_file *content; /* NULL: it never was right */
};

struct files {
	struct file *at; /* sorted by name */
	size_t n;
};

struct vms {
	struct worker *worker;
	const struct bridge_config *config;
	void (*changed)(void *user);
	void *user;
	struct files files;
	struct edge watch; /* an inotify instance; fd -1: none */
	int folder;        /* its watch; -1: the folder is not there, or cannot be watched */
	dev_t dev;         /* of the folder watched */
	ino_t ino;
	bool due;  /* to be read when the timer fires */
	bool told; /* that it cannot be watched */
	bool missing; /* ... or is not there */
	struct timer timer;
};

/* ---- looking up ---- */

/* A CID of another network namespace is told from our own by the listener alone. */
static bool in_range(const struct vm_config *v, const struct who *who)
{
	uint64_t from, to;

	return who->peer.family == AF_VSOCK && (!who->elsewhere || v->listener) &&
	       scalar_range(v->cid, &from, &to) == 0 && who->peer.a >= from && who->peer.a <= to;
}

static bool matches(const struct vm_config *v, const char *listener, const struct who *who,
		    const char *path, uint32_t port)
{
	return (!v->listener || strcmp(v->listener, listener) == 0) &&
	       (!v->vm || strcmp(v->vm, who->vm) == 0) && (!v->cid || in_range(v, who)) &&
	       (!v->path || (path && strcmp(v->path, path) == 0)) && (!v->port || v->port == port);
}

static const char *find(const struct vm_config *at, size_t n, const char *listener,
			const struct who *who, const char *path, uint32_t port)
{
	for (size_t i = 0; i < n; i++)
		if (matches(&at[i], listener, who, path, port))
			return at[i].service;
	return NULL;
}

const char *vms_service(const struct vms *v, const char *listener, const struct who *who,
			const char *path, uint32_t port)
{
	for (size_t i = 0; i < v->files.n; i++) {
		const struct vm_file *f = v->files.at[i].content;
		const char *found = f ? find(f->vms, f->n_vms, listener, who, path, port) : NULL;

		if (found)
			return found;
	}
	return find(v->config->vms, v->config->n_vms, listener, who, path, port);
}

void vms_listeners(const struct vms *v,
		   void (*each)(void *user, const struct entrance_config *config), void *user)
{
	for (size_t i = 0; i < v->files.n; i++) {
		const struct vm_file *f = v->files.at[i].content;

		for (size_t j = 0; f && j < f->n_listeners; j++)
			each(user, &f->listeners[j]);
	}
}

/* ---- reading ---- */

static void free_files(struct files *files)
{
	for (size_t i = 0; i < files->n; i++) {
		free(files->at[i].name);
		vm_file_free(files->at[i].content);
	}
	free(files->at);
	*files = (struct files){ 0 };
}

static int is_drop_in(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return e->d_name[0] != '.' && len > 5 && strcmp(e->d_name + len - 5, ".yaml") == 0;
}

static bool look(const char *path, struct looks *looks)
{
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	*looks = (struct looks){ st.st_dev, st.st_ino, st.st_size, st.st_ctim };
	return true;
}

static bool same_looks(const struct looks *a, const struct looks *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static int compare_files(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->name, ((const struct file *)b)->name);
}

static struct file *find_file(const struct files *files, const char *name)
{
	const struct file key = { .name = (char *)(uintptr_t)name };

	return files->n ? bsearch(&key, files->at, files->n, sizeof(key), compare_files) : NULL;
}

static void complain(const struct config_errors *e)
{
	for (size_t i = 0; i < e->n; i++)
		log_error("%s", e->at[i]);
	if (e->more)
		log_error("... and %zu more", e->more);
}

/* NULL: it is wrong, which was said. */
static struct vm_file *read_file(const struct vms *v, const char *path)
{
	struct config_errors e = { 0 };
	struct vm_file *f = vm_file_load(path, &e);

	if (f && vm_file_check(f, v->config, path, &e) < 0)
		f = vm_file_free(f);
	complain(&e);
	config_errors_deinit(&e);
	return f;
}

/* One file as it is now; what has not changed is moved over from the old list. */
static void take_file(struct vms *v, struct files *old, const char *name, struct file *to)
{
	struct file *before = find_file(old, name);
	char path[PATH_MAX];

	*to = (struct file){ 0 };
	if (snprintf(path, sizeof(path), "%s/%s", v->config->vms_dir, name) >= (int)sizeof(path) ||
	    !look(path, &to->looks))
		return;
	to->name = strdup(name);
	if (!to->name)
		return;
	if (!before || !same_looks(&before->looks, &to->looks))
		to->content = read_file(v, path);
	if (to->content || !before)
		return;
	if (!same_looks(&before->looks, &to->looks))
		log_error("%s: what it said before stays in effect", path);
	to->content = before->content;
	before->content = NULL; /* moved */
}

static void read_folder(struct vms *v)
{
	struct files old = v->files, new = { 0 };
	struct dirent **list = NULL;
	int n = scandir(v->config->vms_dir, &list, is_drop_in, NULL);

	if (n > VMS_FILES_MAX)
		log_error("%s: %d files; only %d are read", v->config->vms_dir, n, VMS_FILES_MAX);
	new.at = n > 0 ? calloc((size_t)n, sizeof(*new.at)) : NULL;
	for (int i = 0; i < n; i++) {
		if (new.at &&new.n < VMS_FILES_MAX) {
			take_file(v, &old, list[i]->d_name, &new.at[new.n]);
			new.n += new.at[new.n].name != NULL;
		}
		free(list[i]);
	}
	free(list);
	if (new.n)
		qsort(new.at, new.n, sizeof(*new.at), compare_files);
	v->files = new;
	log_debug("%s: %zu drop-ins", v->config->vms_dir, new.n);
	if (v->changed && (old.n || new.n))
		v->changed(v->user);
	free_files(&old);
}

void vms_inherit(struct vms *v, struct vms *from)
{
	if (!v->config->vms_dir || !from->config->vms_dir ||
	    strcmp(v->config->vms_dir, from->config->vms_dir) != 0)
		return;
	for (size_t i = 0; i < v->files.n; i++) {
		struct file *to = &v->files.at[i], *before = find_file(&from->files, to->name);
		struct config_errors e = { 0 };

		/* beside the new config it may have become wrong */
		if (!to->content && before && before->content &&
		    vm_file_check(before->content, v->config, to->name, &e) == 0) {
			log_error("%s/%s: what it said before stays in effect", v->config->vms_dir,
				  to->name);
			to->content = before->content;
			before->content = NULL; /* moved */
		}
		config_errors_deinit(&e);
	}
}

/* ---- watching ---- */

static void on_time(struct timer *t);

static void read_soon(struct vms *v)
{
	if (!v->due) /* not later for each event: they might never end */
		timer_set(v->worker, &v->timer, VMS_SETTLE_MS, on_time);
	v->due = true;
}

static void unwatch(struct vms *v)
{
	if (v->folder >= 0)
		inotify_rm_watch(v->watch.fd, v->folder);
	v->folder = -1;
}

/* Watches what is there now. */
static void watch_folder(struct vms *v)
{
	struct stat st;

	if (stat(v->config->vms_dir, &st) < 0) {
		if (!v->missing)
			log_warning("%s: %s; it is read when it is there", v->config->vms_dir,
				    strerror(errno));
		v->missing = true;
		v->due |= v->folder >= 0 || v->files.n;
		unwatch(v);
		return;
	}
	v->missing = false;
	if (v->folder >= 0 && st.st_dev == v->dev && st.st_ino == v->ino)
		return;
	unwatch(v);
	v->due = true;
	v->dev = st.st_dev;
	v->ino = st.st_ino;
	v->folder = inotify_add_watch(v->watch.fd, v->config->vms_dir, EVENTS);
	if (v->folder < 0 && !v->told)
		log_error("%s cannot be watched: %s; it is read every %d s", v->config->vms_dir,
			  strerror(errno), VMS_LOOK_MS / 1000);
	v->told = v->folder < 0;
}

static void on_time(struct timer *t)
{
	struct vms *v = (struct vms *)((char *)t - offsetof(struct vms, timer));

	watch_folder(v);
	if (v->due) {
		v->due = false;
		read_folder(v);
	}
	timer_set(v->worker, t, VMS_LOOK_MS, on_time);
}

/* The folder itself has gone, or another has taken its place. */
static bool is_end(const struct inotify_event *e)
{
	return e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED);
}

/* A file that was just made is read when it has been written; a link, of both kinds, is whole. */
static bool is_unfinished(const struct vms *v, const struct inotify_event *e)
{
	char path[PATH_MAX];
	struct stat st;

	if (!(e->mask & IN_CREATE) || !e->len)
		return false;
	snprintf(path, sizeof(path), "%s/%s", v->config->vms_dir, e->name);
	return lstat(path, &st) == 0 && !S_ISLNK(st.st_mode) && st.st_nlink == 1;
}

static void on_events(struct edge *edge, uint32_t events)
{
	struct vms *v = (struct vms *)((char *)edge - offsetof(struct vms, watch));
	char buf[16 * 1024] __attribute__((aligned(__alignof__(struct inotify_event))));
	bool read_again = false;
	ssize_t n;

	while ((n = read(edge->fd, buf, sizeof(buf))) > 0) {
		for (char *at = buf; at < buf + n;) {
			const struct inotify_event *e = (const struct inotify_event *)(void *)at;

			if (is_end(e) && e->wd == v->folder)
				unwatch(v);
			read_again |= !is_unfinished(v, e);
			at += sizeof(*e) + e->len;
		}
	}
	if (read_again)
		read_soon(v);
}

struct vms *vms_new(struct worker *w, const struct bridge_config *config,
		    void (*changed)(void *user), void *user)
{
	struct vms *v = calloc(1, sizeof(*v));
	int fd, r;

	if (!v)
		return NULL;
	v->worker = w;
	v->config = config;
	v->user = user;
	v->folder = -1;
	if (config->vms_dir) {
		fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		r = fd < 0 ? -errno : edge_watch(w, &v->watch, fd, EPOLLIN, on_events);
		if (r < 0) {
			if (fd >= 0)
				close(fd);
			free(v);
			errno = -r;
			return NULL;
		}
		on_time(&v->timer);
	}
	v->changed = changed; /* what was read just now is no change */
	return v;
}

struct vms *vms_free(struct vms *v)
{
	if (!v)
		return NULL;
	timer_cancel(v->worker, &v->timer);
	if (v->watch.worker) {
		int fd = v->watch.fd;

		edge_forget_closing(&v->watch);
		close(fd);
	}
	free_files(&v->files);
	free(v);
	return NULL;
}
