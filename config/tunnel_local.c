/*
 * tunnel_local: attest-tunnel's local listeners: --local, and what must hold of them.
 *
 * Theory of operation: as the rest of tunnel.c; a file of its own, since little is shared. TCP does
 * not tell who calls, and whoever calls uses the service in our name: so only this machine's own
 * processes may.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/schema.h"
#include "config/xalloc.h"

#define BEFORE_SERVICE "=service:"

/* Where it stands in the file; flags stand nowhere. */
static void wrong_local(const struct source *s, const struct node *root, size_t i, const char *key,
			const char *what)
{
	if (root)
		source_error(s, node_get(node_at(node_get(root, "local"), i), key), "%s: %s", key,
			     what);
	else
		config_errors_add(s->e, "%s: local: %s", s->name, what);
}

static bool is_there_already(const struct tunnel_config *c, size_t i)
{
	const struct address *a = &c->locals[i].address;

	if (a->kind == ADDRESS_TCP && a->port == 0) /* another port each time */
		return false;
	for (size_t j = 0; j < i; j++)
		if (address_equal(a, &c->locals[j].address))
			return true;
	return false;
}

static void check_mode(const struct source *s, const struct tunnel_config *c,
		       const struct node *root, size_t i)
{
	const struct local_config *l = &c->locals[i];

	if (!l->mode)
		return;
	if (l->address.kind != ADDRESS_UNIX || l->address.name[0] == '@')
		wrong_local(s, root, i, "mode",
			    "only the path of a Unix socket has one; expected unix:/path beside "
			    "it, or no mode");
	else if (strtoul(l->mode, NULL, 8) == 0)
		wrong_local(s, root, i, "mode", "nobody could connect; expected such as \"0660\"");
}

void check_locals(const struct source *s, const struct tunnel_config *c, const struct node *root)
{
	char text[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < c->n_locals; i++) {
		const struct address *a = &c->locals[i].address;
		char *wrong = NULL;

		if (a->kind == ADDRESS_NONE) /* has been said */
			continue;
		address_format(a, text, sizeof(text));
		if (a->kind == ADDRESS_TCP && !host_is_loopback(a->name))
			wrong = xasprintf("%s is not on loopback, so others could use the service "
					  "in your name: TCP does not tell who calls; expected "
					  "127.0.0.1, [::1] or localhost, or unix:/path",
					  text);
		else if (is_there_already(c, i))
			wrong = xasprintf("%s leads to a service already; expected each address "
					  "once",
					  text);
		if (wrong)
			wrong_local(s, root, i, "address", wrong);
		free(wrong);
		check_mode(s, c, root, i);
	}
}

void check_identity(const struct tunnel_config *c, const char *name, struct config_errors *e)
{
	if (!c->certificate != !c->key)
		config_errors_add(e,
				  "%s: %s without %s; expected both, a certificate and its "
				  "private key, or neither",
				  name, c->certificate ? "certificate" : "key",
				  c->certificate ? "key" : "certificate");
}

static const struct field *field_named(const struct table *t, const char *key)
{
	size_t i = 0;

	while (strcmp(t->fields[i].key, key) != 0)
		i++;
	return &t->fields[i];
}

/* A path may have a '=' in it, so the last one counts. NULL: there is none. */
static char *cut_service(char *text)
{
	char *service = NULL;

	for (char *p = strstr(text, BEFORE_SERVICE); p; p = strstr(p + 1, BEFORE_SERVICE))
		service = p;
	if (!service)
		return NULL;
	*service = '\0';
	return service + strlen(BEFORE_SERVICE);
}

/* NULL, or what is wrong, allocated. */
static char *parse_local(struct local_config *to, char *text)
{
	const struct table *t = field_named(&tunnel_table, "local")->table;
	char *service = cut_service(text), *why = NULL;

	if (!service)
		return xstrdup("expected ADDRESS=service:SERVICE.OWNER, such as "
			       "tcp:127.0.0.1:9000=service:kbs.acme");
	if (!name_is_service(service))
		return xasprintf("\"%s\" is not the name of a service behind a relay; expected "
				 "SERVICE.OWNER, each of letters, digits and '-'",
				 service);
	if (field_address(field_named(t, "address"), text, &to->address, &why) < 0)
		return why;
	to->service = xstrdup(service);
	for (char *p = to->service; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	return NULL;
}

int tunnel_config_add_local(struct tunnel_config *c, const char *text, char **why)
{
	const size_t max = field_named(&tunnel_table, "local")->max;
	struct local_config local = { 0 };
	char *copy = xstrdup(text), *wrong;

	if (c->n_locals >= max)
		wrong = xasprintf("too many of them; expected at most %zu", max);
	else
		wrong = parse_local(&local, copy);
	free(copy);
	if (wrong) {
		*why = xasprintf("%s: %s", text, wrong);
		free(wrong);
		return -EINVAL;
	}
	c->locals = xreallocarray(c->locals, c->n_locals + 1, sizeof(*c->locals));
	c->locals[c->n_locals++] = local;
	return 0;
}
