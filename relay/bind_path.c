/*
 * bind_path: Unix sockets that are files.
 *
 * Theory of operation: a socket is bound under a hidden name beside its place, labelled, given its
 * mode and its owner, made to listen, and then renamed. Nobody can connect before it listens, so
 * the umask needs no change, which would be every thread's. The folder may belong to somebody we
 * do not trust (the VMM's user): all that changes the file goes to the one inode that was opened
 * without following links and has no other name, never to a path a second time. Where he may change
 * folders on the way there as well (beneath), the path is walked once, without links, and all that
 * follows happens in the folder that was found.
 *
 *   nothing there            renamed, but not over what came meanwhile
 *   a socket, nobody serves  removed, then the same
 *   our own, still open      renamed over: a client finds the old one or the new
 *   anything else            stays, and is an error
 *
 * Another name that a process left behind when it died half-way is removed by the next that listens
 * at the same place.
 *
 * A served path is told by connecting a datagram socket to it: refused means nobody has bound it,
 * and whoever has is not disturbed, for it is of the wrong type.
 */
#include "relay/bind_path.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "relay/bind.h"

#define ENTRY_MAX ((size_t)1024 * 1024) /* of a user or group, with its members */
#define SWEPT_MAX 4096                  /* entries of a folder that are looked at */
#define KEEP ((uid_t)-1)                /* chown(2): leave it as it is */

/* A socket on its way to its place. */
struct place {
	const char *path, *name; /* where it is to be; the last component of that */
	char folder[PATH_MAX];
	size_t beneath;           /* of struct bind_access */
	int dir;                  /* the folder, O_PATH */
	char aside[NAME_MAX + 1]; /* its name until then */
	struct sockaddr_un at;    /* the same as an address */
	char *why;
	size_t size;
};

static int fail(struct place *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Returns -1, for the caller to return. */
static int fail(struct place *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->why, p->size, fmt, ap);
	va_end(ap);
	return -1;
}

/* --- what is there --- */

/* Into text, of PATH_MAX. Returns the last component. */
static const char *folder_of(const char *path, char *text)
{
	const char *name = strrchr(path, '/');

	snprintf(text, PATH_MAX, "%.*s", name > path ? (int)(name - path) : 1, path);
	return name + 1;
}

/* O_PATH, or -1. beneath: of struct bind_access. */
static int open_way(const char *folder, size_t beneath)
{
	const int how = O_PATH | O_DIRECTORY | O_CLOEXEC;
	size_t len = beneath;
	int dir = AT_FDCWD;

	if (!beneath || beneath > strlen(folder))
		return open(folder, how);
	do { /* first all that is ours, then a folder at a time */
		char part[PATH_MAX];
		int next;

		snprintf(part, sizeof(part), "%.*s", (int)len, folder);
		next = openat(dir, part, how | O_NOFOLLOW);
		if (dir >= 0)
			close(dir);
		dir = next;
		folder += len;
		folder += strspn(folder, "/");
		len = strcspn(folder, "/");
	} while (dir >= 0 && len);
	return dir;
}

static bool is_file(int dir, const char *name, const struct bind_file *file)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == file->dev &&
	       st.st_ino == file->ino;
}

/* Is path that file? If so, and it is to go, it goes. */
static bool look(const char *path, const struct bind_file *file, bool remove)
{
	char folder[PATH_MAX];
	const char *name;
	bool same;
	int dir;

	if (!file->ino || !strchr(path, '/'))
		return false;
	name = folder_of(path, folder);
	dir = open_way(folder, file->beneath);
	if (dir < 0)
		return false;
	same = is_file(dir, name, file);
	if (same && remove)
		unlinkat(dir, name, 0);
	close(dir);
	return same;
}

bool bind_path_is(const char *path, const struct bind_file *file)
{
	return look(path, file, false);
}

void bind_path_remove(const char *path, const struct bind_file *file)
{
	look(path, file, true);
}

static bool is_served(const struct sockaddr_un *at)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool served;

	if (fd < 0)
		return true; /* cannot tell: leave it alone */
	served =
		connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0 || errno != ECONNREFUSED;
	close(fd);
	return served;
}

/* path: the same as name in dir. */
static int clear(int dir, const char *name, const char *path, char *why, size_t size)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* or bind(2) says what is wrong */
	memcpy(at.sun_path, path, strlen(path));
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(why, size, "the path exists and is not a socket: remove it");
		return -1;
	}
	if (is_served(&at)) {
		snprintf(why, size, "another program listens there");
		return -1;
	}
	unlinkat(dir, name, 0);
	return 0;
}

int bind_path_clear(const char *path, char *why, size_t size)
{
	return clear(AT_FDCWD, path, path, why, size);
}

/* --- the folder --- */

/* One that was not there: nobody but us gets in before it has its mode. */
static int make_folder(struct place *p, const char *path, mode_t mode)
{
	int fd, error;

	if (mkdir(path, 0700) < 0)
		return errno == EEXIST
			       ? 0
			       : fail(p, "cannot make the folder %s: %s", path, strerror(errno));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && fchmod(fd, mode) == 0) {
		close(fd);
		return 0;
	}
	error = errno;
	if (fd >= 0)
		close(fd);
	return fail(p, "cannot set the mode of the folder %s: %s", path, strerror(error));
}

