/*
 * bulk: data in one direction or both, to the far end's verdict.
 */
#ifndef BENCH_BULK_H
#define BENCH_BULK_H

#include <stdint.h>

#include "bench/stream.h"

void bulk_io(struct stream *s, uint32_t events);
/* Ends our direction now; what is on the way still comes. */
void bulk_end(struct stream *s);

#endif
