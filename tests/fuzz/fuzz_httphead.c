/*
 * Fuzzes httphead_parse and httphead_authority: no read outside, slices inside the head, and the
 * answer for a beginning agrees with the answer for the whole.
 */
#include <stdlib.h>
#include <string.h>

#include "relay/httphead.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct httphead_slice s, const uint8_t *data, size_t len)
{
	const uint8_t *at = (const uint8_t *)s.at;

	if (at < data || s.len > len || at + s.len > data + len)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct httphead whole, part;
	enum httphead_result r = httphead_parse(data, size, &whole), early;
	size_t at = size ? data[size - 1] % size : 0;
	char host[HTTPHEAD_HOST_SIZE];
	uint16_t port = 0;

	early = httphead_parse(data, at, &part);
	if (early != HTTPHEAD_MORE && early != r)
		abort();
	httphead_authority((struct httphead_slice){ (const char *)data, size }, host, &port);
	if (r != HTTPHEAD_OK)
		return 0;
	if (whole.len > size || whole.len > HTTPHEAD_MAX || whole.lines > HTTPHEAD_LINES_MAX ||
	    memcmp(data + whole.len - 4, "\r\n\r\n", 4) != 0)
		abort();
	inside(whole.method, data, whole.len);
	inside(whole.target, data, whole.len);
	for (unsigned i = 0; i < whole.lines; i++) {
		inside(whole.line[i].name, data, whole.len);
		inside(whole.line[i].value, data, whole.len);
	}
	httphead_has_token(&whole, "connection", "upgrade");
	httphead_get(&whole, "host");
	if (httphead_authority(whole.target, host, &port) == 0 &&
	    (port == 0 || strnlen(host, sizeof(host)) == sizeof(host)))
		abort();
	return 0;
}
