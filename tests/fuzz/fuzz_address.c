/* Any text as an address: what is read is written and read again the same. */
#include <stdlib.h>
#include <string.h>

#include "config/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *why = NULL;
	char buf[ADDRESS_TEXT_MAX], again[ADDRESS_TEXT_MAX];
	struct address a, b;

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	if (address_parse(&a, text, &why) < 0) {
		free(why);
	} else {
		address_format(&a, buf, sizeof(buf));
		if (address_parse(&b, buf, NULL) < 0 || !address_equal(&a, &b))
			abort();
		address_format(&b, again, sizeof(again));
		if (strcmp(buf, again) != 0)
			abort();
		address_deinit(&a);
		address_deinit(&b);
	}
	if (name_is_service(text) && (name_is_label(text) || strlen(text) > 127))
		abort();
	if (name_is_label(text) && !name_is_host(text))
		abort();
	free(text);
	return 0;
}
