/*
 * admin_log: the route by which any program's log level is set, until the next reload or restart.
 *
 * Theory of operation: {"level": WORD} in, the same out. The words are those of the config.
 */
#include <json-c/json_object.h>
#include <string.h>

#include "relay/admin.h"
#include "relay/admin_json.h"
#include "relay/log.h"

void admin_log_level(struct admin_request *r, void *user)
{
	static const char *const words[LOG_LEVELS] = { "error", "warning", "info", "debug" };
	struct json_object *level = NULL, *o;
	const char *text;

	json_object_object_get_ex(admin_body(r), "level", &level);
	text = level ? json_object_get_string(level) : "";
	for (unsigned i = 0; i < LOG_LEVELS; i++) {
		if (strcmp(words[i], text) != 0)
			continue;
		log_set_level((enum log_level)i);
		o = json_object_new_object();
		admin_json_text(o, "level", words[i]);
		admin_reply_json(r, 200, o);
		return;
	}
	admin_fail(r, 400, "bad-parameter", "level: expected error, warning, info or debug");
}
