/*
 * listing: lists of things as tables.
 *
 * Theory of operation: one table of columns for each list, whichever daemon it is of; a column in
 * which nothing stands is left out.
 */
#include "attestctl/listing.h"

#include <inttypes.h>
#include <json-c/json_object.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "attestctl/commands.h"
#include "attestctl/table.h"

#define CELL_SIZE 512

const struct column listing_listeners[] = {
	{ "NAME", "name", TEXT },         { "ADDRESS", "address", TEXT },
	{ "BOUND", "bound", TEXT },       { "DOORS", "doors", TEXT },
	{ "SERVICE", "service", TEXT },   { "FORWARD", "forward", TEXT },
	{ "OPEN", "open", TEXT },         { "ACCEPTED", "accepted_total", NUMBER },
	{ "STREAMS", "streams", NUMBER }, { NULL, NULL, TEXT },
};

const struct column listing_owners[] = {
	{ "OWNER", "name", TEXT },
	{ "TUNNELS", "limits.tunnels", LIMIT },
	{ "STREAMS", "limits.streams", LIMIT },
	{ "PARKED", "limits.parked", LIMIT },
	{ "MEMORY", "limits.memory_bytes", LIMIT },
	{ "UP", "bytes_up_total", BYTES },
	{ "DOWN", "bytes_down_total", BYTES },
	{ "REFUSED", "refused_total", NUMBER },
	{ NULL, NULL, TEXT },
};

const struct column listing_services[] = {
	{ "SERVICE", "name", TEXT },           { "READY", "ready", TEXT },
	{ "TARGET", "target", TEXT },          { "TUNNELS", "tunnels", NUMBER },
	{ "STREAMS", "streams", NUMBER },      { "PARKED", "parked", NUMBER },
	{ "TOTAL", "streams_total", NUMBER },  { "UP", "bytes_up_total", BYTES },
	{ "DOWN", "bytes_down_total", BYTES }, { NULL, NULL, TEXT },
};

const struct column listing_tunnels[] = {
	{ "ID", "id", NUMBER },
	{ "OWNER", "owner", TEXT },
	{ "INSTANCE", "instance", TEXT },
	{ "AGENT", "agent", TEXT },
	{ "CARRIER", "carrier", TEXT },
	{ "STATE", "state", TEXT },
	{ "AGE", "age_ms", AGE },
	{ "RTT", "rtt_us", MICROSECONDS },
	{ "STREAMS", "streams", NUMBER },
	{ "TOTAL", "streams_total", NUMBER },
	{ "CREDENTIAL", "credential", TEXT },
	{ "SERVICES", "services", TEXT },
	{ NULL, NULL, TEXT },
};

const struct column listing_streams[] = {
	{ "ID", "id", NUMBER },
	{ "STATE", "state", TEXT },
	{ "SERVICE", "service", TEXT },
	{ "CLIENT", "client", TEXT },
	{ "VM", "vm", TEXT },
	{ "RULE", "client_rule", TEXT },
	{ "LISTENER", "listener", TEXT },
	{ "TARGET", "target", TEXT },
	{ "TUNNEL", "tunnel", TEXT },
	{ "AGE", "age_ms", AGE },
	{ "UP", "bytes_up", BYTES },
	{ "DOWN", "bytes_down", BYTES },
	{ NULL, NULL, TEXT },
};

const struct column listing_limits[] = {
	{ "SCOPE", "scope", TEXT }, { "NAME", "name", TEXT },   { "WHAT", "what", TEXT },
	{ "USED", "used", NUMBER }, { "MOST", "most", NUMBER }, { NULL, NULL, TEXT },
};

const struct column listing_sources[] = {
	{ "SOURCE", "source", TEXT },
	{ "BLOCKED", "blocked", TEXT },
	{ "CONNECTIONS", "connections", NUMBER },
	{ "HANDSHAKES", "handshakes", NUMBER },
	{ "STREAMS", "streams", NUMBER },
	{ "PARKED", "parked", NUMBER },
	{ "REFUSED", "refused_total", NUMBER },
	{ NULL, NULL, TEXT },
};

const struct column listing_failures[] = {
	{ "AT", "at", TEXT },         { "EVENT", "event", TEXT },     { "REASON", "reason", TEXT },
	{ "CLIENT", "client", TEXT }, { "SERVICE", "service", TEXT }, { "TUNNEL", "tunnel", TEXT },
	{ "DETAIL", "detail", TEXT }, { NULL, NULL, TEXT },
};

