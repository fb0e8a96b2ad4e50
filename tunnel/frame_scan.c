/*
 * frame_scan: where the frames of an HTTP/2 peer end, and which of them cost much.
 *
 * Theory of operation: a frame's header has its length, so one is skipped to the next; a header
 * that comes in parts is kept. What is no HTTP/2 is skipped wrongly and bounded all the same: it is
 * for nghttp2 to find out.
 */
#include "tunnel/frame_scan.h"

#include <stdbool.h>

enum { DATA, HEADERS, RST_STREAM = 3, SETTINGS = 4, END_STREAM = 1 };

static bool costs_much(const uint8_t head[FRAME_SCAN_HEAD])
{
	uint8_t type = head[3], flags = head[4];

	return type == HEADERS || type == RST_STREAM || type == SETTINGS ||
	       (type == DATA && flags & END_STREAM);
}

size_t frame_scan(struct frame_scan *f, const uint8_t *data, size_t len, unsigned *left)
{
	size_t at = 0;

	while (at < len) {
		if (f->skip > 0) {
			size_t n = f->skip < len - at ? f->skip : len - at;

			f->skip -= (uint32_t)n;
			at += n;
		} else {
			f->head[f->n++] = data[at++];
			if (f->n < FRAME_SCAN_HEAD)
				continue;
			f->n = 0;
			f->skip =
				(uint32_t)f->head[0] << 16 | (uint32_t)f->head[1] << 8 | f->head[2];
			if (*left > 0 && costs_much(f->head))
				--*left;
		}
		if (f->skip == 0 && *left == 0)
			break;
	}
	return at;
}
