/*
 * far: one stream as the far end sees it.
 *
 * A far_stream is about 200 bytes and owns its descriptor; it frees itself when it has ended, or is
 * freed by far_close_all.
 */
#ifndef BENCH_FAR_H
#define BENCH_FAR_H

#include <stdint.h>

#include "bench/loop.h"

struct far {
	struct loop loop;
	struct far_stream *streams; /* all there are */
	uint64_t accepted, live, exchanges, bulk, received, sent;
	/*
	 * Streams that ended otherwise than they should. unused: not one byte came, as from a proxy
	 * that was told to look whether somebody is there; that is counted, but no error.
	 */
	uint64_t unused, magic, early, shorter, mismatch, reset;
};

/* Takes over a connected socket, whose first bytes may be here already. */
void far_open(struct far *f, int fd);

/* Closes those that are still there; they stay counted as live. */
void far_close_all(struct far *f);

/* The statistics as a line of JSON; the length, less than size. */
int far_statistics(const struct far *f, char *buf, int size);

#endif
