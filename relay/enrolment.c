/*
 * enrolment: a certificate for a code, or for one that is there and good.
 *
 * Theory of operation: the head has been read by the intake. A request that does not carry a code
 * that is good now is refused right away: a stranger costs no more than the look at one small file,
 * whose name is a hash of what he said. With a good code
 *
 *   READING    the body, as long as Content-Length says, into a buffer of fixed size
 *   whole      the code is claimed (relay/codes: once, whatever comes of it), and only then is the
 *              request parsed, the certificate signed, recorded, and handed out
 *
 * A request without a code, by who has shown a certificate of the relay's own CA in TLS, renews it
 * (relay/renewal): the same way, with that in the code's place.
 *
 * Every way out is answered, then the connection lingers. The words about a code are the same
 * whether it is unknown, used or expired. Files are touched from the worker's thread: a few small
 * ones on a local disk, without waiting for the disk (no fsync), some ten calls for a certificate
 * and one for a refusal.
 *
 * One timer, the intake's remaining time. At most ENROLMENTS_MAX at a time in a worker.
 *
 * Longer than other files: each of the many ways in which a request fails is told in its own words.
 */
#include "relay/enrolment.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "relay/audit.h"
#include "relay/authority.h"
#include "relay/codes.h"
#include "relay/conduit.h"
#include "relay/gateway.h"
#include "relay/httphead.h"
#include "relay/identity.h"
#include "relay/issued.h"
#include "relay/linger.h"
#include "relay/listener.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/renewal.h"
#include "relay/timer.h"
#include "relay/why.h"
#include "relay/worker.h"

#define BEARER "Bearer "
#define SAYS_NO_CODE "this code is not good: unknown, used before, or too old; ask for a new one"
#define SAYS_BROKEN \
	"the relay could not make the certificate; its log says why. The code is used up"

struct enrolment {
	struct listener *listener;
	struct worker *worker;
	struct conduit *conduit;
	struct client client;
	struct timer timer;
	struct reapable reapable;
	struct enrolment *next, **prevp;
	char code[CODES_SIZE]; /* "": it is a renewal */
	size_t wanted, len;    /* of body */
	char body[AUTHORITY_REQUEST_MAX];
};

/* An answer: what the log and the counters say, and what the other end is told. */
struct verdict {
	int status;
	const char *phrase;
	enum reason why;
	const char *words; /* static */
};

static const struct verdict granted = { 200, "OK", REASON_NONE, "" };
static const struct verdict no_enrolment = { 404, "Not Found", REASON_NO_DOOR,
					     "this relay does no enrolment" };
static const struct verdict no_code = { 401, "Unauthorized", REASON_BAD_CREDENTIAL,
					"a code is needed: Authorization: Bearer CODE" };
static const struct verdict revoked = { 403, "Forbidden", REASON_REVOKED,
					"this certificate was revoked, and cannot be renewed" };
static const struct verdict expired = { 403, "Forbidden", REASON_EXPIRED,
					"this certificate is past its time; ask for a code" };
static const struct verdict no_owner = { 403, "Forbidden", REASON_FORBIDDEN,
					 "its owner is none of this relay any more" };
static const struct verdict too_often = { 429, "Too Many Requests", REASON_RATE_LIMIT,
					  "its owner's certificates were renewed too often; try "
					  "again in an hour" };
static const struct verdict bad_code = { 403, "Forbidden", REASON_BAD_CREDENTIAL, SAYS_NO_CODE };
static const struct verdict bad_method = { 405, "Method Not Allowed", REASON_PROTOCOL,
					   "it takes a POST" };
static const struct verdict bad_length = { 411, "Length Required", REASON_PROTOCOL,
					   "a Content-Length is needed, and no Transfer-Encoding" };
static const struct verdict too_large = { 413, "Content Too Large", REASON_TOO_LARGE,
					  "the request is longer than 16384 bytes" };
static const struct verdict bad_type = { 415, "Unsupported Media Type", REASON_PROTOCOL,
					 "it takes " ENROLMENT_TYPE " in PEM" };
static const struct verdict too_slow = { 408, "Request Timeout", REASON_HANDSHAKE_TIMEOUT,
					 "the request did not come in time" };
static const struct verdict too_many = { 503, "Service Unavailable", REASON_LIMIT,
					 "too many ask at a time; try again" };
static const struct verdict broken = { 500, "Internal Server Error", REASON_INTERNAL, SAYS_BROKEN };
static const struct verdict not_renewed = { 500, "Internal Server Error", REASON_INTERNAL,
					    "the relay could not make the certificate; its log "
					    "says why" };

