/*
 * tunnel: attest-tunnel's config, from its file, from flags, or from both.
 *
 * Theory of operation: tunnel_config_new is the table's defaults. A file is read by the same table;
 * a flag changes the struct, with the very checks a file's value has. Since either may say what the
 * other leaves out, what is missing is known only at the end: tunnel_config_check.
 * Everything in the struct is allocated with malloc and its own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"
#include "config/flag.h"
#include "config/load.h"
#include "config/no_proxy.h"
#include "config/proxy_url.h"
#include "config/scalar.h"
#include "config/schema.h"
#include "config/xalloc.h"

struct tunnel_config *tunnel_config_new(void)
{
	struct tunnel_config *c = xcalloc(1, sizeof(*c));
	struct config_errors none = { 0 };
	struct source s = { .name = "defaults", .e = &none };

	table_read(&s, &tunnel_table, NULL, c);
	config_errors_deinit(&none);
	return c;
}

struct tunnel_config *tunnel_config_free(struct tunnel_config *c)
{
	if (c)
		table_free(&tunnel_table, c);
	free(c);
	return NULL;
}

void tunnel_config_dump(const struct tunnel_config *c, FILE *to)
{
	table_dump(&tunnel_table, c, to);
}

/* Of few services, as the table bounds them. */
static const struct offer_config *find(const struct tunnel_config *c, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (c->services[i].name && strcasecmp(c->services[i].name, name) == 0)
			return &c->services[i];
	return NULL;
}

static void check_names(const struct source *s, const struct tunnel_config *c,
			const struct node *root)
{
	for (size_t i = 1; i < c->n_services; i++) {
		const char *name = c->services[i].name;
		const struct offer_config *first = name ? find(c, i, name) : NULL;

		if (first)
			source_error(s, node_get(node_at(node_get(root, "services"), i), "name"),
				     "name: %s is the name of the service on line %d already; "
				     "expected another",
				     name, first->line);
	}
}

/* What is wrong with a proxy's URL as such, allocated; or NULL. */
static char *proxy_fault(const char *text, enum proxy_scheme *scheme)
{
	struct proxy_url u;
	char *why;

	if (!strstr(text, "://"))
		return xstrdup("does not say what it speaks; expected " PROXY_URL_EXPECTED
			       ", or none");
	if (proxy_url_parse(&u, text, &why) < 0)
		return why;
	*scheme = u.scheme;
	if (u.password)
		why = xstrdup("has a password in it, and everybody can read a command line, as "
			      "often a config; expected the URL without it, and USER:PASSWORD on "
			      "one line of a file: proxy_credentials_file");
	proxy_url_deinit(&u);
	return why;
}

/* Where the key stands; flags stand nowhere. */
static void wrong_proxy(const struct source *s, const struct node *root, const char *key,
			const char *what)
{
	if (root)
		source_error(s, node_get(root, key), "%s: %s", key, what);
	else
		config_errors_add(s->e, "%s: %s: %s", s->name, key, what);
}

/* Values of proxy are never quoted: one that is refused may be so for the password it shows. */
static void check_proxy(const struct source *s, const struct tunnel_config *c,
			const struct node *root)
{
	bool none = c->proxy && strcmp(c->proxy, PROXY_NONE) == 0;
	enum proxy_scheme scheme = PROXY_HTTPS;
	char *fault = c->proxy && !none ? proxy_fault(c->proxy, &scheme) : NULL;

	if (fault)
		wrong_proxy(s, root, "proxy", fault);
	free(fault);
	if (c->proxy_credentials_file && (!c->proxy || none))
		wrong_proxy(s, root, "proxy_credentials_file",
			    "there is no proxy to show them to; expected proxy: URL beside it: "
			    "they are not for one of the environment");
	if (c->proxy_ca_file && (!c->proxy || none || scheme != PROXY_HTTPS))
		wrong_proxy(s, root, "proxy_ca_file",
			    "no TLS is spoken with the proxy; expected proxy: https://HOST:PORT "
			    "beside it, or ca_file, if the relay's certificate was meant");
	if (c->no_proxy.n && none)
		wrong_proxy(s, root, "no_proxy",
			    "there is no proxy; expected proxy: URL beside it, or no proxy: none, "
			    "if the environment's was meant");
}

