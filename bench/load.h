/*
 * load: one run of the load generator: what is asked for, what came of it, and its clock.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/histogram.h"
#include "bench/loop.h"
#include "bench/place.h"

struct stream;

/* How a stream can fail. Each is counted, and with any of them no figure is printed. */
enum load_error {
	LOAD_CONNECT,  /* no connection, for another reason than LOAD_REFUSED */
	LOAD_RESET,    /* the connection broke */
	LOAD_SHORT,    /* it ended in order, but too early */
	LOAD_MISMATCH, /* other bytes than agreed, or another number of them */
	LOAD_TIMEOUT,  /* nothing moved for --timeout */
	LOAD_REFUSED,  /* nobody listens, or the proxy said no */
	LOAD_ERRORS
};

enum load_prologue { PROLOGUE_NONE, PROLOGUE_SNI, PROLOGUE_CONNECT };

struct load_options {
	struct place place;
	unsigned streams;
	uint64_t seconds, warmup, think, timeout; /* ns */
	uint64_t amount, count;                   /* 0: by time */
	enum load_prologue prologue;
	const char *name; /* of the prologue */
	bool spread, verify, no_half_close;
};

struct load;

struct load_mode {
	const char *name, *what;
	enum { FIGURES_LATENCY, FIGURES_BULK, FIGURES_HELD, FIGURES_FAR } figures;
	void (*run)(struct load *l);
	/* A stream's request has left. */
	void (*sent)(struct stream *s);
	/* Events on a stream whose request has left. */
	void (*io)(struct stream *s, uint32_t events);
};

struct load {
	struct load_options options;
	const struct load_mode *mode;
	struct loop loop;
	struct stream *streams; /* options.streams of them */
	unsigned live;          /* of them not closed */
	bool stopping;          /* nothing new is begun: something failed */
	uint64_t next_id, next_tick;
	uint64_t begun;                          /* with --count: how many of them */
	struct stream *thinking, *thinking_last; /* a queue, the first to be done first */

	uint64_t errors[LOAD_ERRORS];
	char first[256]; /* what failed first */

	uint64_t from, until;         /* the measured time; until is set once it is known */
	uint64_t done, bytes;         /* what ended in it */
	uint64_t all_done, all_bytes; /* warm-up included */
	struct histogram latency;     /* of what began in it */
	uint64_t longest;             /* of what was under way in it */
	char far_end[512];            /* its statistics */
};

extern const struct load_mode mode_new, mode_pingpong, mode_up, mode_down, mode_verify, mode_idle,
	mode_stall, mode_statistics;

void load_init(struct load *l);
void load_deinit(struct load *l);

/* One turn of the loop, until the time `until` at most; streams that have stood still fail. */
void load_turn(struct load *l, uint64_t until);

/* Counts an error, and from now on nothing new is begun. */
void load_failed(struct load *l, enum load_error kind, uint64_t id, const char *what);

/* The result, as one line of JSON on stdout; returns the exit status. */
int load_report(const struct load *l);

#endif
