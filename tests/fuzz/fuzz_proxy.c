/*
 * Fuzzes the talk with a proxy, its URL and NO_PROXY: no read or write outside, a verdict is the
 * same however the bytes come in pieces, and what is shown of an answer is printable.
 *
 * The first byte chooses what the rest is for, and how long the pieces are.
 */
#include <stdlib.h>
#include <string.h>

#include "config/no_proxy.h"
#include "config/proxy_url.h"
#include "tunnel/proxy_words.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void printable(const char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			abort();
}

/* How it ended, and how many bytes that took. */
static enum proxy_verdict run(const uint8_t *data, size_t size, size_t piece, size_t *took,
			      struct proxy_talk *t)
{
	static const struct proxy_credentials us = { true, "user", "password" };
	enum proxy_verdict v = PROXY_MORE;

	if (proxy_talk_begin(t, (enum proxy_scheme)(data[0] & 3), "relay.example", 443,
			     data[0] & 4 ? &us : NULL) < 0)
		abort();
	for (*took = 1; *took < size && v == PROXY_MORE;) {
		size_t n = size - *took < piece ? size - *took : piece;

		if (n > sizeof(t->heard) - t->heard_len)
			n = sizeof(t->heard) - t->heard_len;
		if (n == 0)
			abort(); /* a full buffer has a verdict */
		memcpy(t->heard + t->heard_len, data + *took, n);
		t->heard_len += n;
		t->say_len = 0;
		*took += n;
		v = proxy_talk_judge(t);
		if (t->say_len > sizeof(t->say) || t->heard_len > sizeof(t->heard))
			abort();
	}
	if (v == PROXY_NO && !t->detail[0])
		abort();
	printable(t->detail);
	return v;
}

static void texts(const char *text)
{
	struct proxy_url u;
	char buf[ADDRESS_TEXT_MAX + 16], *why;
	const char *at = strchr(text, '\n');

	if (proxy_url_parse(&u, text, &why) == 0) {
		struct proxy_url again;

		proxy_url_format(&u, buf, sizeof(buf));
		if (proxy_url_parse(&again, buf, &why) < 0 || again.user ||
		    !address_equal(&again.address, &u.address) || again.scheme != u.scheme)
			abort();
		proxy_url_deinit(&again);
		proxy_url_deinit(&u);
	} else {
		printable(why);
		free(why);
	}
	no_proxy_is_entry(text);
	no_proxy_list_covers(text, at ? at + 1 : "192.0.2.1", 443);
	no_proxy_list_covers(text, "2001:db8::1", 443);
	no_proxy_list_covers(text, "relay.example", 443);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct proxy_talk slow, quick;
	enum proxy_verdict v;
	size_t took, took_quick;
	char *text;

	if (size == 0)
		return 0;
	if (data[0] & 8) {
		text = calloc(1, size);
		if (!text)
			return 0;
		memcpy(text, data + 1, size - 1);
		texts(text);
		free(text);
		return 0;
	}
	v = run(data, size, 1, &took, &slow);
	/* what is open after these bytes is so if they come in one go, and not with one more */
	if (v == PROXY_OPEN && (data[0] & 3) <= PROXY_HTTPS) {
		if (run(data, took, took, &took_quick, &quick) != PROXY_OPEN)
			abort();
		if (took < size && run(data, took + 1, took + 1, &took_quick, &quick) != PROXY_NO)
			abort();
	}
	run(data, size, (size_t)(data[0] >> 4) + 2, &took, &slow);
	return 0;
}