static int make_folders(struct place *p, mode_t mode)
{
	char path[PATH_MAX];

	for (const char *end = strchr(p->folder + 1, '/'); end; end = strchr(end + 1, '/')) {
		snprintf(path, sizeof(path), "%.*s", (int)(end - p->folder), p->folder);
		if (make_folder(p, path, mode) < 0)
			return -1;
	}
	return make_folder(p, p->folder, mode);
}

static int open_folder(struct place *p, mode_t mode)
{
	p->dir = open_way(p->folder, p->beneath);
	if (p->dir < 0 && errno == ENOENT && mode) {
		if (make_folders(p, mode) < 0)
			return -1;
		p->dir = open_way(p->folder, p->beneath);
	}
	if (p->dir >= 0)
		return 0;
	return fail(p, "the folder %s: %s%s", p->folder, strerror(errno),
		    errno == ENOTDIR && p->beneath   ? "; links are not followed in a VM's folder"
		    : errno == ENOENT && !p->beneath ? "; make it, or have it made (directory_mode)"
						     : "");
}

/* --- whose it is --- */

/* True, and *id, if text is a number. */
static bool is_number(const char *text, unsigned *id)
{
	char *end;
	unsigned long n;

	if (!text[0] || text[strspn(text, "0123456789")])
		return false;
	errno = 0;
	n = strtoul(text, &end, 10);
	*id = (unsigned)n;
	return errno == 0 && n < KEEP;
}

/* 0, or an errno: ENOENT, there is none of this name. */
static int find_user(const char *name, uid_t *id)
{
	struct passwd entry, *found = NULL;
	int r = ERANGE;

	for (size_t size = 1024; r == ERANGE && size <= ENTRY_MAX; size *= 4) {
		char *buf = malloc(size);

		r = buf ? getpwnam_r(name, &entry, buf, size, &found) : ENOMEM;
		if (found)
			*id = found->pw_uid;
		free(buf);
	}
	return found ? 0 : r ? r : ENOENT;
}

static int find_group(const char *name, gid_t *id)
{
	struct group entry, *found = NULL;
	int r = ERANGE;

	for (size_t size = 1024; r == ERANGE && size <= ENTRY_MAX; size *= 4) {
		char *buf = malloc(size);

		r = buf ? getgrnam_r(name, &entry, buf, size, &found) : ENOMEM;
		if (found)
			*id = found->gr_gid;
		free(buf);
	}
	return found ? 0 : r ? r : ENOENT;
}

static int find_owner(struct place *p, const struct bind_access *access, uid_t *uid, gid_t *gid)
{
	int r = 0;

	if (access->owner && !is_number(access->owner, uid))
		r = find_user(access->owner, uid);
	if (r)
		return fail(p, "no user %s: %s", access->owner,
			    r == ENOENT ? "name one that exists, or a number" : strerror(r));
	if (access->group && !is_number(access->group, gid))
		r = find_group(access->group, gid);
	if (r)
		return fail(p, "no group %s: %s", access->group,
			    r == ENOENT ? "name one that exists, or a number" : strerror(r));
	return 0;
}

/* --- the file --- */

/* A kernel without SELinux keeps labels as if they meant something. */
static bool has_selinux(void)
{
	FILE *f = fopen("/proc/filesystems", "re");
	char line[128];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "\tselinuxfs\n") != NULL;
	if (f)
		fclose(f);
	return found;
}

static int set_label(struct place *p, const char *label, const char *file)
{
	if (!has_selinux())
		return fail(p,
			    "cannot label it %s: SELinux is not enabled here; leave the label out",
			    label);
	if (setxattr(file, "security.selinux", label, strlen(label) + 1, 0) == 0)
		return 0;
	return fail(p, "cannot label it %s: %s%s", label, strerror(errno),
		    errno == EINVAL    ? "; the policy loaded here does not know this label"
		    : errno == ENOTSUP ? "; this file system keeps no labels"
				       : "; the policy has to allow relabelling to this program");
}

/* Label, mode and owner, in this order: who has given a file away may not do the others. */
static int dress(struct place *p, int node, const struct bind_access *access, uid_t uid, gid_t gid)
{
	char file[64];

	snprintf(file, sizeof(file), "/proc/self/fd/%d", node);
	if (access->selinux && set_label(p, access->selinux, file) < 0)
		return -1;
	if (access->mode && chmod(file, access->mode) < 0)
		return fail(p, "cannot set its mode to %04o: %s%s", (unsigned)access->mode,
			    strerror(errno), errno == ENOENT ? "; /proc has to be mounted" : "");
	if ((uid == KEEP && gid == KEEP) || fchownat(node, "", uid, gid, AT_EMPTY_PATH) == 0)
		return 0;
	return fail(p, "cannot give it to %s%s%s: %s%s", access->owner ? access->owner : "",
		    access->group ? ":" : "", access->group ? access->group : "", strerror(errno),
		    errno == EPERM ? "; that needs CAP_CHOWN, or a group this process is in" : "");
}

