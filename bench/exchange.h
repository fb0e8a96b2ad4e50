/*
 * exchange: the reply to a request.
 */
#ifndef BENCH_EXCHANGE_H
#define BENCH_EXCHANGE_H

#include <stdbool.h>

#include "bench/stream.h"

/* Takes what has come of the reply. True: it is complete. False: not yet, or the stream failed. */
bool exchange_take(struct stream *s);

#endif
