/*
 * hub_hello: what an agent says of itself, and what comes of it.
 *
 * Theory of operation: first whose it is, by what it has shown; then whether that owner may offer
 * these services; then whether there is room. Only then is it listed, and told so. The owner part
 * of each service's name comes from the owner that the credential is of, never from the agent.
 */
#include "tunnel/hub_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/audit.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/identity.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/registry.h"
#include "relay/token.h"
#include "relay/worker.h"
#include "tunnel/hello.h"
#include "tunnel/session.h"

void tunnel_refuse(struct tunnel *t, enum hello_refusal word, enum reason why, const char *message)
{
	struct hello_refused refused = { .reason = word };
	struct fields fields;

	snprintf(refused.message, sizeof(refused.message), "%s", message);
	fields_init(&fields);
	if (hello_encode_refused(&refused, &fields) == 0)
		session_request(t->session, HELLO_PATH_REFUSED, &fields);
	tunnel_close(t, why, message);
}

/*
 * Whose it is: by its token, or, if it shows none, by its certificate. Both at once must not name
 * two owners. REASON_NONE; or why it is nobody's.
 */
static enum reason judge_credential(const struct tunnel *t, const struct settings *s, uint64_t now,
				    struct credential *out)
{
	struct client client = t->client;
	struct credential other;
	enum reason why = settings_judge_identity(s, t->listener->name, client.identity, now);

	if (why != REASON_NONE)
		return why;
	if (t->by_token) {
		if (!credentials_by_token(s->credentials, t->token, out))
			return REASON_BAD_CREDENTIAL;
		if (client.identity &&
		    credentials_by_identity(s->credentials, client.identity, &other) &&
		    strcmp(other.owner->name, out->owner->name) != 0)
			return REASON_BAD_CREDENTIAL;
	} else if (!client.identity ||
		   !credentials_by_identity(s->credentials, client.identity, out)) {
		return REASON_BAD_CREDENTIAL;
	}
	return now < out->expires ? REASON_NONE : REASON_EXPIRED;
}

const char *tunnel_credential_words(const struct tunnel *t, enum reason why)
{
	if (why == REASON_EXPIRED)
		return "the credential has expired; ask the relay's operator for a new one";
	if (why == REASON_REVOKED)
		return "the certificate was revoked; ask the relay's operator for a new one";
	if (t->by_token)
		return "the token is not known to this relay, or the certificate beside it is "
		       "another owner's; ask its operator for a new one";
	if (t->client.identity)
		return "no owner of this relay has a certificate with these names; ask its "
		       "operator to list one of them, or show a token";
	return "neither a token nor a certificate of a CA that this relay takes was shown";
}

/* In words: "kbs.acme, tang.acme"; cut where it is too long. */
static void list_services(const struct hello_accepted *words, char *list, size_t size)
{
	size_t used = 0;

	*list = '\0';
	for (unsigned i = 0; i < words->n_services && used < size; i++)
		used += (size_t)snprintf(list + used, size - used, "%s%s", i ? ", " : "",
					 words->services[i]);
}

/* While tunnels offer a service it has figures of its own. */
static void hold_figures(struct tunnel *t, const struct hello_accepted *words)
{
	struct figures *all = t->gateway->figures;
	struct figure *owner;

	t->figures = calloc(words->n_services + 1, sizeof(struct figure *));
	for (unsigned i = 0; t->figures && i < words->n_services; i++)
		t->figures[i] = figures_offered(all, words->services[i]);
	owner = figures_of(all, FIGURES_OWNERS, t->owner);
	figure_add(owner, t->worker->index, FIGURE_ACCEPTED, 1);
	figure_put(owner);
}

