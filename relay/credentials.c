/*
 * credentials: owners by token and by certificate.
 *
 * Theory of operation: two sorted arrays, of token hashes and of certificates' names, found by
 * bisection. That shows at most how much of the hash of a wrong token is like a right one's: of
 * no use to who does not know a token, and the match itself is made in constant time.
 */
#include "relay/credentials.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "relay/identity.h"

/* One credential of an owner. */
struct row {
	const struct owner_config *owner;
	const struct credential_config *config;
};

struct credentials {
	struct relay_config *config;
	struct row *tokens, *certificates;
	size_t n_tokens, n_certificates;
};

/* ---- order ---- */

static int compare_hash(const uint8_t *hash, const struct row *r)
{
	return memcmp(hash, r->config->hash.bytes, TOKEN_HASH_BYTES);
}

static int order_tokens(const void *a, const void *b)
{
	return compare_hash(((const struct row *)a)->config->hash.bytes, b);
}

static int order_certificates(const void *a, const void *b)
{
	return identity_compare(((const struct row *)a)->config->name,
				((const struct row *)b)->config->name);
}

static int find_token(const void *key, const void *row)
{
	return compare_hash(key, row);
}

static int find_certificate(const void *key, const void *row)
{
	return identity_compare(key, ((const struct row *)row)->config->name);
}

/* ---- making ---- */

static struct row *rows_of(const struct relay_config *c, bool tokens, size_t *n)
{
	struct row *rows;

	*n = 0;
	for (size_t i = 0; i < c->n_owners; i++)
		*n += tokens ? c->owners[i].tokens.n : c->owners[i].certificates.n;
	rows = calloc(*n + 1, sizeof(*rows));
	if (!rows)
		return NULL;
	*n = 0;
	for (size_t i = 0; i < c->n_owners; i++) {
		const struct owner_config *o = &c->owners[i];
		const struct credentials_config *list = tokens ? &o->tokens : &o->certificates;

		for (size_t j = 0; j < list->n; j++)
			rows[(*n)++] = (struct row){ o, &list->at[j] };
	}
	qsort(rows, *n, sizeof(*rows), tokens ? order_tokens : order_certificates);
	return rows;
}

struct credentials *credentials_new(struct relay_config *config)
{
	struct credentials *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->config = relay_config_ref(config);
	c->tokens = rows_of(config, true, &c->n_tokens);
	c->certificates = rows_of(config, false, &c->n_certificates);
	return c->tokens && c->certificates ? c : credentials_free(c);
}

struct credentials *credentials_free(struct credentials *c)
{
	if (!c)
		return NULL;
	free(c->tokens);
	free(c->certificates);
	relay_config_unref(c->config);
	free(c);
	return NULL;
}

/* ---- asking ---- */

static bool tell(const struct row *r, struct credential *out)
{
	if (!r)
		return false;
	out->owner = r->owner;
	out->label = r->config->label ? r->config->label : "";
	out->expires = r->config->expires ? r->config->expires : UINT64_MAX;
	return true;
}

bool credentials_by_token(const struct credentials *c, const uint8_t hash[TOKEN_HASH_BYTES],
			  struct credential *out)
{
	const struct row *r = bsearch(hash, c->tokens, c->n_tokens, sizeof(*r), find_token);

	return r && token_equal(hash, r->config->hash.bytes) && tell(r, out);
}

/* Its names that the relay's own CA has given it: the owner's. */
static bool by_owner_uri(const struct credentials *c, const struct identity *i,
			 struct credential *out)
{
	const size_t len = sizeof(CREDENTIALS_OWNER_URI) - 1;

	for (unsigned n = 0; n < identity_names(i); n++) {
		const char *name = identity_name(i, n);
		const struct owner_config *owner =
			strncmp(name, CREDENTIALS_OWNER_URI, len) == 0
				? relay_config_owner(c->config, name + len)
				: NULL;

		if (owner) {
			*out = (struct credential){ owner, "enrolled", UINT64_MAX };
			return true;
		}
	}
	return false;
}

bool credentials_by_identity(const struct credentials *c, const struct identity *i,
			     struct credential *out)
{
	bool found = false;

	if (identity_kind(i) == IDENTITY_OWNER) {
		found = by_owner_uri(c, i, out);
	} else {
		for (unsigned n = 0; !found && n < identity_names(i); n++)
			found = tell(bsearch(identity_name(i, n), c->certificates,
					     c->n_certificates, sizeof(struct row),
					     find_certificate),
				     out);
	}
	if (found && identity_expires(i) < out->expires)
		out->expires = identity_expires(i);
	return found;
}

bool credentials_may_offer(const struct owner_config *owner, const char *service)
{
	bool found = owner->services.n == 0;

	for (size_t i = 0; i < owner->services.n; i++)
		found |= strcasecmp(owner->services.at[i], service) == 0;
	return found;
}