/* ---- the answer ---- */

static bool say(struct conduit *c, const struct verdict *v, const char *type, const char *body,
		size_t len)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
			 "HTTP/1.1 %d %s\r\n"
			 "Content-Type: %s\r\n"
			 "Content-Length: %zu\r\n"
			 "Cache-Control: no-store\r\n"
			 "%s%s"
			 "Connection: close\r\n\r\n",
			 v->status, v->phrase, type, len,
			 v->status == 401 ? "WWW-Authenticate: Bearer\r\n" : "",
			 v->status == 405 ? "Allow: POST\r\n" : "");

	/* nothing was sent before, so it is taken whole or the peer is gone */
	return conduit_write(c, head, (size_t)n) == n &&
	       conduit_write(c, body, len) == (ssize_t)len;
}

/*
 * All that becomes known of an attempt to enrol comes by here: who, what was decided, and why. For
 * counters, the log, the audit and its source's failures.
 */
static void note_refused(struct listener *l, struct worker *w, const struct client *client,
			 const struct verdict *v, const char *detail)
{
	counter_add(&w->counters.value[COUNTER_ENROLMENTS_REFUSED], 1);
	opening_log_refused(w, l->name, client, "enrolment", v->why, detail);
	if (v->why == REASON_BAD_CREDENTIAL)
		gateway_failed_to_authenticate(client, worker_now(w));
}

static void note_granted(const struct enrolment *e, const struct issued *record)
{
	char both[CLIENT_TEXT_MAX], until[ISSUED_TIME], detail[64] = "";
	const struct log_field fields[] = {
		{ "client", record->client, 0 }, { "listener", e->listener->name, 0 },
		{ "owner", record->owner, 0 },   { "serial", record->serial, 0 },
		{ "label", record->label, 0 },
	};

	const struct audit_record r = {
		.kind = AUDIT_CERTIFICATE_ISSUED,
		.listener = e->listener->name,
		.client = record->client,
		.owner = record->owner,
		.credential = record->label,
		.serial = record->serial,
		.detail = detail,
	};

	if (!*e->code)
		snprintf(detail, sizeof(detail), "for the one of serial %s",
			 identity_serial(e->client.identity));
	audit_write(gateway_audit(e->worker), &e->worker->counters, &r);
	counter_add(&e->worker->counters.value[COUNTER_ENROLMENTS], 1);
	log_fields(LOG_LEVEL_INFO, fields, sizeof(fields) / sizeof(*fields),
		   "%s (%s) %s as %s%s%s%s: certificate %s until %s%s%s",
		   client_format(&e->client, both, sizeof(both)), e->listener->name,
		   *e->code ? "enrolled" : "renewed", record->owner, *record->label ? " (" : "",
		   record->label, *record->label ? ")" : "", record->serial,
		   issued_time(record->expires, until), *detail ? ", " : "", detail);
}

/* Consumes the conduit. detail: for the log and the other end. */
static void refuse(struct listener *l, struct worker *w, struct conduit *c,
		   const struct client *client, const struct verdict *v, const char *detail)
{
	char body[512];
	int len = snprintf(body, sizeof(body), "attest-relay: %s\n", detail);

	note_refused(l, w, client, v, detail);
	say(c, v, "text/plain; charset=utf-8", body, (size_t)len);
	linger_close(c, gateway_on_connection_over, client->source);
}

/* ---- the end ---- */

static void on_free(struct reapable *r)
{
	struct enrolment *e =
		(struct enrolment *)((char *)r - offsetof(struct enrolment, reapable));

	OPENSSL_cleanse(e->code, sizeof(e->code));
	listener_unref(e->listener);
	free(e);
}

/* What is left is the conduit, which is the caller's. */
static struct conduit *leave(struct enrolment *e)
{
	struct conduit *c = e->conduit;

	e->conduit = NULL;
	timer_cancel(e->worker, &e->timer);
	*e->prevp = e->next;
	if (e->next)
		e->next->prevp = e->prevp;
	gateway_worker(e->worker)->n_enrolments--;
	counter_add(&e->worker->counters.value[COUNTER_LIVE_INTAKES], (uint64_t)-1);
	worker_reap(e->worker, &e->reapable);
	return c;
}

static void end(struct enrolment *e, const struct verdict *v, const char *detail)
{
	struct conduit *c = leave(e);

	refuse(e->listener, e->worker, c, &e->client, v, detail);
}

