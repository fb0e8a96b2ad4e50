/*
 * enroll_list: what of an enrolment is there, and taking certificates back.
 *
 * Theory of operation: revoking locks the folder, for two of them at a time would lose one's
 * entries. An owner's pending codes go first, so that none becomes a certificate meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "relay/atomic_file.h"
#include "relay/codes.h"
#include "relay/enroll_private.h"
#include "relay/issued.h"

#define CRL_MAX ((size_t)8 * 1024 * 1024) /* AUTHORITY_REVOKED_MAX and room to spare */

/* ---- list ---- */

struct records {
	struct issued *at;
	size_t n;
	const char *owner; /* NULL: all */
	bool good;
};

static void collect(const struct issued *record, void *arg)
{
	struct records *r = arg;
	struct issued *more;

	if (r->owner && strcmp(r->owner, record->owner) != 0)
		return;
	more = reallocarray(r->at, r->n + 1, sizeof(*more));
	if (!more) {
		r->good = enroll_complain("out of memory");
		return;
	}
	r->at = more;
	r->at[r->n++] = *record;
}

static void report_bad(const char *name, void *arg)
{
	struct records *r = arg;

	r->good = enroll_complain("%s is no record of a certificate", name);
}

static bool read_records(const struct enroll_call *call, struct records *r)
{
	int error = issued_each(call->enrolment->folder, collect, report_bad, r);

	if (error < 0)
		return enroll_complain("cannot read %s: %s", call->enrolment->folder,
				       strerror(-error));
	return true;
}

/* The list of revoked ones as it is; *text NULL: none yet. */
static bool read_list(const struct enroll_call *call, char **text, size_t *len)
{
	char *path = authority_crl_path(call->config), *why = NULL;
	int there = path ? authority_crl_look(path, &why) : -ENOMEM;
	ssize_t n = there > 0 ? atomic_file_load(path, CRL_MAX, text) : there;

	if (n > 0)
		*len = (size_t)n;
	else if (why)
		enroll_complain("%s", why);
	else if (n < 0)
		enroll_complain("cannot read %s: %s", path ? path : "the list", strerror((int)-n));
	free(path);
	free(why);
	return n >= 0;
}

static bool read_revoked(const struct enroll_call *call, const struct authority *a,
			 struct authority_revoked *revoked)
{
	char *text = NULL, *why;
	size_t len = 0;
	bool good = read_list(call, &text, &len);

	if (good && authority_revoked(a, text, len, revoked, &why) < 0)
		good = enroll_complain_why("the list of revoked certificates", why);
	free(text);
	return good;
}

static int by_time(const void *a, const void *b)
{
	const struct issued *x = a, *y = b;

	return x->at != y->at ? (x->at < y->at ? -1 : 1) : strcmp(x->serial, y->serial);
}

static void print_pending(const struct codes_grant *grant, void *arg)
{
	char until[ISSUED_TIME];

	printf("%-32s  %-8s  %-20s  %-20s  %s%s%s\n", "-", "pending", "-",
	       issued_time(grant->expires, until), grant->owner, *grant->label ? "  " : "",
	       grant->label);
}

static void print_records(const struct enroll_call *call, const struct records *r,
			  const struct authority_revoked *revoked)
{
	char at[ISSUED_TIME], until[ISSUED_TIME];

	printf("%-32s  %-8s  %-20s  %-20s  %s\n", "SERIAL", "STATE", "ISSUED", "UNTIL",
	       "OWNER  LABEL");
	for (size_t i = 0; i < r->n; i++) {
		const struct issued *one = &r->at[i];

		printf("%-32s  %-8s  %-20s  %-20s  %s%s%s\n", one->serial,
		       authority_is_revoked(revoked, one->serial) ? "revoked"
		       : one->expires <= call->now                ? "expired"
								  : "good",
		       issued_time(one->at, at), issued_time(one->expires, until), one->owner,
		       *one->label ? "  " : "", one->label);
	}
}

