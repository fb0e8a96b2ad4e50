/*
 * check: what must hold between the values of a config, beyond what tables can say.
 *
 * Theory of operation: runs after the walk, over structs that may have holes where the walk
 * reported something; holes are passed over. What depends on all entries being there (does that
 * owner exist?) is asked only of a config without errors so far, so that no error is the echo of
 * another one. Duplicates are found by sorting, since lists may be long. Where something stands in
 * the file is looked up only once it is wrong.
 *
 * Longer than other files: all that relates two of a relay's settings stands in one place.
 */
#include <stdlib.h>
#include <string.h>

#include "config/check_private.h"
#include "config/schema.h"
#include "config/xalloc.h"

#define MEMORY_MIN (1024 * 1024)

static int compare_uses(const void *a, const void *b)
{
	const struct use *x = a, *y = b;
	int order = strcmp(x->text, y->text);

	if (order)
		return order;
	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->sub < y->sub ? -1 : x->sub > y->sub;
}

void check_duplicates(const struct check *k, struct use *uses, size_t n,
		      void (*again)(const struct check *k, const struct use *first,
				    const struct use *use))
{
	size_t first = 0;

	if (n)
		qsort(uses, n, sizeof(*uses), compare_uses);
	for (size_t i = 1; i < n; i++)
		if (strcmp(uses[first].text, uses[i].text) == 0)
			again(k, &uses[first], &uses[i]);
		else
			first = i;
}

const struct node *check_find(const struct check *k, const char *list, size_t at, const char *key)
{
	const struct node *entry, *node;

	if (k->s->e->n >= CONFIG_ERRORS_MAX)
		return NULL;
	entry = node_at(node_get(k->root, list), at);
	node = key ? node_get(entry, key) : NULL;
	return node ? node : entry;
}

const struct node *check_find_sub(const struct check *k, const char *list, size_t at,
				  const char *key, size_t sub)
{
	const struct node *node = check_find(k, list, at, key), *entry = node_at(node, sub);

	return entry ? entry : node;
}

/* ---- listeners ---- */

static void listener_name_again(const struct check *k, const struct use *first,
				const struct use *use)
{
	source_error(k->s, check_find(k, "listeners", use->at, "name"),
		     "name: %s is the name of the listener on line %d already; expected another",
		     use->text, k->c->listeners[first->at].line);
}

/* What else listens, behind the listeners in a list of all. */
static const char *const own_keys[] = { "metrics", "status", "admin" };
enum { OWN_KEYS = sizeof(own_keys) / sizeof(own_keys[0]) };

static const struct address *nth_address(const struct relay_config *c, size_t i)
{
	const struct address *const own[OWN_KEYS] = { &c->metrics, &c->status, &c->admin.address };

	return i < c->n_listeners ? &c->listeners[i].address : own[i - c->n_listeners];
}

static void listener_address_again(const struct check *k, const struct use *first,
				   const struct use *use)
{
	size_t n = k->c->n_listeners;

	if (use->at >= n && first->at >= n)
		source_error(k->s, node_get(k->root, own_keys[use->at - n]),
			     "%s: %s is the address of %s already; expected another",
			     own_keys[use->at - n], use->text, own_keys[first->at - n]);
	else if (use->at >= n)
		source_error(k->s, node_get(k->root, own_keys[use->at - n]),
			     "%s: %s is the address of the listener on line %d already; "
			     "expected another",
			     own_keys[use->at - n], use->text, k->c->listeners[first->at].line);
	else
		source_error(k->s, check_find(k, "listeners", use->at, "address"),
			     "address: %s is the address of the listener on line %d already; "
			     "expected another",
			     use->text, k->c->listeners[first->at].line);
}

static void check_listener_doors(const struct check *k, size_t i)
{
	const struct node *entry = node_at(node_get(k->root, "listeners"), i);
	bool doors = node_get(entry, "doors"), service = node_get(entry, "service");

	if (!entry || entry->type != NODE_MAP || doors != service)
		return;
	if (doors)
		source_error(
			k->s, node_get(entry, "service"),
			"service: stands beside doors; expected one of the two: a listener for "
			"one service does not ask what its clients speak");
	else
		source_error(k->s, entry,
			     "neither doors nor service; expected one of the two, such as "
			     "doors: [tunnel, sni, connect] or service: SERVICE.OWNER");
}