/* Binds fd under its other name. The file it became, O_PATH, or -1. */
static int bind_aside(struct place *p, int fd, struct stat *st)
{
	const struct sockaddr *at = (const struct sockaddr *)&p->at;
	int node, r = bind(fd, at, sizeof(p->at));

	if (r < 0 && errno == EADDRINUSE && !is_served(&p->at)) { /* of one that died half-way */
		unlinkat(p->dir, p->aside, 0);
		r = bind(fd, at, sizeof(p->at));
	}
	if (r < 0)
		return fail(p, "cannot make a socket in %s: %s%s", p->folder, strerror(errno),
			    errno == EACCES ? "; this process may not write there" : "");
	node = openat(p->dir, p->aside, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (node >= 0 && fstat(node, st) == 0 && S_ISSOCK(st->st_mode) && st->st_nlink == 1)
		return node;
	if (node >= 0)
		close(node);
	return fail(p, "somebody else changes the folder %s", p->folder);
}

static int put_in_place(struct place *p, const struct bind_file *ours)
{
	unsigned how = RENAME_NOREPLACE;

	if (ours->ino && is_file(p->dir, p->name, ours))
		how = 0;
	else if (clear(p->dir, p->name, p->path, p->why, p->size) < 0)
		return -1;
	if (renameat2(p->dir, p->aside, p->dir, p->name, how) == 0)
		return 0;
	if (errno == EINVAL && renameat(p->dir, p->aside, p->dir, p->name) == 0)
		return 0; /* a file system that does not know the flag */
	return errno == EEXIST ? fail(p, "another program listens there")
			       : fail(p, "cannot rename it into place: %s", strerror(errno));
}

/* Is it a name that some process had for this place until it was whole? */
static bool is_aside(const struct place *p, const char *name)
{
	const size_t n = strlen(p->name);

	if (*name++ != '.')
		return false;
	if (strncmp(name, p->name, n) == 0 && name[n] == '.')
		name += n + 1;
	for (; isdigit((unsigned char)*name); name++)
		if (!name[1])
			return true;
	return false;
}

/* Removes those of dead processes. Where the folder cannot be listed any more, they stay. */
static void sweep(struct place *p)
{
	int fd = openat(p->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!folder) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (unsigned n = 0; n < SWEPT_MAX && (e = readdir(folder)); n++) {
		char path[sizeof(p->at.sun_path)], why[128];

		if (is_aside(p, e->d_name) &&
		    (size_t)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", p->dir, e->d_name) <
			    sizeof(path))
			clear(p->dir, e->d_name, path, why, sizeof(why));
	}
	closedir(folder);
}

/* The whole way, with all that has to be undone known to the caller. */
static int make_and_place(struct place *p, int fd, const struct bind_access *access, uid_t uid,
			  gid_t gid, struct bind_file *made)
{
	struct stat st;
	int node, r;

	sweep(p);
	node = bind_aside(p, fd, &st);
	if (node < 0)
		return -1;
	r = dress(p, node, access, uid, gid);
	close(node);
	if (r == 0 && listen(fd, BIND_BACKLOG) < 0)
		r = fail(p, "listen: %s", strerror(errno));
	if (r == 0)
		r = put_in_place(p, made);
	if (r < 0)
		unlinkat(p->dir, p->aside, 0);
	else
		*made = (struct bind_file){ st.st_dev, st.st_ino, p->beneath };
	return r;
}

/* Its other name: PATH's folder; if that is too long, or may lead elsewhere, its descriptor. */
static void name_aside(struct place *p)
{
	const size_t max = sizeof(p->at.sun_path);

	snprintf(p->aside, sizeof(p->aside), ".%s.%d", p->name, (int)getpid());
	p->at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (p->beneath >= strlen(p->folder) || !p->beneath)
		if ((size_t)snprintf(p->at.sun_path, max, "%s/%s", p->folder, p->aside) < max)
			return;
	snprintf(p->aside, sizeof(p->aside), ".%d", (int)getpid());
	snprintf(p->at.sun_path, max, "/proc/self/fd/%d/.%d", p->dir, (int)getpid());
}

int bind_path_listen(const char *path, const struct bind_access *access, struct bind_file *made,
		     char *why, size_t size)
{
	struct place p = {
		.path = path, .dir = -1, .beneath = access->beneath, .why = why, .size = size
	};
	uid_t uid = KEEP;
	gid_t gid = KEEP;
	int fd = -1;

	if (!strchr(path, '/'))
		return fail(&p, "the path has to begin with /");
	p.name = folder_of(path, p.folder);
	if (find_owner(&p, access, &uid, &gid) < 0 || open_folder(&p, access->directory_mode) < 0)
		return -1;
	name_aside(&p);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		fail(&p, "socket: %s", strerror(errno));
	} else if (make_and_place(&p, fd, access, uid, gid, made) < 0) {
		close(fd);
		fd = -1;
	}
	close(p.dir);
	return fd;
}