bool enroll_list(const struct enroll_call *call)
{
	struct records r = { .owner = call->owner, .good = true };
	struct authority_revoked revoked = { 0 };
	struct authority *a = enroll_load(call);
	bool good = a && read_revoked(call, a, &revoked) && read_records(call, &r);

	if (good) {
		if (r.n)
			qsort(r.at, r.n, sizeof(*r.at), by_time);
		print_records(call, &r, &revoked);
		codes_each(call->enrolment->folder, call->now, print_pending, NULL);
	}
	authority_free(a);
	free(revoked.serials);
	free(r.at);
	return good && r.good;
}

/* ---- revoke ---- */

struct serials {
	char (*at)[AUTHORITY_SERIAL_TEXT];
	size_t n;
	bool partial; /* there are records that cannot be read */
};

/*
 * Those of an owner that are still good by their time. One record that is spoilt, by a loss of
 * power perhaps, keeps none of the others from being taken back.
 */
static bool serials_of_owner(const struct enroll_call *call, struct serials *s)
{
	struct records r = { .owner = call->owner, .good = true };
	bool good = read_records(call, &r);

	s->partial = !r.good;
	s->at = good ? calloc(r.n + 1, sizeof(*s->at)) : NULL;
	for (size_t i = 0; s->at && i < r.n; i++)
		if (r.at[i].expires > call->now)
			memcpy(s->at[s->n++], r.at[i].serial, sizeof(*s->at));
	free(r.at);
	return s->at;
}

static bool serials_given(const struct enroll_call *call, struct serials *s)
{
	s->at = calloc((size_t)call->n_serials + 1, sizeof(*s->at));
	for (int i = 0; s->at && i < call->n_serials; i++)
		if (!authority_serial(call->serials[i], s->at[s->n++]))
			return enroll_complain(
				"%s is no serial: expected up to 32 hex digits, as in "
				"enroll list",
				call->serials[i]);
	return s->at || enroll_complain("out of memory");
}

static bool add_to_list(const struct enroll_call *call, const struct serials *s)
{
	struct authority *a = enroll_load(call);
	char *old = NULL, *new = NULL, *why = NULL, *path = authority_crl_path(call->config);
	size_t len = 0;
	bool good = a && path && read_list(call, &old, &len);
	int r;

	if (good) {
		new = authority_revoke(a, old, len, (const char(*)[AUTHORITY_SERIAL_TEXT])s->at,
				       s->n, call->now, &why);
		good = new || enroll_complain_why(path, why);
	}
	if (good) {
		/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a complaint is false */
		r = atomic_file_write(path, new, strlen(new), 0600, ATOMIC_FILE_SYNC);
		if (r == 0)
			r = authority_crl_mark(path);
		good = r == 0 || enroll_complain("cannot write %s: %s", path, strerror(-r));
	}
	authority_free(a);
	free(old);
	free(new);
	free(path);
	return good;
}

bool enroll_revoke(const struct enroll_call *call)
{
	int lock = open(call->enrolment->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct serials s = { 0 };
	bool good = lock >= 0 && flock(lock, LOCK_EX) == 0;
	int codes = 0;

	if (!good)
		enroll_complain("cannot lock %s: %s", call->enrolment->folder, strerror(errno));
	if (good && call->owner)
		codes = codes_sweep(call->enrolment->folder, call->now, call->owner);
	good = good && (call->owner ? serials_of_owner(call, &s) : serials_given(call, &s));
	if (good && s.n)
		good = add_to_list(call, &s);
	if (lock >= 0)
		close(lock);
	if (good)
		printf("%zu certificates revoked, %d pending codes removed%s\n", s.n,
		       codes < 0 ? 0 : codes,
		       s.n ? "; the relay goes by it within seconds" : "");
	if (good && s.partial)
		good = enroll_complain("what cannot be read may be one of %s: revoke it by its "
				       "serial, which is the file's name",
				       call->owner);
	free(s.at);
	return good;
}
