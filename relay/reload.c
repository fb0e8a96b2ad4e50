/*
 * reload: the config file is read again and takes effect, or all stays as it was.
 *
 * Theory of operation: IDLE, or WAITING for names (r->config is set). With no name to ask for
 * WAITING is skipped. Who asks when it waits has the file read once more: if it says the same names
 * the wait goes on, with the new config; else it begins anew. So a file that was mended counts at
 * once, and one who asks again and again does not put off the answer. All who asked are told
 * together.
 *
 * Between the two the process may have begun to drain (then it was cancelled), or to hand over; the
 * config in effect may have been taken anew (refresh.h), which changes no socket.
 */
#include "relay/reload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/admin_relay.h"
#include "relay/audit.h"
#include "relay/gateway.h"
#include "relay/handover.h"
#include "relay/log.h"
#include "relay/names.h"
#include "relay/notify.h"
#include "relay/sockets.h"
#include "relay/why.h"

struct asker {
	reload_told *told;
	void *user;
	struct asker *next;
};

struct reload {
	struct reload_spec spec;
	struct relay_config *config; /* WAITING */
	struct names *names;
	struct asker *askers;
};

/* ---- its end ---- */

static void drop(struct reload *r)
{
	relay_config_unref(r->config);
	r->config = NULL;
	r->names = names_free(r->names);
}

static void tell(struct reload *r, bool good, const char *why)
{
	struct asker *a;

	while ((a = r->askers)) {
		r->askers = a->next;
		a->told(a->user, good, why);
		free(a);
	}
}

/* why: freed. */
static void settle(struct reload *r, bool good, char *why)
{
	admin_relay_reloaded(r->spec.gateway, good ? NULL : why ? why : "out of memory");
	drop(r);
	handover_store(r->spec.handover);
	notify_ready();
	r->spec.over(r->spec.user);
	tell(r, good, why);
	free(why);
}

/* Before gateway_reload, which counts its own failures. why: freed. */
static void fail(struct reload *r, char *why)
{
	log_error("reload: nothing has changed");
	atomic_fetch_add(&r->spec.gateway->reload_failures, 1);
	settle(r, false, why);
}

/* ---- taking effect ---- */

/* its config may be older than the one that is to be in effect, and has the last word */
static bool is_handing_over(const struct reload *r, char **why)
{
	if (!handover_is_under_way(r->spec.handover))
		return false;
	why_say(why, "another process is taking over just now: ask again in a moment");
	log_error("reload: %s", *why ? *why : "out of memory");
	return true;
}

static void apply(struct reload *r)
{
	char *why = NULL;
	bool good;

	if (is_handing_over(r, &why)) {
		fail(r, why);
		return;
	}
	good = gateway_reload(r->spec.gateway, r->config, r->names, &why);
	if (good)
		log_info("reload: done; the config of now is in effect, certificates and "
			 "revocation lists are those of now");
	settle(r, good, why);
}

/* ---- names ---- */

static void add_unresolved(const struct reload *r, const struct listener_config *l, char **why)
{
	const char *failure = names_failure(r->names, l->address.name);
	char where[ADDRESS_TEXT_MAX], *said = *why;

	if (!failure)
		return;
	why_say(why, "%s%s%s:%d: listener %s: cannot listen at %s: %s", said ? said : "",
		said ? "; " : "", r->spec.path, l->line, l->name,
		address_format(&l->address, where, sizeof(where)), failure);
	free(said);
}

static void on_names(struct names *n, void *user)
{
	struct reload *r = user;
	char *why = NULL;

	for (size_t i = 0; i < r->config->n_listeners; i++)
		if (r->config->listeners[i].address.kind == ADDRESS_TCP)
			add_unresolved(r, &r->config->listeners[i], &why);
	if (!why) {
		apply(r);
		return;
	}
	log_error("reload: %s", why);
	fail(r, why);
}

/* Those of listeners whose sockets are not there yet. NULL: out of memory. Pointers into c. */
static const char **list_hosts(const struct sockets *now, const struct relay_config *c, size_t *n)
{
	const char **hosts = calloc(c->n_listeners + 1, sizeof(char *));

	*n = 0;
	for (size_t i = 0; hosts && i < c->n_listeners; i++) {
		const struct address *a = &c->listeners[i].address;

		if (names_has_name(a) && !sockets_have(now, a))
			hosts[(*n)++] = a->name;
	}
	return hosts;
}

/* False: errno. */
static bool ask_names(struct reload *r, const char *const *hosts, size_t n)
{
	if (r->names && names_is_about(r->names, hosts, n))
		return true;
	names_free(r->names);
	r->names = n ? names_ask(r->spec.base, hosts, n, on_names, r) : NULL;
	if (r->names)
		log_info("reload: asking for the addresses of %zu listeners' names, for %d s at "
			 "most",
			 n, NAMES_WAIT_S);
	return !n || r->names;
}

/* ---- its beginning ---- */

/* NULL, and *why has been logged. */
static struct relay_config *load(const struct reload *r, char **why)
{
	struct config_errors errors = { 0 };
	struct relay_config *config;

	if (is_handing_over(r, why))
		return NULL;
	config = relay_config_load(r->spec.path, &errors);
	for (size_t i = 0; i < errors.n; i++)
		log_error("reload: %s", errors.at[i]);
	*why = config ? NULL : config_errors_join(&errors);
	config_errors_deinit(&errors);
	return config;
}

static void begin(struct reload *r)
{
	struct relay_config *config;
	const char **hosts;
	char *why = NULL;
	bool good;
	size_t n;

	config = load(r, &why);
	if (!config) {
		fail(r, why);
		return;
	}
	relay_config_unref(r->config);
	r->config = config;
	hosts = list_hosts(r->spec.gateway->sockets, config, &n);
	good = hosts && ask_names(r, hosts, n);
	free(hosts);
	if (!good) {
		why_say(&why, "cannot ask for the listeners' names: %s",
			errno == EAGAIN ? "too many earlier questions have no answer yet"
					: strerror(errno));
		log_error("reload: %s", why ? why : "out of memory");
		fail(r, why);
	} else if (!r->names) {
		apply(r);
	}
}

static bool add_asker(struct reload *r, reload_told *told, void *user)
{
	struct asker *a = told ? malloc(sizeof(*a)) : NULL;

	if (!told)
		return true;
	if (!a)
		return false;
	*a = (struct asker){ .told = told, .user = user, .next = r->askers };
	r->askers = a;
	return true;
}

void reload_ask(struct reload *r, reload_told *told, void *user)
{
	static const char draining[] = "not while draining";
	struct gateway *g = r->spec.gateway;

	audit_reopen(g->audit); /* whatever comes of the rest */
	if (atomic_load(&g->draining)) {
		log_info("reload: %s", draining);
		if (told)
			told(user, false, draining);
		return;
	}
	if (!add_asker(r, told, user)) {
		told(user, false, NULL);
		return;
	}
	notify_reloading(); /* also if one waits: systemd wants to hear it after its own signal */
	begin(r);
}

void reload_cancel(struct reload *r, const char *why)
{
	if (!r || !r->config)
		return;
	log_info("reload: %s; nothing has changed", why);
	drop(r);
	tell(r, false, why);
}

/* ---- life ---- */

struct reload *reload_new(const struct reload_spec *spec)
{
	struct reload *r = calloc(1, sizeof(*r));

	if (r)
		r->spec = *spec;
	return r;
}

struct reload *reload_free(struct reload *r)
{
	reload_cancel(r, "the program is ending");
	free(r);
	return NULL;
}
