/*
 * check_identity: what must hold among credentials, client certificates and clients' rules.
 *
 * Theory of operation: asked of a config that is sound so far. What is to restrict somebody must be
 * able to, and somebody must be able to meet it: whoever sets up a lock and no key, or a key for no
 * lock, has made a mistake, and is told so before anything is open.
 */
#include <stdlib.h>
#include <string.h>

#include "config/check_private.h"
#include "config/xalloc.h"

/* ---- owners ---- */

struct hash_use {
	struct token_hash hash;
	size_t at, sub;
};

static int compare_hashes(const void *a, const void *b)
{
	const struct hash_use *x = a, *y = b;
	int order = memcmp(x->hash.bytes, y->hash.bytes, TOKEN_HASH_SIZE);

	if (order)
		return order;
	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->sub < y->sub ? -1 : x->sub > y->sub;
}

/* One token is one owner's: the credential says whose a tunnel is. */
static void check_tokens(const struct check *k, const struct relay_config *c)
{
	struct hash_use *uses;
	size_t n = 0, first = 0;

	for (size_t i = 0; i < c->n_owners; i++)
		n += c->owners[i].tokens.n;
	uses = xcalloc(n, sizeof(*uses));
	n = 0;
	for (size_t i = 0; i < c->n_owners; i++)
		for (size_t j = 0; j < c->owners[i].tokens.n; j++)
			uses[n++] = (struct hash_use){ c->owners[i].tokens.at[j].hash, i, j };
	if (n)
		qsort(uses, n, sizeof(*uses), compare_hashes);
	for (size_t i = 1; i < n; i++) {
		if (memcmp(uses[first].hash.bytes, uses[i].hash.bytes, TOKEN_HASH_SIZE) != 0) {
			first = i;
			continue;
		}
		source_error(
			k->s, check_find_sub(k, "owners", uses[i].at, "tokens", uses[i].sub),
			"tokens: the token of the owner on line %d already; expected each token "
			"once, make another with: attest-relay token new",
			c->owners[uses[first].at].line);
	}
	free(uses);
}

static void certificate_again(const struct check *k, const struct use *first, const struct use *use)
{
	source_error(k->s, check_find_sub(k, "owners", use->at, "certificates", use->sub),
		     "certificates: %s is the owner's on line %d already; expected each name once, "
		     "since it says whose a tunnel is",
		     use->text, k->c->owners[first->at].line);
}

static void check_certificates(const struct check *k, const struct relay_config *c)
{
	struct use *uses;
	size_t n = 0;

	for (size_t i = 0; i < c->n_owners; i++)
		n += c->owners[i].certificates.n;
	uses = xcalloc(n, sizeof(*uses));
	n = 0;
	for (size_t i = 0; i < c->n_owners; i++)
		for (size_t j = 0; j < c->owners[i].certificates.n; j++)
			uses[n++] = (struct use){ c->owners[i].certificates.at[j].name, i, j };
	check_duplicates(k, uses, n, certificate_again);
	free(uses);
}

static bool agents_may_show_certificates(const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].client_ca && c->listeners[i].doors & DOOR_TUNNEL)
			return true;
	return false;
}

static void check_owner_credentials(const struct check *k, const struct relay_config *c)
{
	bool shown = agents_may_show_certificates(c);

	for (size_t i = 0; i < c->n_owners; i++) {
		const struct owner_config *o = &c->owners[i];

		/* with enrolment, its agents get certificates later */
		if (!o->tokens.n && !o->certificates.n && !c->enrolment.ca)
			source_error(k->s, check_find(k, "owners", i, NULL),
				     "neither tokens nor certificates, so nobody could be %s; "
				     "expected one of them; make a token with: attest-relay token "
				     "new",
				     o->name);
		if (o->certificates.n && !shown)
			source_error(k->s, check_find(k, "owners", i, "certificates"),
				     "certificates: no listener with the door tunnel has a "
				     "client_ca, so none could be shown; expected one");
	}
}

/* ---- listeners ---- */

