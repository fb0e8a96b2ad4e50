/*
 * Fuzzes proxyproto_parse: no read outside, no broken promise about its results, and the answer for
 * a beginning agrees with the answer for the whole. Whatever is good is written and read again.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/proxyproto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum proxyproto_result ask(const uint8_t *data, size_t size, struct proxyproto *out)
{
	enum proxyproto_result r = proxyproto_parse(data, size, out);

	if (!out->why || (r == PROXYPROTO_BAD) != (out->why[0] != '\0') || out->version > 2)
		abort();
	if ((r == PROXYPROTO_OK) != (out->len > 0) || out->len > size ||
	    out->len > (out->version == 1 ? PROXYPROTO_V1_MAX : PROXYPROTO_MAX))
		abort();
	if (r == PROXYPROTO_NONE ? out->version != 0 : r != PROXYPROTO_MORE && out->version == 0)
		abort();
	if (r != PROXYPROTO_OK && (out->from.family || out->to.family))
		abort();
	if (r == PROXYPROTO_MORE && size >= PROXYPROTO_MAX)
		abort();
	return r;
}

static bool same(const struct peer *a, const struct peer *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static void write_again(const struct proxyproto *read, unsigned version)
{
	struct proxyproto_about about = {
		.from = &read->from, .to = &read->to, .authority = "kbs.acme", .id = "7"
	};
	bool is_ip = read->from.family == AF_INET || read->from.family == AF_INET6;
	uint8_t out[PROXYPROTO_SENT_MAX];
	size_t len = proxyproto_encode(out, version, &about);
	struct proxyproto again;

	if (ask(out, len, &again) != PROXYPROTO_OK || again.len != len || again.version != version)
		abort();
	if (is_ip ? !same(&again.from, &read->from) : again.from.family != 0)
		abort();
	if (is_ip && read->to.family == read->from.family && !same(&again.to, &read->to))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proxyproto whole, part;
	enum proxyproto_result r = ask(data, size, &whole);
	size_t at = size ? data[size - 1] % size : 0;
	enum proxyproto_result early = ask(data, at, &part);

	/* what was decided early stays */
	if (early != PROXYPROTO_MORE && (early != r || part.len != whole.len))
		abort();
	if (r == PROXYPROTO_OK) {
		/* not a byte more than its own is needed */
		if (ask(data, whole.len, &part) != PROXYPROTO_OK ||
		    ask(data, whole.len - 1, &part) != PROXYPROTO_MORE)
			abort();
		write_again(&whole, 1);
		write_again(&whole, 2);
	}
	return 0;
}
