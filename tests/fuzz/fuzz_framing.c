/*
 * Fuzzes framing: no read outside, a verdict once given stands when more bytes come, and what is
 * whole lies inside what there is and within the bound.
 */
#include <stdlib.h>

#include "qgs-bridge/framing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(enum framing_verdict (*judge)(const uint8_t *, size_t, size_t, size_t *),
		 const uint8_t *data, size_t size, size_t max)
{
	size_t len = 0, last_len = 0, n;
	enum framing_verdict last = FRAMING_MORE, now;

	for (n = 0; n <= size; n++) {
		now = judge(data, n, max, &len);
		if (last == FRAMING_RAW_SO_FAR) { /* grows, or is at its bound */
			if ((now != FRAMING_RAW_SO_FAR && now != FRAMING_WHOLE) || len < last_len)
				abort();
		} else if (last != FRAMING_MORE && (now != last || len != last_len)) {
			abort();
		}
		if ((now == FRAMING_WHOLE || now == FRAMING_RAW_SO_FAR) && (len > n || len > max))
			abort();
		last = now;
		last_len = len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t bounds[] = { 16, 1028, 1100, 4096, 1024 * 1024 };

	for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
		walk(framing_request, data, size, bounds[i]);
		walk(framing_reply, data, size, bounds[i]);
	}
	return 0;
}
