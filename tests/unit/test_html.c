/* html: nothing that is put into a page can become markup. */
#include "relay/html.h"

#include <event2/buffer.h>

#include "tests/unit/check.h"

static const char *text_of(struct evbuffer *out)
{
	evbuffer_add(out, "", 1);
	return (const char *)evbuffer_pullup(out, -1);
}

static void check_text(const char *text, const char *wanted)
{
	struct evbuffer *out = evbuffer_new();

	html_text(out, text);
	CHECK_STR(text_of(out), wanted);
	evbuffer_free(out);
}

static void texts(void)
{
	check_text("", "");
	check_text("kbs.acme", "kbs.acme");
	check_text("<script>alert(\"1\")</script>",
		   "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;");
	check_text("' onclick='x", "&#39; onclick=&#39;x");
	check_text("&amp;", "&amp;amp;");
	check_text("Z\u00fcrich \u2713 \U0001f600", "Z\u00fcrich \u2713 \U0001f600");
	check_text("a\nb\tc\x7f", "a?b?c?");
	check_text("\xc2\x9b", "?"); /* U+009B */
	check_text("\xff<\xc3", "?&lt;?");
	check_text("\xc0\xbc", "??");         /* '<', longer than need be */
	check_text("\xed\xa0\x80x", "???x");  /* a surrogate */
	check_text("end \xe2\x82", "end ??"); /* half a character */
}

static void numbers(void)
{
	char buf[HTML_NUMBER_MAX];

	CHECK_STR(html_count(buf, 0), "0");
	CHECK_STR(html_count(buf, 999), "999");
	CHECK_STR(html_count(buf, 1234), "1\u202f234");
	CHECK_STR(html_count(buf, 1002003), "1\u202f002\u202f003");
	CHECK_STR(html_count(buf, 4000000005), "4\u202f000\u202f000\u202f005");
	html_count(buf, UINT64_MAX); /* fits */
	CHECK(strlen(buf) < HTML_NUMBER_MAX);
	CHECK_STR(html_rate(buf, 0), "0");
	CHECK_STR(html_rate(buf, 0.0001), "0.01");
	CHECK_STR(html_rate(buf, 0.25), "0.25");
	CHECK_STR(html_rate(buf, 2.55), "2.5");
	CHECK_STR(html_rate(buf, 1234.4), "1\u202f234");
	CHECK_STR(html_bytes(buf, 0), "0\u00a0B");
	CHECK_STR(html_bytes(buf, 999), "999\u00a0B");
	CHECK_STR(html_bytes(buf, 1000), "1.0\u00a0kB");
	CHECK_STR(html_bytes(buf, 12345), "12\u00a0kB");
	CHECK_STR(html_bytes(buf, 999600), "1.0\u00a0MB");
	CHECK_STR(html_bytes(buf, 1.8e19), "18\u00a0EB");
	CHECK_STR(html_memory(buf, 1023), "1023\u00a0B");
	CHECK_STR(html_memory(buf, 1536), "1.5\u00a0KiB");
	CHECK_STR(html_memory(buf, (uint64_t)1 << 30), "1.0\u00a0GiB");
	CHECK_STR(html_memory(buf, UINT64_MAX), "16\u00a0EiB");
	CHECK_STR(html_duration(buf, 0), "0\u00a0s");
	CHECK_STR(html_duration(buf, 89999), "89\u00a0s");
	CHECK_STR(html_duration(buf, 720000), "12\u00a0min");
	CHECK_STR(html_duration(buf, 12000000), "3\u00a0h 20\u00a0min");
	CHECK_STR(html_duration(buf, (uint64_t)5 * 86400000 + 3 * 3600000), "5\u00a0d 3\u00a0h");
	html_duration(buf, UINT64_MAX);
	CHECK(strlen(buf) < HTML_NUMBER_MAX);
}

static void times(void)
{
	struct evbuffer *out = evbuffer_new();
	char buf[HTML_TIME_MAX];

	CHECK_STR(html_utc(buf, 1769903999), "2026-01-31 23:59:59 UTC");
	html_utc(buf, UINT64_MAX); /* no time at all */
	html_time(out, 0, NULL);
	html_time(out, 60, "an hour ago");
	CHECK_STR(text_of(out),
		  "<time datetime=\"1970-01-01T00:00:00Z\" title=\"1970-01-01 00:00:00 UTC\">"
		  "00:00:00</time>"
		  "<time datetime=\"1970-01-01T00:01:00Z\" title=\"1970-01-01 00:01:00 UTC\">"
		  "an hour ago</time>");
	evbuffer_free(out);
}

int main(void)
{
	texts();
	numbers();
	times();
	return 0;
}
