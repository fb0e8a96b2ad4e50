/*
 * sandbox_landlock: which files the process may reach from now on, and signals to whom.
 *
 * Theory of operation: Landlock forbids all of a list of actions but beneath certain folders. A
 * kernel knows the actions of its version and of all before; we name those that we know, with our
 * own definitions, since headers are older than kernels.
 *
 * A rule is about a folder, not its name: who removes it and makes it again has another one. And
 * it is about where a file is, not how it was found: links have to be followed to know.
 *
 * What it leaves alone: looking (stat, access), watching (inotify), O_PATH, modes and owners, and
 * connecting to Unix sockets by their path. So those need no rules; the file's mode decides.
 */
#include "relay/sandbox_landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "relay/log.h"
#include "relay/sandbox.h"

/* The same numbers on all architectures. */
#define CALL_CREATE_RULESET 444
#define CALL_ADD_RULE 445
#define CALL_RESTRICT_SELF 446

#define CREATE_RULESET_VERSION 1u
#define RULE_PATH_BENEATH 1

/* linux/landlock.h */
enum {
	FS_EXECUTE = 1 << 0,
	FS_WRITE_FILE = 1 << 1,
	FS_READ_FILE = 1 << 2,
	FS_READ_DIR = 1 << 3,
	FS_REMOVE_DIR = 1 << 4,
	FS_REMOVE_FILE = 1 << 5,
	FS_MAKE_CHAR = 1 << 6,
	FS_MAKE_DIR = 1 << 7,
	FS_MAKE_REG = 1 << 8,
	FS_MAKE_SOCK = 1 << 9,
	FS_MAKE_FIFO = 1 << 10,
	FS_MAKE_BLOCK = 1 << 11,
	FS_MAKE_SYM = 1 << 12,
	FS_REFER = 1 << 13,    /* version 2 */
	FS_TRUNCATE = 1 << 14, /* 3 */
	FS_IOCTL_DEV = 1 << 15, /* 5 */
	FS_FIRST = FS_REFER - 1, /* all of version 1 */
	FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
	SCOPE_SIGNAL = 1 << 1, /* 6: none to processes outside */
};

struct ruleset {
	uint64_t fs, net, scoped;
};

struct rule {
	uint64_t access;
	int32_t folder;
} __attribute__((packed));

/* What a kernel of this version can forbid, and we do. */
static struct ruleset handled(int version)
{
	struct ruleset r = { .fs = FS_FIRST };

	if (version >= 2)
		r.fs |= FS_REFER;
	if (version >= 3)
		r.fs |= FS_TRUNCATE;
	if (version >= 5)
		r.fs |= FS_IOCTL_DEV;
	if (version >= 6)
		r.scoped = SCOPE_SIGNAL;
	return r;
}

/* Older kernels know a shorter struct. */
static size_t size_of(int version)
{
	return version >= 6 ? sizeof(struct ruleset)
	       : version >= 4 ? offsetof(struct ruleset, scoped)
			      : offsetof(struct ruleset, net);
}

static uint64_t actions(unsigned access)
{
	const uint64_t sockets = FS_MAKE_SOCK | FS_REMOVE_FILE | FS_MAKE_DIR;
	uint64_t a = 0;

	if (access & SANDBOX_READ)
		a |= FS_READ_FILE;
	if (access & SANDBOX_LIST)
		a |= FS_READ_DIR;
	if (access & SANDBOX_SOCKETS)
		a |= sockets | FS_READ_DIR; /* READ_DIR: a folder we make is opened for its mode */
	if (access & SANDBOX_WRITE)
		a |= FS_READ_FILE | FS_READ_DIR | FS_WRITE_FILE | FS_TRUNCATE | FS_MAKE_REG |
		     FS_MAKE_DIR | FS_REMOVE_FILE | FS_REFER;
	return a;
}

/* Of the path, or, if it may be that, of the nearest folder above it that is there. */
static int open_place(const char *path, enum sandbox_place place)
{
	char at[PATH_MAX];
	size_t len = strlen(path);
	int fd;

	if (place != SANDBOX_NEAREST)
		return open(path, O_PATH | O_CLOEXEC);
	if (len >= sizeof(at)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(at, path, len + 1);
	while ((fd = open(at, O_PATH | O_CLOEXEC)) < 0 && (errno == ENOENT || errno == ENOTDIR)) {
		char *slash = strrchr(at, '/');

		if (!slash || !at[1])
			return -1;
		slash[slash == at] = '\0';
	}
	return fd;
}

static int add_rule(int ruleset, const struct sandbox_path *p, uint64_t known)
{
	struct rule rule = { actions(p->access) & known, open_place(p->path, p->place) };
	int r = 0;

	if (rule.folder < 0) {
		log_debug("sandbox: %s: %s", p->path, strerror(errno));
		return 0; /* it cannot be reached now, nor then */
	}
	if (syscall(CALL_ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0) < 0) {
		rule.access &= FS_OF_FILES; /* all there is for what is no folder */
		if (errno != EINVAL || !rule.access ||
		    syscall(CALL_ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0) < 0)
			r = -errno;
	}
	close(rule.folder);
	return r;
}

int sandbox_landlock_enter(const struct sandbox_spec *s, const char **what)
{
	int version = (int)syscall(CALL_CREATE_RULESET, NULL, 0, CREATE_RULESET_VERSION);
	struct ruleset forbidden = handled(version);
	int ruleset, r = 0;

	*what = "this kernel has none, or it is off";
	if (version < 1)
		return version < 0 ? -errno : -ENOSYS;
	*what = "cannot make its rules";
	ruleset = (int)syscall(CALL_CREATE_RULESET, &forbidden, size_of(version), 0);
	if (ruleset < 0)
		return -errno;
	for (size_t i = 0; i < s->n_paths && r == 0; i++)
		r = add_rule(ruleset, &s->paths[i], forbidden.fs);
	if (r == 0 && syscall(CALL_RESTRICT_SELF, ruleset, 0) < 0) {
		*what = "cannot enter it";
		r = -errno;
	}
	close(ruleset);
	return r < 0 ? r : version;
}