static void check_file(const struct source *s, void *of, const struct node *root, bool clean)
{
	const struct tunnel_config *c = of;

	check_names(s, c, root);
	check_tunnel(s, c, root);
	check_locals(s, c, root);
	check_proxy(s, c, root);
}

static const struct load_kind kind = { &tunnel_table, check_file };

struct tunnel_config *tunnel_config_parse(const char *name, const char *text, size_t len,
					  struct config_errors *e)
{
	struct tunnel_config *c = xcalloc(1, sizeof(*c));

	return load_text(&kind, name, text, len, e, c) ? c : tunnel_config_free(c);
}

struct tunnel_config *tunnel_config_load(const char *path, struct config_errors *e)
{
	struct tunnel_config *c = xcalloc(1, sizeof(*c));

	return load_file(&kind, path, e, c) ? c : tunnel_config_free(c);
}

/* ---- --no-proxy ---- */

static void clear_strings(struct strings *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->at[i]);
	free(l->at);
	*l = (struct strings){ 0 };
}

/* NULL, or what is wrong, allocated. */
static char *parse_no_proxy(struct strings *to, const char *list)
{
	const struct field *f = flag_row(&tunnel_table, "no_proxy");

	list += strspn(list, NO_PROXY_BETWEEN);
	while (*list) {
		size_t len = strcspn(list, NO_PROXY_BETWEEN);
		char *entry = xstrndup(list, len), *wrong = NULL;

		if (!f->is(entry))
			wrong = xasprintf("\"%s\" is not well-formed; expected %s", entry,
					  f->expected);
		else if (to->n == f->max)
			wrong = xasprintf("too many of them; expected at most %llu",
					  (unsigned long long)f->max);
		if (wrong) {
			free(entry);
			return wrong;
		}
		to->at = xreallocarray(to->at, to->n + 1, sizeof(*to->at));
		to->at[to->n++] = entry;
		list += len;
		list += strspn(list, NO_PROXY_BETWEEN);
	}
	return to->n ? NULL : xasprintf("nothing in it; expected %s", f->expected);
}

int tunnel_config_set_no_proxy(struct tunnel_config *c, const char *list, char **why)
{
	struct strings entries = { 0 };

	*why = parse_no_proxy(&entries, list);
	if (*why) {
		clear_strings(&entries);
		return -EINVAL;
	}
	clear_strings(&c->no_proxy);
	c->no_proxy = entries;
	return 0;
}

int tunnel_config_set_word(struct tunnel_config *c, const char *key, const char *text, char **why)
{
	return flag_set_word(&tunnel_table, c, key, text, why);
}

/* ---- --service ---- */

/* One of ",key=value" behind the target. NULL, or what is wrong, allocated. */
static char *add_allowed(const struct field *f, struct strings *to, const char *text)
{
	if (!f->is(text))
		return xasprintf("allow: \"%s\" is not well-formed; expected %s", text,
				 f->expected);
	to->at = xreallocarray(to->at, to->n + 1, sizeof(*to->at));
	to->at[to->n++] = xstrdup(text);
	return NULL;
}

static char *set_option(struct offer_config *offer, const char *option)
{
	const struct table *fields = flag_row(&tunnel_table, "services")->table;
	const struct field *idle = flag_row(fields, "idle");
	const char *bad;

	if ((strncmp(option, "dial=", 5) == 0 &&
	     flag_word(flag_row(fields, "dial"), option + 5, &offer->dial)) ||
	    (strncmp(option, "proxy_protocol=", 15) == 0 &&
	     flag_word(flag_row(fields, "proxy_protocol"), option + 15, &offer->proxy_protocol))) {
		return NULL;
	} else if (strncmp(option, "idle=", 5) == 0) {
		bad = scalar_duration(option + 5, &offer->idle);
		if (!bad && offer->idle > idle->max)
			bad = "is too large";
		if (bad)
			return xasprintf("idle: \"%s\" %s; expected a duration such as 10min",
					 option + 5, bad);
	} else if (strncmp(option, "allow=", 6) == 0) {
		return add_allowed(flag_row(fields, "allow"), &offer->allow, option + 6);
	} else {
		return xasprintf("unknown option \"%s\"; expected dial=first-byte, dial=eager, "
				 "proxy_protocol=v1, proxy_protocol=v2, idle=DURATION or "
				 "allow=client:NAME (a path with a comma can stand in a config "
				 "file)",
				 option);
	}
	return NULL;
}