static void check_listeners(const struct check *k, const struct relay_config *c)
{
	struct use *uses = xcalloc(c->n_listeners + OWN_KEYS, sizeof(*uses));
	char(*texts)[ADDRESS_TEXT_MAX] = xcalloc(c->n_listeners + OWN_KEYS, sizeof(*texts));
	size_t n = 0;

	for (size_t i = 0; i < c->n_listeners; i++) {
		check_listener_doors(k, i);
		if (c->listeners[i].name)
			uses[n++] = (struct use){ c->listeners[i].name, i, 0 };
	}
	check_duplicates(k, uses, n, listener_name_again);
	n = 0;
	for (size_t i = 0; i < c->n_listeners + OWN_KEYS; i++) {
		const struct address *a = nth_address(c, i);

		/* Port 0 is another port each time. */
		if (a->kind == ADDRESS_NONE || (a->kind == ADDRESS_TCP && a->port == 0))
			continue;
		uses[n] = (struct use){ address_format(a, texts[n], sizeof(texts[n])), i, 0 };
		n++;
	}
	check_duplicates(k, uses, n, listener_address_again);
	free(texts);
	free(uses);
}

/* ---- owners ---- */

static void owner_again(const struct check *k, const struct use *first, const struct use *use)
{
	source_error(k->s, check_find(k, "owners", use->at, "name"),
		     "name: %s is the name of the owner on line %d already; expected another",
		     use->text, k->c->owners[first->at].line);
}

static void owner_service_again(const struct check *k, const struct use *first,
				const struct use *use)
{
	source_error(k->s, check_find_sub(k, "owners", use->at, "services", use->sub),
		     "services: %s stands there twice; expected it once", use->text);
}

static void check_owners(const struct check *k, const struct relay_config *c)
{
	struct use *uses = xcalloc(c->n_owners, sizeof(*uses));
	size_t n = 0;

	for (size_t i = 0; i < c->n_owners; i++)
		if (c->owners[i].name)
			uses[n++] = (struct use){ c->owners[i].name, i, 0 };
	check_duplicates(k, uses, n, owner_again);
	free(uses);
	for (size_t i = 0; i < c->n_owners; i++) {
		const struct strings *services = &c->owners[i].services;

		uses = xcalloc(services->n, sizeof(*uses));
		n = 0;
		for (size_t j = 0; j < services->n; j++)
			if (services->at[j])
				uses[n++] = (struct use){ services->at[j], i, j };
		check_duplicates(k, uses, n, owner_service_again);
		free(uses);
	}
}

/* ---- services ---- */

static void service_again(const struct check *k, const struct use *first, const struct use *use)
{
	source_error(k->s, check_find(k, "services", use->at, "name"),
		     "name: %s is the name of the service on line %d already; expected another",
		     use->text, k->c->services[first->at].line);
}

static void hostname_again(const struct check *k, const struct use *first, const struct use *use)
{
	source_error(k->s, check_find_sub(k, "services", use->at, "hostnames", use->sub),
		     "hostnames: %s leads to the service on line %d already; expected a host name "
		     "once",
		     use->text, k->c->services[first->at].line);
}

/* The relay's own name, and the names under it that lead to services anyway, are taken. */
static void check_hostname(const struct check *k, size_t i, size_t j)
{
	const struct service_config *service = &k->c->services[i];
	const char *host = service->hostnames.at[j], *domain = k->c->domain;
	size_t len = strlen(host), under;
	char *rest;

	if (strcmp(host, domain) == 0) {
		source_error(k->s, check_find_sub(k, "services", i, "hostnames", j),
			     "hostnames: %s is the relay's own name (domain); expected another",
			     host);
		return;
	}
	if (len <= strlen(domain) + 1)
		return;
	under = len - strlen(domain) - 1;
	if (host[under] != '.' || strcmp(host + under + 1, domain) != 0)
		return;
	rest = xstrndup(host, under);
	if (name_is_service(rest) && (!service->name || strcmp(rest, service->name) != 0))
		source_error(k->s, check_find_sub(k, "services", i, "hostnames", j),
			     "hostnames: %s leads to the service %s (SERVICE.OWNER under domain); "
			     "expected another",
			     host, rest);
	free(rest);
}

static void check_hostnames(const struct check *k, const struct relay_config *c)
{
	struct use *uses;
	size_t n = 0;

	for (size_t i = 0; i < c->n_services; i++)
		n += c->services[i].hostnames.n;
	uses = xcalloc(n, sizeof(*uses));
	n = 0;
	for (size_t i = 0; i < c->n_services; i++)
		for (size_t j = 0; j < c->services[i].hostnames.n; j++) {
			const char *host = c->services[i].hostnames.at[j];

			if (!host)
				continue;
			uses[n++] = (struct use){ host, i, j };
			if (c->domain)
				check_hostname(k, i, j);
		}
	check_duplicates(k, uses, n, hostname_again);
	free(uses);
}

