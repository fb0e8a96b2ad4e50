/*
 * Fuzzes token_parse: what is taken is one printable word of the text, and the same when read
 * again; what is refused has a reason and leaves out untouched.
 */
#include <stdlib.h>
#include <string.h>

#include "relay/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char out[TOKEN_TEXT_MAX], again[TOKEN_TEXT_MAX], before[TOKEN_TEXT_MAX];
	const char *text = (const char *)data;
	const char *fault;
	size_t len;

	memset(before, '#', sizeof(before));
	memcpy(out, before, sizeof(out));
	fault = token_parse(text, size, out);
	if (fault) {
		if (!*fault || memcmp(out, before, sizeof(out)) != 0)
			abort();
		return 0;
	}
	len = strnlen(out, sizeof(out));
	if (len == 0 || len == sizeof(out) || len > size || !memmem(text, size, out, len))
		abort();
	for (size_t i = 0; i < len; i++)
		if (out[i] <= ' ' || out[i] > '~')
			abort();
	if (token_parse(out, len, again) || strcmp(out, again) != 0)
		abort();
	return 0;
}
