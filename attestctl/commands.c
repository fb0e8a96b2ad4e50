/*
 * commands: what attestctl can be told to do.
 *
 * Theory of operation: one row a command. A list is asked for, page by page if it has pages, and
 * shown by a table of columns, each a member of its entries; daemons have different members, and a
 * column in which nothing stands is left out. A daemon that does not know a route answers 404
 * "not-found": then it has no such thing.
 */
#include "attestctl/commands.h"

#include <inttypes.h>
#include <json-c/json_object.h>
#include <json-c/linkhash.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "attestctl/client.h"
#include "attestctl/listing.h"
#include "attestctl/table.h"
#include "attestctl/top.h"

#define PAGE 1000
#define PATH_SIZE 2048

/* ---- answers ---- */

const char *commands_text(struct json_object *o, const char *key)
{
	struct json_object *v = NULL;

	if (!json_object_object_get_ex(o, key, &v) || !v)
		return "";
	return json_object_get_string(v);
}

uint64_t commands_number(struct json_object *o, const char *key)
{
	struct json_object *v = NULL;

	json_object_object_get_ex(o, key, &v);
	return v ? json_object_get_uint64(v) : 0;
}

static struct json_object *member(struct json_object *o, const char *key, enum json_type type)
{
	struct json_object *v = NULL;

	json_object_object_get_ex(o, key, &v);
	return json_object_is_type(v, type) ? v : NULL;
}

struct json_object *commands_list(struct json_object *o, const char *key)
{
	return member(o, key, json_type_array);
}

struct json_object *commands_object(struct json_object *o, const char *key)
{
	return member(o, key, json_type_object);
}

/* What the daemon said no with. names: something that may not be there was named in the body. */
static int refused(const char *path, bool names, int status, struct json_object *answer)
{
	struct json_object *error = commands_object(answer, "error");
	const char *code = commands_text(error, "code");
	char *message;

	if (status == 404 && strcmp(code, "not-found") == 0 && !names &&
	    !strchr(path + strlen("/v1/"), '/')) {
		fprintf(stderr, "attestctl: this daemon has no such thing\n");
		return CTL_REFUSED;
	}
	message = table_clean(commands_text(error, "message"));
	fprintf(stderr, "attestctl: %s (%d)\n",
		message && *message ? message : "the daemon said no", status);
	free(message);
	return CTL_REFUSED;
}

struct json_object *commands_ask(struct ctl *c, const char *path, const char *body, int *status)
{
	struct json_object *answer;
	int code = client_ask(c->client, path, body, &answer);
	const bool good = code >= 200 && code <= 299;

	*status = CTL_DONE;
	if (good && json_object_is_type(answer, json_type_object))
		return answer;
	top_give_back(c);
	if (code < 0) {
		fprintf(stderr, "attestctl: %s\n", client_why(c->client));
		*status = CTL_UNREACHABLE;
	} else if (good) {
		fprintf(stderr, "attestctl: the answer is no JSON object: is this the socket of "
				"attest-relay, attest-tunnel or qgs-bridge?\n");
		*status = CTL_REFUSED;
	} else {
		*status = refused(path, body && *body, code, answer);
	}
	json_object_put(answer);
	return NULL;
}

static void print_json(struct json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_NOSLASHESCAPE |
						       JSON_C_TO_STRING_SPACED));
}

/* ---- lists ---- */

/* &name=value, escaped; false: out of memory or room. */
static bool add_filter(struct ctl *c, char *path, const char *name, const char *value)
{
	size_t used = strlen(path);
	char *text;
	int n;

	if (!value)
		return true;
	text = client_escape(c->client, value);
	if (!text)
		return false;
	n = snprintf(path + used, PATH_SIZE - used, "&%s=%s", name, text);
	free(text);
	return n > 0 && (size_t)n < PATH_SIZE - used;
}

