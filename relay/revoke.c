/*
 * revoke: takes owners' certificates back.
 *
 * Theory of operation: the folder is locked from the look at the records to the new list: two at a
 * time would lose one's entries, and a renewal would slip through between (relay/renewal.c). An
 * owner's pending codes go first, so that none becomes a certificate meanwhile. The new list is
 * there whole or not at all; who judges by it reads it at his next reload.
 */
#include "relay/revoke.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/atomic_file.h"
#include "relay/codes.h"
#include "relay/issued.h"
#include "relay/why.h"

#define CRL_MAX ((size_t)8 * 1024 * 1024) /* AUTHORITY_REVOKED_MAX and room to spare */

int revoke_load_list(const struct relay_config *c, char **text, size_t *len, char **why)
{
	char *path = authority_crl_path(c);
	ssize_t n = -ENOMEM;

	*text = NULL;
	*len = 0;
	*why = NULL;
	if (path)
		n = authority_crl_look(path, why);
	if (n > 0)
		n = atomic_file_load(path, CRL_MAX, text);
	if (n > 0)
		*len = (size_t)n;
	else if (n < 0 && path && !*why)
		why_say(why, "cannot read %s: %s", path, strerror((int)-n));
	free(path);
	return n < 0 ? (int)n : 0;
}

/* ---- whose ---- */

struct collection {
	const struct revoke_wish *wish;
	struct revoke_done *done;
	bool full; /* out of memory */
};

static void collect(const struct issued *record, void *arg)
{
	struct collection *c = arg;
	struct revoke_done *done = c->done;
	void *more;

	if (strcmp(c->wish->owner, record->owner) != 0 || record->expires <= c->wish->now)
		return;
	more = reallocarray(done->serials, done->n + 1, sizeof(*done->serials));
	if (!more) {
		c->full = true;
		return;
	}
	done->serials = more;
	memcpy(done->serials[done->n++], record->serial, sizeof(*done->serials));
}

/*
 * One record that is spoilt, by a loss of power perhaps, keeps none of the others from being taken
 * back.
 */
static void note_bad(const char *name, void *arg)
{
	const struct collection *c = arg;

	c->done->bad++;
	if (c->wish->bad)
		c->wish->bad(name, c->wish->arg);
}

/* Those of an owner that are still good by their time. */
static int take_owners(const char *folder, const struct revoke_wish *wish, struct revoke_done *done,
		       char **why)
{
	struct collection c = { .wish = wish, .done = done };
	int codes = codes_sweep(folder, wish->now, wish->owner);
	int r = issued_each(folder, collect, note_bad, &c);

	done->codes = codes < 0 ? 0 : (size_t)codes;
	if (c.full)
		return -ENOMEM;
	if (r < 0)
		why_say(why, "cannot read %s: %s", folder, strerror(-r));
	return r;
}

static int take_given(const struct revoke_wish *wish, struct revoke_done *done, char **why)
{
	done->serials = calloc(wish->n_serials + 1, sizeof(*done->serials));
	if (!done->serials)
		return -ENOMEM;
	for (size_t i = 0; i < wish->n_serials; i++) {
		if (!authority_serial(wish->serials[i], done->serials[done->n++])) {
			why_say(why,
				"%s is no serial: expected up to 32 hex digits, as in enroll list",
				wish->serials[i]);
			return -EINVAL;
		}
	}
	return 0;
}

/* ---- the list ---- */

static int write_list(const char *path, const char *text, char **why)
{
	int r = atomic_file_write(path, text, strlen(text), 0600, ATOMIC_FILE_SYNC);

	if (r == 0)
		r = authority_crl_mark(path);
	if (r < 0)
		why_say(why, "cannot write %s: %s", path, strerror(-r));
	return r;
}

static int add_to_list(const struct relay_config *c, const struct authority *a,
		       const struct revoke_wish *wish, const struct revoke_done *done, char **why)
{
	char *old = NULL, *new = NULL, *reason = NULL, *path = authority_crl_path(c);
	size_t len = 0;
	int r = path ? revoke_load_list(c, &old, &len, why) : -ENOMEM;

	if (r == 0) {
		new = authority_revoke(a, old, len,
				       (const char(*)[AUTHORITY_SERIAL_TEXT])done->serials, done->n,
				       wish->now, &reason);
		r = new ? write_list(path, new, why) : -EIO;
	}
	if (reason)
		why_say(why, "%s: %s", path, reason);
	free(reason);
	free(old);
	free(new);
	free(path);
	return r;
}

/* A descriptor, to be closed; or -errno. */
static int lock_folder(const char *folder, bool wait, char **why)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (fd < 0 || flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB)) < 0)
		r = -errno;
	if (r == 0)
		return fd;
	why_say(why, "cannot lock %s: %s", folder, strerror(-r));
	if (fd >= 0)
		close(fd);
	return r;
}

int revoke_certificates(const struct relay_config *c, const struct authority *a,
			const struct revoke_wish *wish, struct revoke_done *out, char **why)
{
	const char *folder = c->enrolment.folder;
	struct revoke_done done = { 0 };
	int lock, r;

	*why = NULL;
	lock = lock_folder(folder, wish->wait, why);
	if (lock < 0)
		return lock;
	r = wish->owner ? take_owners(folder, wish, &done, why) : take_given(wish, &done, why);
	if (r == 0 && done.n)
		r = add_to_list(c, a, wish, &done, why);
	close(lock);
	if (r == 0)
		*out = done;
	else
		free(done.serials);
	return r;
}
