/*
 * frame_scan: where the frames of an HTTP/2 peer end, and which of them cost much. Pure.
 *
 * DATA and WINDOW_UPDATE cost next to nothing for each byte. A stream that begins or ends costs
 * some microseconds and fits into a dozen bytes, and SETTINGS may change every stream's window:
 * these are counted.
 */
#ifndef TUNNEL_FRAME_SCAN_H
#define TUNNEL_FRAME_SCAN_H

#include <stddef.h>
#include <stdint.h>

#define FRAME_SCAN_HEAD 9 /* bytes of a frame's header */

struct frame_scan {
	uint32_t skip; /* bytes until the next frame's header; at first: of the preface */
	uint8_t head[FRAME_SCAN_HEAD];
	uint8_t n; /* bytes of it that have come */
};

/*
 * How many of these bytes, which come after those of the call before, may be looked at before there
 * have been *left frames that cost much: all, or up to the end of the last of them. Counts *left
 * down; at 0 it is the frame at hand that ends it.
 */
size_t frame_scan(struct frame_scan *f, const uint8_t *data, size_t len, unsigned *left);

#endif