/* All pages as one list; NULL: *status. */
static struct json_object *gather(struct ctl *c, const char *base, const char *key, int *status)
{
	struct json_object *all = json_object_new_array(), *page, *list;
	uint64_t after = 0, next = 0;
	char path[PATH_SIZE];

	do {
		const uint64_t have = json_object_array_length(all);
		const uint64_t want = c->limit && c->limit - have < PAGE ? c->limit - have : PAGE;

		after = next;
		snprintf(path, sizeof(path), "%s?after=%" PRIu64 "&limit=%" PRIu64, base, after,
			 want);
		if (!add_filter(c, path, "service", c->service) ||
		    !add_filter(c, path, "owner", c->owner) ||
		    !add_filter(c, path, "client", c->of_client) ||
		    !add_filter(c, path, "tunnel", c->tunnel)) {
			fprintf(stderr, "attestctl: a filter is too long\n");
			*status = CTL_USAGE;
			break;
		}
		page = commands_ask(c, path, NULL, status);
		if (!page)
			break;
		list = commands_list(page, key);
		for (size_t i = 0; list && i < json_object_array_length(list); i++)
			json_object_array_add(all,
					      json_object_get(json_object_array_get_idx(list, i)));
		next = commands_number(page, "next");
		json_object_put(page);
	} while (next > after && (!c->limit || json_object_array_length(all) < c->limit));
	if (*status == CTL_DONE)
		return all;
	json_object_put(all);
	return NULL;
}

struct command {
	const char *name, *arguments, *help;
	int (*run)(struct ctl *c, const struct command *self);
	const char *path, *key; /* of a list */
	const struct column *columns;
	int least, most; /* arguments */
};

static int run_pages(struct ctl *c, const struct command *self)
{
	int status;
	struct json_object *list = gather(c, self->path, self->key, &status), *o;

	if (!list)
		return status;
	if (c->json) {
		o = json_object_new_object();
		json_object_object_add(o, self->key, list);
		print_json(o);
		json_object_put(o);
		return CTL_DONE;
	}
	listing_show(list, self->columns);
	json_object_put(list);
	return CTL_DONE;
}

static int run_list(struct ctl *c, const struct command *self)
{
	int status;
	struct json_object *o = commands_ask(c, self->path, NULL, &status), *list;

	if (!o)
		return status;
	list = commands_list(o, self->key);
	if (c->json)
		print_json(o);
	else if (list)
		listing_show(list, self->columns);
	if (!c->json && json_object_object_get_ex(o, "sources", &list) &&
	    (list = commands_list(list, "top")) && json_object_array_length(list)) {
		putchar('\n');
		listing_show(list, listing_sources);
	}
	json_object_put(o);
	return CTL_DONE;
}

/* ---- one thing ---- */

static void print_members(struct json_object *o, const char *under)
{
	json_object_object_foreach(o, key, value)
	{
		char name[128], *text;

		snprintf(name, sizeof(name), "%s%s%s", under, *under ? "." : "", key);
		if (json_object_is_type(value, json_type_object)) {
			print_members(value, name);
		} else if (!json_object_is_type(value, json_type_array)) {
			text = table_clean(json_object_get_string(value));
			printf("%-24s %s\n", name, text ? text : "");
			free(text);
		}
	}
}

static int run_status(struct ctl *c, const struct command *self)
{
	struct json_object *problems, *o;
	int status;

	o = commands_ask(c, self->path, NULL, &status);
	if (!o)
		return status;
	if (c->json) {
		print_json(o);
	} else {
		problems = commands_list(o, "problems");
		if (problems && json_object_array_length(problems)) {
			listing_show(problems, listing_problems);
			putchar('\n');
		}
		print_members(o, "");
	}
	json_object_put(o);
	return CTL_DONE;
}

