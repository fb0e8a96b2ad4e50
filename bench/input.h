/*
 * input: the end of stdin, by which another program says that it is enough.
 */
#ifndef BENCH_INPUT_H
#define BENCH_INPUT_H

#include <stdbool.h>

#include "bench/loop.h"

struct input {
	struct watch watch; /* first: cast both ways */
	bool ended;
};

void input_watch(struct input *i, struct loop *l);
void input_forget(struct input *i, struct loop *l);

#endif