/* Everything accepted: says so, and wakes who waits. */
static void accepted(struct tunnel *t, const struct hello_accepted *words)
{
	char name[136], from[CLIENT_TEXT_MAX], list[512];
	struct fields fields;

	list_services(words, list, sizeof(list));
	t->state = UP;
	t->listed = true;
	timer_cancel(t->worker, &t->timer);
	handshake_end(&t->handshake);
	quota_count(&t->quota->quota, QUOTA_TUNNELS);
	counter_add(&t->worker->counters.value[COUNTER_TUNNELS], 1);
	counter_add(&t->worker->counters.value[COUNTER_LIVE_TUNNELS], 1);
	hold_figures(t, words);
	tunnel_record(t, AUDIT_SESSION_START, REASON_NONE, NULL, list);
	fields_init(&fields);
	if (hello_encode_accepted(words, &fields) < 0 ||
	    session_request(t->session, HELLO_PATH_ACCEPTED, &fields) < 0) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	for (unsigned i = 0; i < words->n_services; i++)
		opening_wake_all(t->gateway, words->services[i]);
	tunnel_label(t, name, sizeof(name));
	log_info("tunnel %s from %s (%s) up: %s", name,
		 client_format(&t->client, from, sizeof(from)), tunnel_carrier(t), list);
	if (atomic_load(&t->gateway->draining)) /* it was on its way in when that began */
		tunnel_ask_to_move(t, HELLO_MOVE_DRAIN);
}

static void replace(const struct offer *stale)
{
	uint64_t *id = malloc(sizeof(*id));

	if (id)
		*id = stale->tunnel;
	if (!id || worker_post(stale->worker, tunnel_replaced, id) < 0) {
		/* it has lost its services already; its own dead time-out ends it */
		free(id);
	}
}

static void put_owner(struct quota *memory)
{
	quotas_put((struct quota_entry *)memory); /* its first member */
}

/* Its session's memory is the owner's. False: out of memory. */
static bool join_owner(struct tunnel *t)
{
	t->quota = tenants_owner(&t->gateway->tenants, t->owner);
	if (!t->quota)
		return false;
	if (session_count_memory(t->session, &quotas_hold(t->quota)->quota, put_owner))
		return true;
	quotas_put(t->quota);
	return false;
}

/* It may not be listed: says why. */
static void refuse_listing(struct tunnel *t, enum reason why)
{
	if (why == REASON_STALE)
		tunnel_refuse(
			t, HELLO_STALE, why,
			"another agent with this instance name is connected and newer; if both are "
			"yours, give each its own --instance");
	else if (why == REASON_OWNER_LIMIT)
		tunnel_refuse(
			t, HELLO_LIMIT, why,
			"this owner has as many tunnels as it may (limits.per_owner.tunnels)");
	else
		tunnel_refuse(t, HELLO_LIMIT, why,
			      "the relay has as many tunnels as it may (limits.tunnels)");
}

/* Its services' full names. */
static struct hello_accepted name_services(const struct tunnel *t, const struct hello *hello)
{
	struct hello_accepted words = { .n_services = hello->n_offers };

	snprintf(words.owner, sizeof(words.owner), "%s", t->owner);
	for (unsigned i = 0; i < hello->n_offers; i++)
		snprintf(words.services[i], sizeof(words.services[i]), "%s.%s",
			 hello->offers[i].name, t->owner);
	return words;
}

/* It has only asked: is told what would come of it, and nothing else changes. */
static void answer_question(struct tunnel *t, const struct hello *hello)
{
	const struct hello_accepted words = name_services(t, hello);
	struct registration asked = { .owner = t->owner,
				      .instance = t->instance,
				      .generation = hello->generation };
	struct fields fields;
	enum reason why;

	t->quota = tenants_owner(&t->gateway->tenants, t->owner);
	if (!t->quota) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	why = registry_ask(t->gateway->registry, &asked,
			   quota_most(&t->quota->quota, QUOTA_TUNNELS),
			   gateway_settings(t->worker)->config->limits.tunnels);
	if (why != REASON_NONE) {
		refuse_listing(t, why);
		return;
	}
	fields_init(&fields);
	if (hello_encode_accepted(&words, &fields) == 0)
		session_request(t->session, HELLO_PATH_ACCEPTED, &fields);
	t->answered = true;
	tunnel_close(t, REASON_EOF, "the question is answered");
}