const struct column listing_relays[] = {
	{ "RELAY", "address", TEXT },
	{ "STATE", "state", TEXT },
	{ "CARRIER", "carrier", TEXT },
	{ "PROXY", "proxy", TEXT },
	{ "AGE", "age_ms", AGE },
	{ "RTT", "rtt_us", MICROSECONDS },
	{ "STREAMS", "streams", NUMBER },
	{ "ERROR", "error", TEXT },
	{ NULL, NULL, TEXT },
};

const struct column listing_problems[] = {
	{ "SEVERITY", "severity", TEXT },
	{ "WHAT", "what", TEXT },
	{ "ADVICE", "advice", TEXT },
	{ NULL, NULL, TEXT },
};

const struct column listing_vms[] = {
	{ "VM", "vm", TEXT },
	{ "CONNECTIONS", "connections", NUMBER },
	{ "REQUESTS", "requests", NUMBER },
	{ "WAITING", "waiting", NUMBER },
	{ "ANSWERED", "answered_total", NUMBER },
	{ "FAILED", "failed_total", NUMBER },
	{ NULL, NULL, TEXT },
};

const char *listing_bytes(uint64_t n, char *buf, size_t size)
{
	static const char units[] = "KMGTPE";
	double value = (double)n;
	size_t unit = 0;

	if (n < 1000) {
		snprintf(buf, size, "%" PRIu64, n);
		return buf;
	}
	for (value /= 1000; value >= 999.5 && units[unit + 1]; unit++)
		value /= 1000;
	snprintf(buf, size, value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
	return buf;
}

static const char *age(uint64_t ms, char *buf, size_t size)
{
	const uint64_t s = ms / 1000;

	if (s < 60)
		snprintf(buf, size, "%" PRIu64 ".%" PRIu64 "s", s, ms % 1000 / 100);
	else if (s < 3600)
		snprintf(buf, size, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buf, size, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(buf, size, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
	return buf;
}

/* The words of a list, or the value itself. */
static const char *plain(struct json_object *v, char *buf, size_t size)
{
	size_t used = 0;

	if (!json_object_is_type(v, json_type_array))
		return json_object_is_type(v, json_type_boolean)
			       ? json_object_get_boolean(v) ? "yes" : "no"
			       : json_object_get_string(v);
	buf[0] = '\0';
	for (size_t i = 0; i < json_object_array_length(v) && used < size; i++)
		used += (size_t)snprintf(buf + used, size - used, "%s%s", i ? "," : "",
					 json_object_get_string(json_object_array_get_idx(v, i)));
	return buf;
}

static const char *limit_text(struct json_object *v, char *buf, size_t size)
{
	struct json_object *most = NULL;
	char used[32];

	snprintf(used, sizeof(used), "%" PRIu64, commands_number(v, "used"));
	if (json_object_object_get_ex(v, "most", &most))
		snprintf(buf, size, "%s/%s", used, json_object_get_string(most));
	else
		snprintf(buf, size, "%s", used);
	return buf;
}

/* What stands in a column; NULL: nothing. */
static const char *cell(struct json_object *entry, const struct column *c, char *buf, size_t size)
{
	struct json_object *v = NULL;
	const char *dot = strchr(c->key, '.');
	char outer[64];

	if (dot) {
		snprintf(outer, sizeof(outer), "%.*s", (int)(dot - c->key), c->key);
		json_object_object_get_ex(entry, outer, &v);
		entry = v;
	}
	if (!json_object_object_get_ex(entry, dot ? dot + 1 : c->key, &v) || !v)
		return NULL;
	switch (c->shape) {
	case BYTES:
		return listing_bytes(json_object_get_uint64(v), buf, size);
	case AGE:
		return age(json_object_get_uint64(v), buf, size);
	case MICROSECONDS:
		snprintf(buf, size, "%.1fms", (double)json_object_get_uint64(v) / 1000);
		return buf;
	case LIMIT:
		return limit_text(v, buf, size);
	default:
		return plain(v, buf, size);
	}
}

void listing_show(struct json_object *list, const struct column *columns)
{
	struct table *t = table_new();
	char buf[CELL_SIZE];

	if (!t)
		return;
	for (const struct column *c = columns; c->title; c++)
		table_column(t, c->title, c->shape != TEXT);
	for (size_t i = 0; i < json_object_array_length(list); i++)
		for (const struct column *c = columns; c->title; c++)
			table_cell(t,
				   cell(json_object_array_get_idx(list, i), c, buf, sizeof(buf)));
	table_print(t, table_terminal(STDOUT_FILENO, NULL), 0, stdout);
	table_free(t);
}