static void vanish(struct enrolment *e, enum reason why)
{
	struct source *source = e->client.source;

	opening_log_vanished(e->worker, e->listener->name, &e->client, why);
	conduit_close(leave(e), why);
	gateway_connection_over(source);
}

/* As of now: a reload may have taken an owner away. */
static const struct relay_config *config_of(const struct worker *w)
{
	return gateway_settings(w)->config;
}

/* ---- the certificate ---- */

/* The CA as its files are now. NULL and *why. */
static struct authority *load(const struct relay_config *c, char **why)
{
	bool exposed;
	struct authority *a = authority_load(c->enrolment.ca, c->enrolment.key, &exposed, why);
	char *said = *why;

	if (!a) {
		why_say(why, "enrolment: %s%s", said ? said : "out of memory",
			access(c->enrolment.ca, F_OK) < 0 && errno == ENOENT
				? "; attest-relay enroll init makes a CA"
				: "");
		free(said);
	} else if (exposed) {
		log_warning("enrolment: %s is a secret that other users of this machine can read: "
			    "chmod 600 it",
			    c->enrolment.key);
	}
	return a;
}

/* A sandbox closes later, and would leave what is above a folder that is not there. */
static bool prepare(const char *folder, char **why)
{
	int r = mkdir(folder, 0700) < 0 && errno != EEXIST ? -errno : 0;

	if (r == 0)
		r = codes_prepare(folder);
	if (r == 0)
		r = issued_prepare(folder);
	if (r < 0)
		why_say(why, "enrolment: cannot use the folder %s: %s", folder, strerror(-r));
	return r == 0;
}

/* A list that was made before lists were marked. */
static void mark_list(const struct relay_config *c)
{
	char *crl = authority_crl_path(c), *why = NULL;
	int r = crl ? authority_crl_look(crl, &why) : -ENOMEM;

	if (r > 0)
		r = authority_crl_mark(crl);
	if (r < 0 && !why)
		log_warning("enrolment: cannot mark that there is a revocation list in %s: %s",
			    c->enrolment.folder, strerror(-r));
	free(why);
	free(crl);
}

bool enrolment_check(const struct relay_config *c, char **why)
{
	struct authority *a;

	*why = NULL;
	if (!c->enrolment.ca)
		return true;
	a = load(c, why);
	authority_free(a);
	if (!a || !prepare(c->enrolment.folder, why))
		return false;
	mark_list(c);
	return true;
}

/* After the claim. False: the code was taken back meanwhile, or nobody can tell. */
static bool finish(struct enrolment *e)
{
	int r = *e->code ? codes_finish(config_of(e->worker)->enrolment.folder, e->code) : 0;

	if (r < 0)
		log_warning("enrolment: no certificate for a code that was claimed: %s",
			    r == -ENOENT ? "it was taken back meanwhile" : strerror(-r));
	return r == 0;
}

static void fail(struct enrolment *e, const struct verdict *v, const char *detail)
{
	finish(e);
	end(e, v, detail);
}

static void fail_broken(struct enrolment *e)
{
	const struct verdict *v = *e->code ? &broken : &not_renewed;

	fail(e, v, v->words);
}

static void grant(struct enrolment *e, const struct codes_grant *good,
		  const struct authority_certificate *made)
{
	struct issued record = { .at = time(NULL), .expires = made->to };
	int r;

	snprintf(record.serial, sizeof(record.serial), "%s", made->serial);
	snprintf(record.owner, sizeof(record.owner), "%s", good->owner);
	snprintf(record.label, sizeof(record.label), "%s", good->label);
	client_format(&e->client, record.client, sizeof(record.client));
	r = issued_add(config_of(e->worker)->enrolment.folder, &record);
	if (r < 0) { /* nobody could take it back */
		log_error("enrolment: cannot write a record into %s: %s",
			  config_of(e->worker)->enrolment.folder, strerror(-r));
		fail_broken(e);
		return;
	}
	/* behind the record: who takes an owner's codes back, then looks for records, finds one */
	if (!finish(e)) {
		end(e, &bad_code, bad_code.words);
		return;
	}
	note_granted(e, &record);
	if (!say(e->conduit, &granted, "application/pem-certificate-chain", made->pem, made->len))
		log_warning("%s was gone before it had its certificate %s", record.client,
			    record.serial);
	linger_close(leave(e), gateway_on_connection_over, e->client.source);
}

