/*
 * admin_revoke: the admin API's way to take owners' certificates back.
 *
 * Theory of operation: relay/revoke writes the new list; then the config in effect is reloaded, so
 * that the workers judge by that list, and end what it forbids. The config's file is not read: what
 * stands there may not be meant to be in effect yet. Both are done in the main thread, which no
 * stream waits for. A folder that another has locked is not waited for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/config.h"
#include "relay/admin_json.h"
#include "relay/admin_relay_private.h"
#include "relay/daemon.h"
#include "relay/gateway.h"
#include "relay/issued.h"
#include "relay/log.h"
#include "relay/revoke.h"

/* A member that is text; NULL: it is not there, or is not. */
static const char *member(const struct admin_request *r, const char *key)
{
	struct json_object *v = NULL;

	json_object_object_get_ex(admin_body(r), key, &v);
	return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

const char *admin_revoke_whose(const struct admin_request *r, char *buf, size_t size)
{
	const char *owner = member(r, "owner"), *serial = member(r, "serial");

	snprintf(buf, size, "%s%s", owner ? "owner " : "serial ",
		 owner    ? owner
		 : serial ? serial
			  : "?");
	return buf;
}

/* False: answered. */
static bool is_known(struct admin_request *r, const struct relay_config *c, const char *serial)
{
	char text[AUTHORITY_SERIAL_TEXT];
	struct issued record;

	if (!authority_serial(serial, text)) {
		admin_fail(r, 400, "bad-parameter", "serial: expected up to 32 hex digits");
		return false;
	}
	if (issued_find(c->enrolment.folder, text, &record) == 0)
		return true;
	admin_fail(r, 404, "not-found",
		   "there is no record of a certificate %s that can be read; attest-relay enroll "
		   "revoke takes any",
		   text);
	return false;
}

/* False: answered. */
static bool may_revoke(struct admin_request *r, struct daemon *d, const struct relay_config *c,
		       const struct revoke_wish *wish)
{
	if (!wish->owner == !wish->n_serials)
		admin_fail(r, 400, "bad-parameter", "expected either serial or owner, a text");
	else if (!c->enrolment.ca)
		admin_fail(r, 409, "no-enrolment", "the config has no enrolment");
	else if (daemon_is_draining(d))
		admin_fail(r, 409, "reload", "it is ending: attest-relay enroll revoke does it");
	else
		return wish->owner || is_known(r, c, wish->serials[0]);
	return false;
}

static void name_bad(const char *name, void *arg)
{
	log_warning("enrolment: %s is no record of a certificate", name);
}

static bool change_list(struct admin_request *r, const struct relay_config *c,
			const struct revoke_wish *wish, struct revoke_done *done)
{
	bool exposed;
	char *why;
	struct authority *a = authority_load(c->enrolment.ca, c->enrolment.key, &exposed, &why);
	int error = a ? revoke_certificates(c, a, wish, done, &why) : -EIO;

	authority_free(a);
	if (error == 0)
		return true;
	if (error == -EWOULDBLOCK)
		admin_fail(r, 503, "busy", "somebody else revokes or renews just now: ask again");
	else
		admin_fail(r, 500, "revoke", "nothing was revoked: %s",
			   why ? why : "out of memory");
	free(why);
	return false;
}

static void reply(struct admin_request *r, const struct gateway *g, const struct revoke_done *done)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "revoked");

	for (size_t i = 0; i < done->n; i++)
		json_object_array_add(list, json_object_new_string(done->serials[i]));
	admin_json_number(o, "codes_removed", done->codes);
	if (done->bad)
		admin_json_number(o, "unreadable", done->bad);
	admin_json_number(o, "generation", g->settings->generation);
	admin_reply_json(r, 200, o);
}

/* The list is on the disk; the workers are to go by it. */
static void take_effect(struct admin_request *r, struct gateway *g, const struct revoke_done *done)
{
	char *why;

	if (gateway_reload(g, g->settings->config, NULL, &why)) {
		log_info("reload: %zu certificate%s revoked at the admin socket", done->n,
			 done->n == 1 ? "" : "s");
		reply(r, g, done);
	} else {
		admin_fail(r, 422, "reload",
			   "it was written down, but is not in effect until a reload is good: %s",
			   why ? why : "out of memory");
	}
	free(why);
}

void admin_revoke(struct admin_request *r, void *daemon)
{
	struct gateway *g = daemon_gateway(daemon);
	const struct relay_config *c = g->settings->config;
	char *serial = (char *)(uintptr_t)member(r, "serial");
	const struct revoke_wish wish = {
		.owner = member(r, "owner"),
		.serials = &serial,
		.n_serials = serial ? 1 : 0,
		.now = time(NULL),
		.bad = name_bad,
	};
	struct revoke_done done;

	if (!may_revoke(r, daemon, c, &wish) || !change_list(r, c, &wish, &done))
		return;
	if (wish.owner && !done.n && !done.codes && !relay_config_owner(c, wish.owner))
		admin_fail(r, 404, "not-found", "no such owner: %s", wish.owner);
	else if (done.n)
		take_effect(r, g, &done);
	else
		reply(r, g, &done);
	free(done.serials);
}