static int run_config(struct ctl *c, const struct command *self)
{
	int status;
	struct json_object *o = commands_ask(c, self->path, NULL, &status);

	if (!o)
		return status;
	if (c->json)
		print_json(o);
	else
		fputs(commands_text(o, "yaml"), stdout);
	json_object_put(o);
	return CTL_DONE;
}

/* ---- changes ---- */

static int post(struct ctl *c, const char *path, const char *body)
{
	int status;
	struct json_object *o = commands_ask(c, path, body, &status);

	if (o && c->json)
		print_json(o);
	json_object_put(o);
	return status;
}

static int run_post(struct ctl *c, const struct command *self)
{
	return post(c, self->path, "");
}

static int run_log(struct ctl *c, const struct command *self)
{
	struct json_object *body = json_object_new_object();
	int status;

	json_object_object_add(body, "level", json_object_new_string(c->argv[0]));
	status = post(c, self->path, json_object_to_json_string(body));
	json_object_put(body);
	return status;
}

static int run_close(struct ctl *c, const struct command *self)
{
	const char *what = c->argv[0], *id = c->argv[1];
	char path[128];

	if ((strcmp(what, "stream") != 0 && strcmp(what, "tunnel") != 0) || !*id ||
	    id[strspn(id, "0123456789")] || strlen(id) > 20) {
		fprintf(stderr, "attestctl: expected close stream ID or close tunnel ID\n");
		return CTL_USAGE;
	}
	snprintf(path, sizeof(path), "/v1/%ss/%s/close", what, id);
	return post(c, path, "");
}

/* What was taken back; and what the daemon could not say. */
static int show_revoked(struct ctl *c, struct json_object *o)
{
	struct json_object *list = commands_list(o, "revoked");
	const uint64_t bad = commands_number(o, "unreadable");

	if (c->json)
		print_json(o);
	for (size_t i = 0; !c->json && list && i < json_object_array_length(list); i++)
		puts(json_object_get_string(json_object_array_get_idx(list, i)));
	if (!bad)
		return CTL_DONE;
	fprintf(stderr,
		"attestctl: %" PRIu64 " records cannot be read, and may be of this owner; the "
		"daemon's log names them\n",
		bad);
	return CTL_REFUSED;
}

static int revoke(struct ctl *c, const char *path, const char *key, const char *value)
{
	struct json_object *body = json_object_new_object(), *o;
	int status;

	json_object_object_add(body, key, json_object_new_string(value));
	o = commands_ask(c, path, json_object_to_json_string(body), &status);
	json_object_put(body);
	if (o)
		status = show_revoked(c, o);
	json_object_put(o);
	return status;
}

/* Serials one by one: each that can be taken back is. */
static int run_revoke(struct ctl *c, const struct command *self)
{
	int worst = CTL_DONE;

	if (!c->owner == !c->argc) {
		fprintf(stderr, "attestctl: expected either revoke SERIAL ... or --owner NAME\n");
		return CTL_USAGE;
	}
	if (c->owner)
		return revoke(c, self->path, "owner", c->owner);
	for (int i = 0; i < c->argc && worst != CTL_UNREACHABLE; i++) {
		const int status = revoke(c, self->path, "serial", c->argv[i]);

		worst = status > worst ? status : worst;
	}
	return worst;
}

static int run_ready(struct ctl *c, const struct command *self)
{
	char path[PATH_SIZE] = "/readyz";
	struct json_object *answer;
	char *name = NULL;
	int code;

	if (c->argc) {
		name = client_escape(c->client, c->argv[0]);
		snprintf(path, sizeof(path), "/v1/services/%s/ready", name ? name : "");
		free(name);
	}
	code = client_ask(c->client, path, NULL, &answer);
	if (code < 0)
		fprintf(stderr, "attestctl: %s\n", client_why(c->client));
	else if (c->json && answer)
		print_json(answer);
	else
		puts(code == 200 ? "ready" : code == 404 ? "unknown" : "not ready");
	json_object_put(answer);
	return code < 0 ? CTL_UNREACHABLE : code == 200 ? CTL_DONE : CTL_REFUSED;
}