static void sign(struct enrolment *e, const struct codes_grant *good)
{
	const struct relay_config *c = config_of(e->worker);
	const struct verdict bad_request = { 400, "Bad Request", REASON_PROTOCOL, "" };
	char detail[256], *said;
	struct authority *a = load(c, &said);
	struct authority_certificate made;
	const char *why;
	int r;

	if (!a) {
		log_error("%s", said ? said : "enrolment: out of memory");
		free(said);
		fail_broken(e);
		return;
	}
	r = authority_sign(a, good->owner, e->body, e->wanted, c->enrolment.certificate_valid,
			   time(NULL), &made, &why);
	authority_free(a);
	if (r == 0) {
		grant(e, good, &made);
		free(made.pem);
	} else if (r == -EINVAL) {
		snprintf(detail, sizeof(detail), "%s%s", why,
			 *e->code ? ". The code is used up" : "");
		fail(e, &bad_request, detail);
	} else {
		log_error("enrolment: %s", why);
		fail_broken(e);
	}
}

/* ---- the code ---- */

/* Of folders: the disk's or the operator's fault, and nothing that a stranger may know. */
static void log_folder(const struct relay_config *c, int error)
{
	log_limited(LOG_LEVEL_ERROR, 0, 0, "enrolment: cannot read the codes in %s: %s",
		    c->enrolment.folder, strerror(-error));
}

/* NULL, or why not. */
static const struct verdict *judge_code(const struct relay_config *c, const char *code,
					int (*by)(const char *folder, const char *code, int64_t now,
						  struct codes_grant *grant),
					struct codes_grant *good)
{
	int r = by(c->enrolment.folder, code, time(NULL), good);

	if (r < 0 && r != -ENOENT)
		log_folder(c, r);
	return r < 0 || !relay_config_owner(c, good->owner) ? &bad_code : NULL;
}

/* ---- or the certificate that was shown ---- */

/* As of now: a reload may have come since the handshake. NULL, or why not. */
static const struct verdict *judge_shown(const struct listener *l, const struct worker *w,
					 const struct identity *shown, struct codes_grant *good)
{
	const struct settings *s = gateway_settings(w);

	switch (settings_judge_identity(s, l->name, shown, settings_now())) {
	case REASON_NONE:
		return renewal_of(s, shown, good) ? NULL : &no_owner;
	case REASON_EXPIRED:
		return &expired;
	default:
		return &revoked;
	}
}

static bool may_renew(const struct enrolment *e, const char *owner)
{
	struct quota_entry *q = tenants_owner(&e->listener->gateway->tenants, owner);
	/* a bucket knows seconds: each is an hour here */
	bool may = q && bucket_take(&q->renewals, RENEWALS_PER_HOUR, worker_now(e->worker) / 3600);

	quotas_put(q);
	return may;
}

static void renew(struct enrolment *e)
{
	struct codes_grant good;
	const struct verdict *v = judge_shown(e->listener, e->worker, e->client.identity, &good);
	int lock = -1;

	if (!v && !may_renew(e, good.owner))
		v = &too_often;
	if (!v) {
		enum reason why =
			renewal_begin(gateway_settings(e->worker), e->client.identity, &lock);

		v = why == REASON_NONE      ? NULL
		    : why == REASON_REVOKED ? &revoked
		    : why == REASON_LIMIT   ? &too_many
					    : &not_renewed;
	}
	if (v) {
		end(e, v, v->words);
		return;
	}
	sign(e, &good);
	renewal_end(lock);
}

/* ---- the request ---- */

static void whole(struct enrolment *e)
{
	const struct relay_config *c = config_of(e->worker);
	const struct verdict *v;
	struct codes_grant good;

	if (!*e->code) {
		renew(e);
		return;
	}
	v = judge_code(c, e->code, codes_claim, &good);
	if (v)
		end(e, v, v->words);
	else
		sign(e, &good);
}

/* NULL, or why not; code is the one in the request. */
static const struct verdict *read_code(const struct httphead *head, char code[CODES_SIZE])
{
	struct httphead_slice value = httphead_get(head, "authorization");
	const size_t scheme = sizeof(BEARER) - 1;

	if (httphead_count(head, "authorization") != 1 || value.len < scheme ||
	    strncasecmp(value.at, BEARER, scheme) != 0)
		return &no_code;
	return codes_read(value.at + scheme, value.len - scheme, code) ? NULL : &bad_code;
}

