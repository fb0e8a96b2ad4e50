/*
 * admin_json: small words for building the admin API's answers.
 *
 * Theory of operation: json-c, whose objects are each one thread's at a time. Texts may come from
 * strangers, and JSON is UTF-8.
 */
#include "relay/admin_json.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/address.h"
#include "relay/line.h"

#define TIME_TEXT 32

/* json_object_object_add takes the reference, but not if it fails. */
static bool put(struct json_object *o, const char *key, struct json_object *value)
{
	if (o && value && json_object_object_add(o, key, value) == 0)
		return true;
	json_object_put(value);
	return false;
}

/* What a terminal might obey; U+0080 to U+009F are as good as ESC and another. */
static bool is_control(const unsigned char *character)
{
	return character[0] < ' ' || character[0] == 0x7f ||
	       (character[0] == 0xc2 && character[1] < 0xa0);
}

void admin_json_text(struct json_object *o, const char *key, const char *text)
{
	char *clean;
	size_t n = 0;

	if (!text || !*text)
		return;
	clean = malloc(strlen(text) + 1);
	if (!clean)
		return;
	while (*text) {
		size_t len = line_character(text);

		if (len && !is_control((const unsigned char *)text)) {
			memcpy(clean + n, text, len);
			n += len;
			text += len;
		} else {
			clean[n++] = '?';
			text += len ? len : 1;
		}
	}
	put(o, key, json_object_new_string_len(clean, (int)n));
	free(clean);
}

void admin_json_number(struct json_object *o, const char *key, uint64_t n)
{
	put(o, key, json_object_new_uint64(n));
}

void admin_json_flag(struct json_object *o, const char *key, bool is)
{
	put(o, key, json_object_new_boolean(is));
}

void admin_json_address(struct json_object *o, const char *key, const struct address *a)
{
	char text[ADDRESS_TEXT_MAX];

	if (a->kind != ADDRESS_NONE)
		admin_json_text(o, key, address_format(a, text, sizeof(text)));
}

void admin_json_time(struct json_object *o, const char *key, uint64_t seconds)
{
	time_t t = (time_t)seconds;
	char text[TIME_TEXT];
	struct tm tm;

	if (seconds && seconds != UINT64_MAX && gmtime_r(&t, &tm) &&
	    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		admin_json_text(o, key, text);
}

void admin_json_since(struct json_object *o, const char *key, uint64_t ms)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	admin_json_time(o, key, (uint64_t)now.tv_sec - ms / 1000);
}

struct json_object *admin_json_object(struct json_object *o, const char *key)
{
	struct json_object *inner = json_object_new_object();

	return put(o, key, inner) ? inner : NULL;
}

struct json_object *admin_json_list(struct json_object *o, const char *key)
{
	struct json_object *inner = json_object_new_array();

	return put(o, key, inner) ? inner : NULL;
}

struct json_object *admin_json_entry(struct json_object *list)
{
	struct json_object *o = json_object_new_object();

	if (list && o && json_object_array_add(list, o) == 0)
		return o;
	json_object_put(o);
	return NULL;
}
