/*
 * Fuzzes clienthello_parse: no read outside, no broken promise about its results, and the answer
 * for a beginning agrees with the answer for the whole.
 */
#include <stdlib.h>
#include <string.h>

#include "relay/clienthello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum clienthello_result ask(const uint8_t *data, size_t size, struct clienthello *out)
{
	enum clienthello_result r = clienthello_parse(data, size, out);

	if (!out->why || (r == CLIENTHELLO_BAD) != (out->why[0] != '\0'))
		abort();
	if (r == CLIENTHELLO_MORE ? out->need <= size : out->need != 0)
		abort();
	if (r != CLIENTHELLO_OK && (out->host[0] || out->alpn || out->alpn_tunnel))
		abort();
	if (strnlen(out->host, sizeof(out->host)) == sizeof(out->host))
		abort();
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct clienthello whole, part;
	enum clienthello_result r = ask(data, size, &whole);
	size_t at = size ? data[size - 1] % size : 0;
	enum clienthello_result early = ask(data, at, &part);

	/* what was decided early stays; what is complete was never said to be bad before */
	if (early != CLIENTHELLO_MORE && early != r)
		abort();
	if (early == CLIENTHELLO_OK && strcmp(part.host, whole.host) != 0)
		abort();
	if (early == CLIENTHELLO_MORE && r == CLIENTHELLO_OK && part.need > size)
		abort();
	return 0;
}