static void check_targets(const struct check *k, size_t i)
{
	const struct addresses *targets = &k->c->services[i].targets;

	/* At most a few: the table says so. */
	for (size_t j = 1; j < targets->n; j++)
		for (size_t earlier = 0; earlier < j; earlier++)
			if (targets->at[j].kind != ADDRESS_NONE &&
			    address_equal(&targets->at[earlier], &targets->at[j])) {
				source_error(
					k->s, check_find_sub(k, "services", i, "targets", j),
					"targets: stands there twice; expected each target once");
				break;
			}
}

static void check_services(const struct check *k, const struct relay_config *c)
{
	struct use *uses = xcalloc(c->n_services, sizeof(*uses));
	size_t n = 0;

	for (size_t i = 0; i < c->n_services; i++) {
		if (c->services[i].name)
			uses[n++] = (struct use){ c->services[i].name, i, 0 };
		check_targets(k, i);
	}
	check_duplicates(k, uses, n, service_again);
	free(uses);
	check_hostnames(k, c);
}

/* ---- what refers to something else ---- */

static const char *owner_part(const char *service)
{
	return strchr(service, '.') + 1;
}

static void check_references(const struct check *k, const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *service = &c->services[i];
		const char *owner = owner_part(service->name);
		bool tunnel = false;

		for (size_t j = 0; j < service->targets.n; j++)
			tunnel |= service->targets.at[j].kind == ADDRESS_TUNNEL;
		if (tunnel && !relay_config_owner(c, owner))
			source_error(k->s, check_find(k, "services", i, "name"),
				     "name: %s has the target tunnel, but there is no owner %s; "
				     "expected %s under owners, or targets that are all addresses",
				     service->name, owner, owner);
	}
	for (size_t i = 0; i < c->n_listeners; i++) {
		const char *service = c->listeners[i].service;

		if (service && !relay_config_service(c, service) &&
		    !relay_config_owner(c, owner_part(service)))
			source_error(k->s, check_find(k, "listeners", i, "service"),
				     "service: %s is not under services, and %s not under owners; "
				     "expected one of them",
				     service, owner_part(service));
	}
}

/* Could anybody of these networks come there? */
static bool proxies_could_come(const struct listener_config *l)
{
	bool by_unix = false, by_ip = false;

	for (size_t i = 0; i < l->proxy_networks.n; i++)
		if (l->proxy_networks.at[i].kind == NETWORK_UNIX)
			by_unix = true;
		else
			by_ip = true;
	return l->address.kind == ADDRESS_TCP  ? by_ip :
	       l->address.kind == ADDRESS_UNIX ? by_unix :
						 l->address.kind != ADDRESS_VSOCK;
}

/* Whoever may say who the client is has to be named; a name that nobody asks for is a mistake. */
static void check_proxies(const struct check *k, const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct listener_config *l = &c->listeners[i];

		if (!l->proxy_protocol && l->proxy_networks.n)
			source_error(k->s, check_find(k, "listeners", i, "proxy_networks"),
				     "proxy_networks: stands without proxy_protocol; expected "
				     "proxy_protocol: required or optional beside it");
		if (l->proxy_protocol && !l->proxy_networks.n)
			source_error(k->s, check_find(k, "listeners", i, "proxy_protocol"),
				     "proxy_protocol: stands without proxy_networks, so anybody "
				     "could say to be anybody; expected proxy_networks: [NETWORK, "
				     "...], the addresses of the proxies");
		else if (l->proxy_protocol && !proxies_could_come(l))
			source_error(k->s, check_find(k, "listeners", i, "proxy_networks"),
				     "proxy_networks: nobody of these could come to this address; "
				     "expected IP networks at tcp: and unix at unix:");
		if (l->proxy_protocol == PROXY_TAKEN_OPTIONAL && l->service)
			source_error(k->s, check_find(k, "listeners", i, "proxy_protocol"),
				     "proxy_protocol: optional at a listener for one service, "
				     "whose own first bytes might look like a PROXY header; "
				     "expected required");
	}
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *service = &c->services[i];
		bool address = false;

		for (size_t j = 0; j < service->targets.n; j++)
			address |= service->targets.at[j].kind != ADDRESS_TUNNEL;
		if (service->proxy_protocol && !address)
			source_error(k->s, check_find(k, "services", i, "proxy_protocol"),
				     "proxy_protocol: this service has no target that is an "
				     "address; expected one, or the same key in the configuration "
				     "of its attest-tunnel");
	}
}

static void check_checks(const struct check *k, const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *service = &c->services[i];
		bool address = false;

		for (size_t j = 0; j < service->targets.n; j++)
			address |= service->targets.at[j].kind != ADDRESS_TUNNEL;
		if (service->check.kind && !address)
			source_error(k->s, check_find(k, "services", i, "check"),
				     "check: this service has no target that is an address; "
				     "expected one, since tunnels are watched anyway");
		if (service->check.server_name && service->check.kind != CHECK_TLS)
			source_error(k->s, check_find(k, "services", i, "check"),
				     "check: server_name is only for a check of TLS; expected "
				     "kind: tls beside it");
	}
}