static void enroll(struct tunnel *t, const struct hello *hello)
{
	const struct relay_limits *limits = &gateway_settings(t->worker)->config->limits;
	const struct hello_accepted words = name_services(t, hello);
	struct offered services[HELLO_SERVICES_MAX];
	struct offer stale;
	enum reason why;

	/* NOLINTNEXTLINE(clang-analyzer-optin.portability.UnixAPI): a hello has one at least */
	t->offers = calloc(hello->n_offers, sizeof(*t->offers));
	if (!t->offers || !join_owner(t)) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	t->n_offers = hello->n_offers;
	for (unsigned i = 0; i < hello->n_offers; i++) {
		services[i] = (struct offered){ words.services[i], hello->offers[i].eager };
		memcpy(t->offers[i], hello->offers[i].name, sizeof(t->offers[i]));
	}
	t->registration = (struct registration){ .worker = t->worker,
						 .tunnel = t->id,
						 .owner = t->owner,
						 .instance = t->instance,
						 .generation = hello->generation };
	why = registry_add(t->gateway->registry, &t->registration, services, hello->n_offers,
			   quota_most(&t->quota->quota, QUOTA_TUNNELS), limits->tunnels, &stale);
	if (why != REASON_NONE) {
		refuse_listing(t, why);
	} else {
		if (stale.tunnel)
			replace(&stale);
		accepted(t, &words);
	}
}

void tunnel_on_hello(struct tunnel *t, const struct fields *fields)
{
	char why[HELLO_WHY_MAX], message[HELLO_MESSAGE_MAX];
	struct credential credential;
	enum reason verdict;
	struct hello hello;

	if (hello_decode(&hello, fields, why) < 0) {
		tunnel_refuse(t, HELLO_PROTOCOL, REASON_PROTOCOL, why);
		return;
	}
	if (hello.token && token_hash(hello.token, strlen(hello.token), t->token) < 0) {
		tunnel_refuse(t, HELLO_OTHER, REASON_INTERNAL, "the relay cannot judge tokens now");
		return;
	}
	t->by_token = hello.token;
	verdict = judge_credential(t, gateway_settings(t->worker), settings_now(), &credential);
	if (verdict != REASON_NONE) {
		gateway_failed_to_authenticate(&t->client, worker_now(t->worker));
		tunnel_refuse(t, HELLO_BAD_CREDENTIAL, verdict,
			      tunnel_credential_words(t, verdict));
		return;
	}
	snprintf(t->owner, sizeof(t->owner), "%s", credential.owner->name);
	snprintf(t->credential, sizeof(t->credential), "%s", credential.label);
	t->until = credential.expires;
	snprintf(t->instance, sizeof(t->instance), "%s", hello.instance);
	for (unsigned i = 0; i < hello.n_offers; i++) {
		if (credentials_may_offer(credential.owner, hello.offers[i].name))
			continue;
		snprintf(message, sizeof(message),
			 "owner %s may not offer the service %s; the relay's operator decides "
			 "which",
			 t->owner, hello.offers[i].name);
		tunnel_refuse(t, HELLO_FORBIDDEN, REASON_FORBIDDEN, message);
		return;
	}
	if (hello.question)
		answer_question(t, &hello);
	else
		enroll(t, &hello);
}

/* By the settings of now: would it be let in again, with all it offers? *words: why not. */
enum reason tunnel_judge_again(struct tunnel *t, const struct settings *s, uint64_t now,
			       const char **words)
{
	struct credential credential;
	enum reason why = judge_credential(t, s, now, &credential);

	*words = tunnel_credential_words(t, why);
	if (why == REASON_BAD_CREDENTIAL)
		return REASON_REVOKED;
	if (why != REASON_NONE)
		return why;
	if (strcmp(credential.owner->name, t->owner) != 0) {
		*words = "the credential is another owner's now";
		return REASON_REVOKED;
	}
	*words = "the owner may offer one of these services no more; the relay's operator decides "
		 "which";
	for (unsigned i = 0; i < t->n_offers; i++)
		if (!credentials_may_offer(credential.owner, t->offers[i]))
			return REASON_REVOKED;
	t->until = credential.expires;
	return REASON_NONE;
}