/* A restriction that could restrict nobody, or that nobody could meet, is a mistake. */
static void check_client_cas(const struct check *k, const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct listener_config *l = &c->listeners[i];

		if (l->client_ca && !(l->doors & (DOORS_HTTP | DOOR_TUNNEL)))
			source_error(k->s, check_find(k, "listeners", i, "client_ca"),
				     "client_ca: this listener has no door connect, websocket or "
				     "tunnel, and others ask for no certificate; expected one of "
				     "them among its doors, or client_ca left out");
		else if (l->client_ca && !c->tls.certificate)
			source_error(k->s, check_find(k, "listeners", i, "client_ca"),
				     "client_ca: there is no certificate; expected "
				     "tls: {certificate: FILE, key: FILE}, since clients show "
				     "theirs inside the relay's TLS");
		if (l->client_crl && !l->client_ca)
			source_error(k->s, check_find(k, "listeners", i, "client_crl"),
				     "client_crl: stands without client_ca, so no certificate "
				     "would be asked for; expected client_ca beside it");
		if (l->client_certificates == CERTIFICATES_OPTIONAL &&
		    !(l->client_ca && l->doors & DOORS_HTTP))
			source_error(k->s, check_find(k, "listeners", i, "client_certificates"),
				     "client_certificates: is for the doors connect and websocket "
				     "where there is a client_ca; expected them, or "
				     "client_certificates left out");
	}
}

/* ---- clients ---- */

static void client_again(const struct check *k, const struct use *first, const struct use *use)
{
	source_error(k->s, check_find(k, "clients", use->at, "name"),
		     "name: %s is the name of the client on line %d already; expected another",
		     use->text, k->c->clients[first->at].line);
}

static const struct listener_config *listener_of(const struct relay_config *c, const char *name)
{
	for (size_t i = 0; i < c->n_listeners; i++)
		if (strcmp(c->listeners[i].name, name) == 0)
			return &c->listeners[i];
	return NULL;
}

/* What a rule asks of clients must be something that a listener can know. */
static void check_client(const struct check *k, const struct relay_config *c, size_t i)
{
	const struct client_config *client = &c->clients[i];
	bool certificates = false, unix_sockets = false, vsock = false;

	for (size_t j = 0; j < c->n_listeners; j++) {
		const struct listener_config *l = &c->listeners[j];

		certificates |= l->client_ca && l->doors & DOORS_HTTP;
		unix_sockets |= l->address.kind == ADDRESS_UNIX || l->address.kind == ADDRESS_FD;
		vsock |= l->address.kind == ADDRESS_VSOCK || l->address.kind == ADDRESS_FD;
	}
	if (!client->certificates.n && !client->networks.n && !client->listeners.n &&
	    !client->uids.n && !client->cids.n)
		source_error(k->s, check_find(k, "clients", i, NULL),
			     "says not who %s is; expected one of certificates, networks, "
			     "listeners, uids, cids (any client: networks: [0.0.0.0/0, \"::/0\"])",
			     client->name);
	if (client->certificates.n && !certificates)
		source_error(k->s, check_find(k, "clients", i, "certificates"),
			     "certificates: no listener with the door connect or websocket has a "
			     "client_ca, so none could be shown; expected one");
	if (client->uids.n && !unix_sockets)
		source_error(k->s, check_find(k, "clients", i, "uids"),
			     "uids: no listener is at a Unix socket; expected one");
	if (client->cids.n && !vsock)
		source_error(k->s, check_find(k, "clients", i, "cids"),
			     "cids: no listener is at vsock; expected one");
	for (size_t j = 0; j < client->listeners.n; j++)
		if (!listener_of(c, client->listeners.at[j]))
			source_error(k->s, check_find_sub(k, "clients", i, "listeners", j),
				     "listeners: there is no listener %s; expected the name of one",
				     client->listeners.at[j]);
}

static void check_clients(const struct check *k, const struct relay_config *c)
{
	struct use *uses = xcalloc(c->n_clients, sizeof(*uses));

	for (size_t i = 0; i < c->n_clients; i++) {
		uses[i] = (struct use){ c->clients[i].name, i, 0 };
		check_client(k, c, i);
	}
	check_duplicates(k, uses, c->n_clients, client_again);
	free(uses);
}

void check_identities(const struct check *k, const struct relay_config *c)
{
	check_tokens(k, c);
	check_certificates(k, c);
	check_owner_credentials(k, c);
	check_client_cas(k, c);
	check_clients(k, c);
}
