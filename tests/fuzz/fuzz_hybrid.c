/*
 * Fuzzes hybrid_hear: it comes to a verdict within its bound, hears nothing behind the line, and
 * says yes to "OK ", text and a line end only. And hybrid_request: a whole line for any port.
 */
#include <stdlib.h>
#include <string.h>

#include "relay/hybrid.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request(const uint8_t *data, size_t size)
{
	char line[HYBRID_REQUEST_MAX];
	uint32_t port = 0;
	size_t len;

	memcpy(&port, data, size < sizeof(port) ? size : sizeof(port));
	len = hybrid_request(line, port);
	if (len >= sizeof(line) || memcmp(line, "CONNECT ", 8) != 0 || line[len - 1] != '\n' ||
	    strtoul(line + 8, NULL, 10) != port)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum hybrid_verdict verdict = HYBRID_MORE;
	unsigned heard = 0;
	size_t n = 0;

	if (size > 0)
		request(data, size);
	while (n < size && verdict == HYBRID_MORE)
		verdict = hybrid_hear(&heard, (char)data[n++]);
	if (n > HYBRID_ANSWER_MAX + 1 || heard != n - (verdict == HYBRID_NO))
		abort();
	if ((verdict == HYBRID_OPEN) != (n > 3 && n <= HYBRID_ANSWER_MAX &&
					 memcmp(data, "OK ", 3) == 0 &&
					 memchr(data, '\n', n) == data + n - 1))
		abort();
	if (verdict == HYBRID_MORE && memcmp(data, "OK ", n < 3 ? n : 3) != 0)
		abort();
	return 0;
}
