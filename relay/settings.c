/*
 * settings: what a config makes, and questions that a reload asks again.
 *
 * Theory of operation: all files that a config names are read here, so that new settings are whole
 * or are not at all. What is live is judged by the same functions as what begins.
 */
#include "relay/settings.h"

#include <stdlib.h>
#include <time.h>

#include "relay/authority.h"
#include "relay/identity.h"
#include "relay/log.h"
#include "relay/tls.h"
#include "relay/trust.h"
#include "relay/why.h"

#define TLS_DOORS (DOOR_TUNNEL | DOORS_HTTP)

/* ---- making ---- */

static void tell(const char *said, const char *what, const char *name, char *why)
{
	log_error("%s%s%s%s", said, what, name, why ? why : "out of memory");
	free(why);
}

static const char *prefix(const struct settings *before)
{
	return before ? "reload: " : "";
}

static struct trust *load_trust(enum identity_kind kind, const char *ca, const char *crl,
				char **why)
{
	char *warning;
	struct trust *t = trust_new(kind, ca, crl, &warning, why);

	if (warning)
		log_warning("%s", warning);
	free(warning);
	return t;
}

/* Its ALPN names are those of its doors; whoever offers none speaks HTTP/1.1. */
static struct tls_context *load_context(const struct settings *s, size_t i, char **why)
{
	const struct relay_config *c = s->config;
	const struct listener_config *l = &c->listeners[i];
	struct trust *trusts[TLS_TRUSTS_MAX];
	const char *alpn[4] = { NULL };
	struct tls_context *t;
	unsigned n = 0, asks = 0;

	if (l->doors & DOOR_TUNNEL)
		alpn[n++] = "attest-relay/1";
	if (l->doors & DOOR_CONNECT)
		alpn[n++] = "h2";
	alpn[n] = "http/1.1";
	if (s->trusts[i])
		trusts[asks++] = s->trusts[i];
	if (s->owners && l->doors & DOOR_TUNNEL)
		trusts[asks++] = s->owners;
	t = tls_server_context_new(c->tls.certificate, c->tls.key, alpn, why);
	if (t && asks && tls_server_context_ask(t, trusts, asks) < 0)
		t = tls_context_unref(t);
	return t;
}

static bool load_listener(struct settings *s, size_t i, const char *said)
{
	const struct listener_config *l = &s->config->listeners[i];
	char *why = NULL;
	bool good = true;

	if (l->client_ca) {
		s->trusts[i] = load_trust(IDENTITY_CLIENT, l->client_ca, l->client_crl, &why);
		good = s->trusts[i];
	}
	if (good && s->config->tls.certificate && l->doors & TLS_DOORS) {
		s->tls[i] = load_context(s, i, &why);
		good = s->tls[i];
	}
	if (!good) {
		log_error("%slistener %s: %s", said, l->name, why ? why : "out of memory");
		free(why);
	}
	return good;
}

/* The CA that signs what `attest-relay enroll` lets owners ask for. */
static bool load_owners(struct settings *s, const struct settings *before)
{
	const struct enrolment_config *e = &s->config->enrolment;
	char *crl, *why = NULL;
	int there = 0;

	if (!e->ca)
		return true;
	crl = authority_crl_path(s->config);
	if (crl)
		there = authority_crl_look(crl, &why);
	s->revokes = there > 0;
	if (there == 0 && before && before->revokes)
		why_say(&why,
			"the revocation list %s is gone, and with it what was revoked: put "
			"it back",
			crl);
	else if (crl && there >= 0)
		s->owners = load_trust(IDENTITY_OWNER, e->ca, s->revokes ? crl : NULL, &why);
	free(crl);
	if (!s->owners)
		tell(prefix(before), "enrolment: ", "", why);
	return s->owners;
}

struct settings *settings_new(struct relay_config *c, const struct settings *before)
{
	struct settings *s = calloc(1, sizeof(*s));
	bool good;

	if (!s)
		return NULL;
	atomic_init(&s->refs, 1);
	s->config = relay_config_ref(c);
	s->generation = before ? before->generation + 1 : 1;
	s->credentials = credentials_new(c);
	s->permits = permits_new(c);
	s->trusts = calloc(c->n_listeners + 1, sizeof(*s->trusts));
	s->tls = calloc(c->n_listeners + 1, sizeof(*s->tls));
	good = s->credentials && s->permits && s->trusts && s->tls;
	if (!good)
		tell(prefix(before), "", "", NULL);
	good = good && load_owners(s, before);
	for (size_t i = 0; good && i < c->n_listeners; i++)
		good = load_listener(s, i, prefix(before));
	return good ? s : settings_unref(s);
}

struct settings *settings_ref(struct settings *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

struct settings *settings_unref(struct settings *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	for (size_t i = 0; i < s->config->n_listeners; i++) {
		if (s->trusts)
			trust_unref(s->trusts[i]);
		if (s->tls)
			tls_context_unref(s->tls[i]);
	}
	trust_unref(s->owners);
	credentials_free(s->credentials);
	permits_free(s->permits);
	relay_config_unref(s->config);
	free(s->trusts);
	free(s->tls);
	free(s);
	return NULL;
}

/* ---- judging ---- */

uint64_t settings_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return now.tv_sec > 0 ? (uint64_t)now.tv_sec : 0;
}

enum reason settings_judge_identity(const struct settings *s, size_t listener,
				    const struct identity *i, uint64_t now)
{
	const struct trust *t;

	if (!i)
		return REASON_NONE;
	if (now >= identity_expires(i))
		return REASON_EXPIRED;
	t = identity_kind(i) == IDENTITY_OWNER ? s->owners : s->trusts[listener];
	return t && trust_holds(t, i) ? REASON_NONE : REASON_REVOKED;
}

enum reason settings_judge_stream(const struct settings *s, size_t listener,
				  const struct peer *peer, const struct identity *i,
				  const char *service, uint64_t now,
				  const struct client_config **by)
{
	const struct permit_ask ask = { .peer = peer,
					.identity = i,
					.listener = s->config->listeners[listener].name,
					.service = service,
					.now = now };
	enum reason why = settings_judge_identity(s, listener, i, now);

	*by = NULL;
	if (why != REASON_NONE)
		return why;
	return permits_open(s->permits, &ask, by) ? REASON_NONE : REASON_FORBIDDEN;
}