static int run_top(struct ctl *c, const struct command *self)
{
	return top_run(c);
}

#define LIST(name_, help_, columns_)                                                               \
	{                                                                                          \
		.name = name_, .help = help_, .run = run_list, .path = "/v1/" name_, .key = name_, \
		.columns = columns_                                                                \
	}

static const struct command commands[] = {
	{ .name = "status",
	  .help = "how it is, and what is wrong",
	  .run = run_status,
	  .path = "/v1/status" },
	{ .name = "top",
	  .help = "streams and services by what passes, again and again; q ends",
	  .run = run_top },
	LIST("listeners", "where clients and tunnels come in", listing_listeners),
	{ .name = "tunnels",
	  .help = "owners' tunnels",
	  .run = run_pages,
	  .path = "/v1/tunnels",
	  .key = "tunnels",
	  .columns = listing_tunnels },
	{ .name = "streams",
	  .help = "clients' streams; see --service and the like",
	  .run = run_pages,
	  .path = "/v1/streams",
	  .key = "streams",
	  .columns = listing_streams },
	LIST("services", "what can be reached", listing_services),
	LIST("owners", "who may offer services, and what they use", listing_owners),
	LIST("limits", "what is used of each limit, and by which addresses", listing_limits),
	LIST("failures", "the last that was refused or has failed", listing_failures),
	LIST("relays", "attest-tunnel: the relays it connects to", listing_relays),
	LIST("vms", "qgs-bridge: the VMs it knows", listing_vms),
	{ .name = "config",
	  .help = "the configuration in effect",
	  .run = run_config,
	  .path = "/v1/config" },
	{ .name = "ready",
	  .arguments = "[SERVICE]",
	  .help = "whether it, or a service, takes clients",
	  .run = run_ready,
	  .most = 1 },
	{ .name = "close",
	  .arguments = "stream|tunnel ID",
	  .help = "end that one",
	  .run = run_close,
	  .least = 2,
	  .most = 2 },
	{ .name = "revoke",
	  .arguments = "[SERIAL ...]",
	  .help = "take certificates of enrolment back; --owner: all",
	  .run = run_revoke,
	  .path = "/v1/revoke",
	  .most = INT_MAX },
	{ .name = "drain",
	  .help = "take nobody new, and end when all are gone",
	  .run = run_post,
	  .path = "/v1/drain" },
	{ .name = "reload",
	  .help = "read the configuration again",
	  .run = run_post,
	  .path = "/v1/reload" },
	{ .name = "log",
	  .arguments = "LEVEL",
	  .help = "error, warning, info or debug",
	  .run = run_log,
	  .path = "/v1/log",
	  .least = 1,
	  .most = 1 },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

void commands_help(FILE *to)
{
	for (size_t i = 0; i < COMMANDS; i++) {
		char name[64];

		snprintf(name, sizeof(name), "%s%s%s", commands[i].name,
			 commands[i].arguments ? " " : "",
			 commands[i].arguments ? commands[i].arguments : "");
		fprintf(to, "  %-24s %s\n", name, commands[i].help);
	}
}

int commands_run(struct ctl *c, const char *name)
{
	for (size_t i = 0; name && i < COMMANDS; i++) {
		const struct command *self = &commands[i];

		if (strcmp(self->name, name) != 0)
			continue;
		if (c->argc < self->least || c->argc > self->most) {
			fprintf(stderr, "attestctl: expected %s%s%s\n", name,
				self->arguments ? " " : " and nothing more",
				self->arguments ? self->arguments : "");
			return CTL_USAGE;
		}
		return self->run(c, self);
	}
	fprintf(stderr, "attestctl: %s%s; see attestctl --help\n",
		name ? "no command is called " : "expected a command", name ? name : "");
	return CTL_USAGE;
}