/* Takes text apart in place. NULL, or what is wrong, allocated; offer may be half-filled then. */
static char *parse_offer(const struct tunnel_config *c, struct offer_config *offer, char *text)
{
	const struct field *target = flag_row(flag_row(&tunnel_table, "services")->table, "target");
	char *address = strchr(text, '='), *options, *why = NULL;

	if (!address)
		return xstrdup("expected NAME=ADDRESS, such as kbs=tcp:127.0.0.1:8080");
	*address++ = '\0';
	if (!name_is_label(text))
		return xasprintf("\"%s\" is not a service's name; expected 1 to 63 letters, digits "
				 "and '-'",
				 text);
	if (find(c, c->n_services, text))
		return xasprintf("the service %s is there already; expected each name once", text);
	offer->name = xstrdup(text);
	for (char *p = offer->name; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	options = strchr(address, ',');
	if (options)
		*options++ = '\0';
	if (field_address(target, address, &offer->target, &why) < 0)
		return why;
	while (options && !why) {
		char *option = strsep(&options, ",");

		why = set_option(offer, option);
	}
	return why;
}

int tunnel_config_add_service(struct tunnel_config *c, const char *text, char **why)
{
	struct offer_config offer = { .dial = DIAL_LAZY };
	char *copy = xstrdup(text), *wrong;

	if (c->n_services >= flag_row(&tunnel_table, "services")->max)
		wrong = xstrdup("too many services; expected at most 1024");
	else
		wrong = parse_offer(c, &offer, copy);
	if (wrong) {
		*why = xasprintf("%s: %s", text, wrong);
		free(wrong);
		free(copy);
		free(offer.name);
		address_deinit(&offer.target);
		return -EINVAL;
	}
	free(copy);
	c->services = xreallocarray(c->services, c->n_services + 1, sizeof(*c->services));
	c->services[c->n_services++] = offer;
	return 0;
}

/* ---- what a run needs ---- */

static void check_relays(const struct tunnel_config *c, const char *name, struct config_errors *e)
{
	const struct field *f = flag_row(&tunnel_table, "relays");
	char text[ADDRESS_TEXT_MAX], expected[EXPECTED_MAX];

	for (size_t i = 0; i < c->relays.n; i++) {
		const char *bad = field_address_wrong(f, &c->relays.at[i]);

		address_format(&c->relays.at[i], text, sizeof(text));
		if (bad)
			config_errors_add(e, "%s: the relay %s %s; expected %s", name, text, bad,
					  field_expected(f, true, expected, sizeof(expected)));
		else if (c->relays.at[i].kind == ADDRESS_UNIX && !c->server_name)
			config_errors_add(e,
					  "%s: the relay %s has no host name to verify its "
					  "certificate by; expected --server-name NAME, or "
					  "server_name: NAME in the config file",
					  name, text);
	}
}

int tunnel_config_check(const struct tunnel_config *c, const char *name, struct config_errors *e)
{
	size_t before = e->n + e->more;
	struct source s = { .name = name, .e = e };

	if (!c->relays.n)
		config_errors_add(e,
				  "%s: no relay to connect to; expected --relay tcp:HOST:443, or "
				  "relays: [\"tcp:HOST:443\"] in the config file",
				  name);
	if (!c->token_file && !c->certificate && (c->n_services || !c->n_locals))
		config_errors_add(
			e,
			"%s: no token and no certificate; expected --token-file FILE with what "
			"attest-relay token new printed, or --certificate FILE and --key FILE as "
			"attest-tunnel enroll makes them; or token_file:, or certificate: and "
			"key: in the config file",
			name);
	if (!c->n_services && !c->n_locals)
		config_errors_add(e,
				  "%s: no service to offer, and none to use; expected --service "
				  "NAME=tcp:127.0.0.1:8080 or --local "
				  "tcp:127.0.0.1:9000=service:NAME.OWNER, or services: [{name: "
				  "NAME, target: ADDRESS}] or local: [{address: ADDRESS, service: "
				  "NAME.OWNER}] in the config file",
				  name);
	check_identity(c, name, e);
	check_relays(c, name, e);
	check_tunnel(&s, c, NULL);
	check_locals(&s, c, NULL);
	check_proxy(&s, c, NULL);
	return e->n + e->more == before ? 0 : -EINVAL;
}
