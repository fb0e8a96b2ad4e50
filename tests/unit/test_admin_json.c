/* Texts of strangers in an answer: UTF-8, and nothing that a terminal obeys. */
#include <json-c/json_object.h>

#include "relay/admin_json.h"
#include "tests/unit/check.h"

static void becomes(const char *text, const char *expected)
{
	struct json_object *o = json_object_new_object(), *v = NULL;

	admin_json_text(o, "a", text);
	CHECK(json_object_object_get_ex(o, "a", &v));
	CHECK_STR(json_object_get_string(v), expected);
	json_object_put(o);
}

int main(void)
{
	struct json_object *o = json_object_new_object();

	becomes("kbs.acme", "kbs.acme");
	becomes("\"\\/<", "\"\\/<");
	becomes("a\x1b[2Jb\r\n\tc\x7f", "a?[2Jb???c?");
	/* the same in another coding: U+009B begins what ESC [ does */
	becomes("a\xc2\x9b"
		"2Jb\xc2\x80\xc2\x9f",
		"a?2Jb??");
	becomes("\xc2\xa0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
		"\xc2\xa0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
	becomes("\xff\xc3", "??");
	becomes("\xed\xa0\x80", "???"); /* a surrogate */
	admin_json_text(o, "none", NULL);
	admin_json_text(o, "none", "");
	CHECK_INT(json_object_object_length(o), 0);
	json_object_put(o);
	admin_json_text(NULL, "a", "x");
	return 0;
}
