/*
 * permit: clients' rules, and the finding of the one that allows.
 *
 * Theory of operation: rules that ask for a certificate are found by its names, in a sorted array,
 * so that there may be one for each of thousands of nodes; the others, of which there are few, are
 * gone through. All lists of a rule that are not empty must hold something the client is. What
 * cannot be told (the uid of somebody by TCP; all of somebody whose proxy does not say) is in no
 * list: a proxy's own address is not its clients'.
 */
#include "relay/permit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "config/scalar.h"
#include "relay/identity.h"

/* A name of a rule's certificates. */
struct row {
	const char *name;
	const struct client_config *rule;
};

struct permits {
	struct relay_config *config;
	struct row *rows; /* by name */
	size_t n_rows;
	const struct client_config **others; /* without certificates */
	size_t n_others;
};

/* ---- making ---- */

static int order(const void *a, const void *b)
{
	return identity_compare(((const struct row *)a)->name, ((const struct row *)b)->name);
}

struct permits *permits_new(struct relay_config *c)
{
	struct permits *p = calloc(1, sizeof(*p));
	size_t rows = 0;

	if (!p)
		return NULL;
	p->config = relay_config_ref(c);
	for (size_t i = 0; i < c->n_clients; i++)
		rows += c->clients[i].certificates.n;
	p->rows = calloc(rows + 1, sizeof(*p->rows));
	p->others = calloc(c->n_clients + 1, sizeof(*p->others));
	if (!p->rows || !p->others)
		return permits_free(p);
	for (size_t i = 0; i < c->n_clients; i++) {
		const struct client_config *rule = &c->clients[i];

		if (!rule->certificates.n)
			p->others[p->n_others++] = rule;
		for (size_t j = 0; j < rule->certificates.n; j++)
			p->rows[p->n_rows++] = (struct row){ rule->certificates.at[j], rule };
	}
	qsort(p->rows, p->n_rows, sizeof(*p->rows), order);
	return p;
}

struct permits *permits_free(struct permits *p)
{
	if (!p)
		return NULL;
	free(p->rows);
	free(p->others);
	relay_config_unref(p->config);
	free(p);
	return NULL;
}

/* ---- what a rule asks ---- */

bool permit_matches(const char *pattern, const char *service)
{
	const char *dot = strchr(service, '.'), *of = strchr(pattern, '.');

	if (strcmp(pattern, "*") == 0)
		return true;
	if (!dot || !of)
		return false;
	return (strncmp(pattern, "*.", 2) == 0 ||
		(of - pattern == dot - service &&
		 strncmp(pattern, service, (size_t)(dot - service)) == 0)) &&
	       (strcmp(of, ".*") == 0 || strcmp(of, dot) == 0);
}

static bool lists_service(const struct client_config *rule, const char *service)
{
	for (size_t i = 0; i < rule->services.n; i++)
		if (permit_matches(rule->services.at[i], service))
			return true;
	return false;
}

static bool lists_network(const struct networks *list, const struct peer *peer)
{
	enum network_kind kind = peer->family == AF_INET    ? NETWORK_IPV4
				 : peer->family == AF_INET6 ? NETWORK_IPV6
				 : peer->family == AF_UNIX  ? NETWORK_UNIX
							    : NETWORK_NONE;

	for (size_t i = 0; i < list->n; i++)
		if (list->at[i].kind == kind && kind != NETWORK_NONE &&
		    (kind == NETWORK_UNIX || network_has_ip(&list->at[i], kind, peer->ip)))
			return true;
	return false;
}

static bool lists_number(const struct strings *list, bool known, uint64_t number)
{
	uint64_t from, to;

	for (size_t i = 0; known && i < list->n; i++)
		if (scalar_range(list->at[i], &from, &to) == 0 && number >= from && number <= to)
			return true;
	return false;
}

static bool lists_text(const struct strings *list, const char *text)
{
	for (size_t i = 0; i < list->n; i++)
		if (strcmp(list->at[i], text) == 0)
			return true;
	return false;
}

/* All but its certificates. */
static bool fits(const struct client_config *rule, const struct permit_ask *ask)
{
	static const struct peer nobody;
	const struct peer *peer = ask->peer ? ask->peer : &nobody;
	bool has_uid = peer->family == AF_UNIX && peer->b != UINT32_MAX;

	return (!rule->expires || ask->now < rule->expires) &&
	       (!rule->networks.n || lists_network(&rule->networks, peer)) &&
	       (!rule->listeners.n || lists_text(&rule->listeners, ask->listener)) &&
	       (!rule->uids.n || lists_number(&rule->uids, has_uid, peer->b)) &&
	       (!rule->cids.n || lists_number(&rule->cids, peer->family == AF_VSOCK, peer->a)) &&
	       lists_service(rule, ask->service);
}

/* ---- asking ---- */

static const struct client_config *by_name(const struct permits *p, const char *name,
					   const struct permit_ask *ask)
{
	const struct row key = { name, NULL };
	const struct row *row = bsearch(&key, p->rows, p->n_rows, sizeof(*row), order);

	/* several rules may have the name */
	while (row && row > p->rows && identity_compare(row[-1].name, name) == 0)
		row--;
	for (; row && row < p->rows + p->n_rows && identity_compare(row->name, name) == 0; row++)
		if (fits(row->rule, ask))
			return row->rule;
	return NULL;
}

bool permits_open(const struct permits *p, const struct permit_ask *ask,
		  const struct client_config **by)
{
	const struct identity *i = ask->identity;

	*by = NULL;
	if (!p->config->n_clients)
		return true;
	if (i && identity_kind(i) == IDENTITY_CLIENT)
		for (unsigned n = 0; !*by && n < identity_names(i); n++)
			*by = by_name(p, identity_name(i, n), ask);
	for (size_t n = 0; !*by && n < p->n_others; n++)
		if (fits(p->others[n], ask))
			*by = p->others[n];
	return *by;
}
