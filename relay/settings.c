/*
 * settings: what a config makes, and questions that a reload asks again.
 *
 * Theory of operation: all files that a config names are read here, so that new settings are whole
 * or are not at all. What is live is judged by the same functions as what begins.
 */
#include "relay/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "relay/authority.h"
#include "relay/destination.h"
#include "relay/fileprint.h"
#include "relay/identity.h"
#include "relay/log.h"
#include "relay/named.h"
#include "relay/tls.h"
#include "relay/trust.h"
#include "relay/why.h"

#define TLS_DOORS (DOOR_TUNNEL | DOORS_HTTP)

/* ---- making ---- */

/* Puts before it what it is about, and behind it what only a restart can change. */
static void tell_of(char **why, const char *what, const char *name, const char *hint)
{
	char *said = *why;

	why_say(why, "%s%s: %s%s", what, name, said ? said : "out of memory", hint);
	free(said);
}

/*
 * By the modes it may be read, and yet it may not: that is the sandbox, which a reload cannot
 * widen. NULL is fine.
 */
static bool is_walled_off(const char *path)
{
	int fd = path && access(path, R_OK) == 0 ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
						 : -1;

	if (fd >= 0)
		close(fd);
	return fd < 0 && path && errno == EACCES && access(path, R_OK) == 0;
}

static const char *hint(const char *const *paths, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (is_walled_off(paths[i]))
			return "; this needs a restart (the sandbox has only the folders that were "
			       "named at the start)";
	return "";
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

static bool load_listener(struct settings *s, size_t i, char **why)
{
	const struct listener_config *l = &s->config->listeners[i];
	const char *const paths[] = { l->client_ca, l->client_crl, s->config->tls.certificate,
				      s->config->tls.key };
	bool good = true;

	if (l->client_ca) {
		s->trusts[i] = load_trust(IDENTITY_CLIENT, l->client_ca, l->client_crl, why);
		good = s->trusts[i];
	}
	if (good && s->config->tls.certificate && l->doors & TLS_DOORS) {
		s->tls[i] = load_context(s, i, why);
		good = s->tls[i];
	}
	if (!good)
		tell_of(why, "listener ", l->name, hint(paths, sizeof(paths) / sizeof(paths[0])));
	return good;
}

/* The CA that signs what `attest-relay enroll` lets owners ask for. */
static bool load_owners(struct settings *s, const struct settings *before, char **why)
{
	const struct enrolment_config *e = &s->config->enrolment;
	const char *const paths[] = { e->ca };
	char *crl;
	int there = 0;

	if (!e->ca)
		return true;
	crl = authority_crl_path(s->config);
	if (crl)
		there = authority_crl_look(crl, why);
	s->revokes = there > 0;
	if (there == 0 && before && before->revokes)
		why_say(why,
			"the revocation list %s is gone, and with it what was revoked: put "
			"it back",
			crl);
	else if (crl && there >= 0)
		s->owners = load_trust(IDENTITY_OWNER, e->ca, s->revokes ? crl : NULL, why);
	free(crl);
	if (!s->owners)
		tell_of(why, "enrolment", "", hint(paths, 1));
	return s->owners;
}

uint64_t settings_files(const struct relay_config *c)
{
	char *crl = c->enrolment.ca ? authority_crl_path(c) : NULL;
	uint64_t print = FILEPRINT_BEGIN;

	fileprint_add(&print, c->tls.certificate);
	fileprint_add(&print, c->tls.key);
	fileprint_add(&print, c->enrolment.ca);
	fileprint_add(&print, crl);
	for (size_t i = 0; i < c->n_listeners; i++) {
		fileprint_add(&print, c->listeners[i].client_ca);
		fileprint_add(&print, c->listeners[i].client_crl);
	}
	free(crl);
	return print;
}

static bool make_destinations(struct settings *s, const struct settings *before)
{
	struct relay_config *c = s->config;

	s->destinations = calloc(c->n_services + 1, sizeof(struct destination *));
	for (size_t i = 0; s->destinations && i <= c->n_services; i++) {
		const struct service_config *of = i < c->n_services ? &c->services[i] : NULL;
		const struct service_config *old =
			of && before ? relay_config_service(before->config, of->name) : NULL;

		s->destinations[i] = destination_of(
			c, of, before && (old || !of) ? settings_destination(before, old) : NULL);
		if (!s->destinations[i])
			return false;
		s->tells_clients |= of && of->proxy_protocol != PROXY_SENT_NONE;
	}
	return s->destinations;
}

struct settings *settings_new(struct relay_config *c, const struct settings *before, char **why)
{
	struct settings *s = calloc(1, sizeof(*s));
	bool good;

	*why = NULL;
	if (!s)
		return NULL;
	atomic_init(&s->refs, 1);
	s->config = relay_config_ref(c);
	s->generation = before ? before->generation + 1 : 1;
	s->files = settings_files(c);
	s->credentials = credentials_new(c);
	s->permits = permits_new(c);
	s->named = named_new(c, before ? before->named : NULL, settings_now());
	s->trusts = calloc(c->n_listeners + 1, sizeof(*s->trusts));
	s->tls = calloc(c->n_listeners + 1, sizeof(*s->tls));
	good = s->credentials && s->permits && s->named && s->trusts && s->tls &&
	       make_destinations(s, before) && load_owners(s, before, why);
	for (size_t i = 0; good && i < c->n_listeners; i++)
		good = load_listener(s, i, why);
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
	for (size_t i = 0; s->destinations && i <= s->config->n_services; i++)
		destination_unref(s->destinations[i]);
	trust_unref(s->owners);
	credentials_free(s->credentials);
	permits_free(s->permits);
	named_free(s->named);
	relay_config_unref(s->config);
	free(s->trusts);
	free(s->tls);
	free(s->destinations);
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

/* By any listener's list: for who came by a listener that is gone. */
static bool is_revoked(const struct settings *s, const struct identity *i)
{
	for (size_t n = 0; n < s->config->n_listeners; n++)
		if (s->trusts[n] && trust_revokes(s->trusts[n], i))
			return true;
	return false;
}

enum reason settings_judge_identity(const struct settings *s, const char *listener,
				    const struct identity *i, uint64_t now)
{
	const struct listener_config *l;
	const struct trust *t = s->owners;

	if (!i)
		return REASON_NONE;
	if (now >= identity_expires(i))
		return REASON_EXPIRED;
	if (identity_kind(i) != IDENTITY_OWNER) {
		l = relay_config_listener(s->config, listener);
		if (!l)
			return is_revoked(s, i) ? REASON_REVOKED : REASON_NONE;
		t = s->trusts[l - s->config->listeners];
	}
	return t && trust_holds(t, i) ? REASON_NONE : REASON_REVOKED;
}

enum reason settings_judge_stream(const struct settings *s, const char *listener,
				  const struct peer *peer, const struct identity *i,
				  const char *service, uint64_t now,
				  const struct client_config **by)
{
	const struct permit_ask ask = {
		.peer = peer, .identity = i, .listener = listener, .service = service, .now = now
	};
	enum reason why = settings_judge_identity(s, listener, i, now);

	*by = NULL;
	if (why != REASON_NONE)
		return why;
	return permits_open(s->permits, &ask, by) ? REASON_NONE : REASON_FORBIDDEN;
}
