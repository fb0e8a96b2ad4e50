/*
 * enroll_list: what of an enrolment is there, and taking certificates back.
 *
 * Theory of operation: relay/revoke does the latter, for the admin API as well; here is what is
 * said of it at a terminal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/codes.h"
#include "relay/enroll_private.h"
#include "relay/issued.h"
#include "relay/revoke.h"

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

static bool read_revoked(const struct enroll_call *call, const struct authority *a,
			 struct authority_revoked *revoked)
{
	char *text, *why;
	size_t len;
	bool good = revoke_load_list(call->config, &text, &len, &why) == 0 ||
		    enroll_complain_why("", why);

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

static void name_bad(const char *name, void *arg)
{
	enroll_complain("%s is no record of a certificate", name);
}

bool enroll_revoke(const struct enroll_call *call)
{
	const struct revoke_wish wish = {
		.owner = call->owner,
		.serials = call->serials,
		.n_serials = (size_t)call->n_serials,
		.now = call->now,
		.wait = true,
		.bad = name_bad,
	};
	struct authority *a = enroll_load(call);
	struct revoke_done done;
	char *why;
	bool good;

	if (!a)
		return false;
	good = revoke_certificates(call->config, a, &wish, &done, &why) == 0;
	authority_free(a);
	if (!good)
		return enroll_complain_why("", why);
	printf("%zu certificates revoked, %zu pending codes removed%s\n", done.n, done.codes,
	       done.n ? "; the relay goes by it within seconds" : "");
	if (done.bad)
		good = enroll_complain("what cannot be read may be one of %s: revoke it by its "
				       "serial, which is the file's name",
				       call->owner);
	free(done.serials);
	return good;
}