static void on_readable(struct conduit *c, unsigned events)
{
	struct enrolment *e = c->user;
	ssize_t n = conduit_read(c, e->body + e->len, e->wanted - e->len);

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		vanish(e, n == 0 ? REASON_EOF : REASON_RESET);
		return;
	}
	e->len += (size_t)n;
	if (e->len == e->wanted)
		whole(e);
}

static void on_deadline(struct timer *t)
{
	end((struct enrolment *)((char *)t - offsetof(struct enrolment, timer)), &too_slow,
	    too_slow.words);
}

static bool is_type(struct httphead_slice value)
{
	const size_t len = sizeof(ENROLMENT_TYPE) - 1;

	return value.len >= len && strncasecmp(value.at, ENROLMENT_TYPE, len) == 0 &&
	       (value.len == len || strchr("; \t", value.at[len]));
}

/* How long the body is. NULL, or why not. */
static const struct verdict *measure(const struct httphead *head, size_t *wanted)
{
	struct httphead_slice value = httphead_get(head, "content-length");
	size_t n = 0;

	if (httphead_count(head, "content-length") != 1 || !value.len ||
	    httphead_count(head, "transfer-encoding"))
		return &bad_length;
	for (size_t i = 0; i < value.len; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return &bad_length;
		n = n * 10 + (size_t)(value.at[i] - '0');
		if (n > AUTHORITY_REQUEST_MAX)
			return &too_large;
	}
	*wanted = n;
	return n ? NULL : &bad_length;
}

/* NULL, or why not. First whether there is a good code: without it, nothing else matters. */
static const struct verdict *judge(const struct listener *l, const struct worker *w,
				   const struct identity *shown, const struct httphead *head,
				   char code[CODES_SIZE], size_t *wanted)
{
	const struct relay_config *c = config_of(w);
	const struct verdict *v;
	struct codes_grant good;

	if (!c->enrolment.ca)
		return &no_enrolment;
	if (shown && identity_kind(shown) == IDENTITY_OWNER &&
	    !httphead_count(head, "authorization")) {
		v = judge_shown(l, w, shown, &good);
	} else {
		v = read_code(head, code);
		if (!v)
			v = judge_code(c, code, codes_look, &good);
	}
	if (v)
		return v;
	if (!httphead_is(head->method, "POST"))
		return &bad_method;
	if (!is_type(httphead_get(head, "content-type")))
		return &bad_type;
	return measure(head, wanted);
}

bool enrolment_is_wanted(const struct httphead *head)
{
	return httphead_is(head->target, ENROLMENT_PATH);
}

/* NULL: too many, or no memory. */
static struct enrolment *enlist(struct listener *l, struct worker *w, struct conduit *c,
				const struct client *client)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct enrolment *e = gw->n_enrolments < ENROLMENTS_MAX ? calloc(1, sizeof(*e)) : NULL;

	if (!e)
		return NULL;
	e->listener = listener_ref(l);
	e->worker = w;
	e->conduit = c;
	e->client = *client;
	e->reapable.free = on_free;
	e->next = gw->enrolments;
	e->prevp = &gw->enrolments;
	if (e->next)
		e->next->prevp = &e->next;
	gw->enrolments = e;
	gw->n_enrolments++;
	counter_add(&w->counters.value[COUNTER_LIVE_INTAKES], 1);
	return e;
}

void enrolment_begin(struct listener *l, struct worker *w, struct conduit *c,
		     const struct client *client, const struct httphead *head, const char *data,
		     size_t len, uint64_t ms)
{
	char code[CODES_SIZE] = "";
	size_t wanted = 0;
	const struct verdict *v = judge(l, w, client->identity, head, code, &wanted);
	struct enrolment *e = v ? NULL : enlist(l, w, c, client);

	if (!e) {
		v = v ? v : &too_many;
		refuse(l, w, c, client, v, v->words);
	} else {
		memcpy(e->code, code, sizeof(code));
		e->wanted = wanted;
		e->len = len - head->len < wanted ? len - head->len : wanted;
		memcpy(e->body, data + head->len, e->len);
		timer_set(w, &e->timer, ms, on_deadline);
		c->ready = on_readable;
		c->user = e;
		if (httphead_has_token(head, "expect", "100-continue") && e->len < wanted)
			conduit_write(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
		if (e->len == wanted)
			whole(e);
		else
			conduit_want(c, READY_READ);
	}
	OPENSSL_cleanse(code, sizeof(code));
}

void enrolment_end_all(struct gateway_worker *gw)
{
	while (gw->enrolments)
		vanish(gw->enrolments, REASON_SHUTDOWN);
}