static void check_tunnel_doors(const struct check *k, const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++) {
		if (!(c->listeners[i].doors & DOOR_TUNNEL))
			continue;
		if (!c->tls.certificate)
			source_error(
				k->s, check_find(k, "listeners", i, "doors"),
				"doors: tunnel, but there is no certificate; expected "
				"tls: {certificate: FILE, key: FILE}, since tunnels come by TLS");
		if (!c->n_owners)
			source_error(
				k->s, check_find(k, "listeners", i, "doors"),
				"doors: tunnel, but there are no owners, so no tunnel could get "
				"in; expected at least one under owners");
	}
}

static void check_audit(const struct check *k, const struct relay_config *c)
{
	const struct node *audit = node_get(k->root, "audit");

	if (c->audit.target == CONFIG_AUDIT_FILE && !c->audit.file)
		source_error(k->s, node_get(audit, "target"),
			     "target: file, but which; expected file: PATH beside it");
	if ((c->audit.target == CONFIG_AUDIT_OFF || c->audit.target == CONFIG_AUDIT_JOURNAL) &&
	    c->audit.file)
		source_error(k->s, node_get(audit, "file"),
			     "file: stands beside another target, so nothing would be written to "
			     "it; expected target: file or auto beside it");
}

/* ---- all programs ---- */

void check_timeouts(const struct source *s, const struct timeouts_config *t,
		    const struct node *root)
{
	const struct node *timeouts = node_get(root, "timeouts");
	const struct node *at = node_get(timeouts, "dead");

	if (t->ping && t->dead && t->dead <= t->ping)
		source_error(s, at ? at : timeouts,
			     "dead: not longer than ping, so that every tunnel would seem dead; "
			     "expected dead longer than ping, better twice as long");
}

void check_windows(const struct source *s, uint64_t stream, uint64_t session,
		   const struct node *limits)
{
	const struct node *at = node_get(limits, "session_window");

	if (stream && session && session < stream)
		source_error(
			s, at ? at : limits,
			"session_window: smaller than stream_window, so one stream could never "
			"use its own; expected at least stream_window");
}

/* Less than a few reads of a tunnel would not do; 0 stands for another. */
static void check_memory(const struct check *k, const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_owners; i++)
		if (c->owners[i].limits.memory && c->owners[i].limits.memory < MEMORY_MIN)
			source_error(k->s, check_find(k, "owners", i, "limits"),
				     "memory: too little for a tunnel; expected 0 or at "
				     "least 1MiB");
}

static void check_penalties(const struct source *s, const struct penalties_config *p,
			    const struct node *root)
{
	const struct node *penalties = node_get(root, "penalties");
	const struct node *at = node_get(penalties, "block_max");

	if (p->block && p->block_max && p->block_max < p->block)
		source_error(s, at ? at : penalties,
			     "block_max: shorter than block; expected at least block");
}

void check_relay(const struct source *s, struct relay_config *c, const struct node *root,
		 bool clean)
{
	struct check k = { .s = s, .c = c, .root = root };
	const struct node *tls = node_get(root, "tls");
	bool certificate = node_get(tls, "certificate"), key = node_get(tls, "key");

	for (size_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].service)
			c->listeners[i].doors |= DOOR_STATIC;
	if (certificate != key)
		source_error(s, tls, "tls: %s without %s; expected both or neither",
			     certificate ? "certificate" : "key",
			     certificate ? "key" : "certificate");
	check_listeners(&k, c);
	check_owners(&k, c);
	check_services(&k, c);
	check_enrolment(s, c, root);
	check_status(s, c, root);
	check_admin(s, &c->admin, root);
	check_timeouts(s, &c->timeouts, root);
	check_windows(s, c->limits.stream_window, c->limits.session_window,
		      node_get(root, "limits"));
	check_penalties(s, &c->penalties, root);
	check_memory(&k, c);
	if (!clean)
		return;
	check_references(&k, c);
	check_tunnel_doors(&k, c);
	check_identities(&k, c);
	check_proxies(&k, c);
	check_checks(&k, c);
	check_audit(&k, c);
}

void check_tunnel(const struct source *s, const struct tunnel_config *c, const struct node *root)
{
	check_admin(s, &c->admin, root);
	check_timeouts(s, &c->timeouts, root);
	check_windows(s, c->limits.stream_window, c->limits.session_window,
		      node_get(root, "limits"));
}
