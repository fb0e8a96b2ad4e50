/*
 * hold: modes idle and stall.
 *
 * Theory of operation: streams are brought into a state, `ready` is printed, and nothing happens
 * until the end of stdin: the time for another program to look. Then the streams must show that
 * they have lived through it: an idle one by one more exchange, a stalled one by taking up all that
 * was on its way and the far end's verdict on it. A stream that ends meanwhile ends the run at
 * once.
 *
 * Few streams open at the same time (OPENING), since a backlog that overflows would measure the
 * kernel's retransmission of SYNs. A stalled stream is settled when what lies unread in its socket
 * has not grown for SETTLED; that is looked at by time, as epoll says nothing of data nobody reads.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "bench/bulk.h"
#include "bench/exchange.h"
#include "bench/input.h"
#include "bench/stream.h"

#define OPENING 64
#define SETTLED 300000000ULL
#define LOOK 20000000ULL

/* Waits for the end of stdin, with all streams quiet. */
static void hold(struct load *l, uint64_t queued)
{
	struct input input;

	printf("{\"ready\":true,\"mode\":\"%s\",\"streams\":%u,\"queued_bytes\":%" PRIu64 "}\n",
	       l->mode->name, l->options.streams, queued);
	fflush(stdout);
	input_watch(&input, &l->loop);
	l->from = loop_now();
	while (!input.ended && !l->stopping)
		load_turn(l, LOOP_NEVER);
	l->until = loop_now();
	input_forget(&input, &l->loop);
}

/* Does something with each stream, with OPENING of them at it at once; ends when all are quiet. */
static void with_each(struct load *l, void (*begin)(struct stream *s))
{
	unsigned begun = 0;

	while (!l->stopping && l->done < l->options.streams) {
		while (!l->stopping && begun < l->options.streams && begun - l->done < OPENING)
			begin(&l->streams[begun++]);
		if (!l->stopping)
			load_turn(l, LOOP_NEVER);
	}
}

/* ---- idle ---- */

static void idle_sent(struct stream *s)
{
}

static void idle_io(struct stream *s, uint32_t events)
{
	if (s->state == STREAM_QUIET) {
		stream_unexpected(s);
	} else if (exchange_take(s)) {
		s->state = STREAM_QUIET;
		s->load->done++;
		s->load->all_done++;
	}
}

static void idle_start(struct stream *s)
{
	stream_start(s, WIRE_IDLE, 0);
}

static void idle_run(struct load *l)
{
	with_each(l, idle_start);
	if (!l->stopping)
		hold(l, 0);
	l->done = 0;
	with_each(l, stream_request);
}

const struct load_mode mode_idle = {
	.name = "idle",
	.what = "streams held open until the end of stdin, all alive then",
	.run = idle_run,
	.sent = idle_sent,
	.io = idle_io,
	.figures = FIGURES_HELD,
};

/* ---- stall ---- */

static void stall_sent(struct stream *s)
{
	if (s->state == STREAM_OPEN)
		loop_want(&s->load->loop, &s->watch, EPOLLRDHUP);
	s->load->done++;
}

static void stall_io(struct stream *s, uint32_t events)
{
	if (s->ended)
		bulk_io(s, events);
	else
		stream_fail(s, events & EPOLLERR ? LOAD_RESET : LOAD_SHORT, "ended while stalled");
}

static void stall_start(struct stream *s)
{
	stream_start(s, WIRE_DOWN, 0);
}

/* Has each stream something to read, and for how long no more than that? */
static bool is_settled(struct load *l, uint64_t *sum)
{
	uint64_t now = loop_now();
	bool settled = true;
	int queued = 0;

	*sum = 0;
	for (unsigned i = 0; i < l->options.streams; i++) {
		struct stream *s = &l->streams[i];

		if (s->state == STREAM_CLOSED || ioctl(s->watch.fd, FIONREAD, &queued) < 0)
			return false;
		if ((uint32_t)queued != s->queued) {
			s->queued = (uint32_t)queued;
			s->moved = now;
			s->state = STREAM_QUIET; /* only one that gets nothing at all has failed */
		}
		if (!queued || now - s->moved < SETTLED)
			settled = false;
		*sum += s->queued;
	}
	return settled;
}

static void stall_run(struct load *l)
{
	uint64_t queued;

	with_each(l, stall_start);
	while (!l->stopping && !is_settled(l, &queued))
		load_turn(l, loop_now() + LOOK);
	if (!l->stopping)
		hold(l, queued);
	for (unsigned i = 0; i < l->options.streams; i++)
		if (l->streams[i].state != STREAM_CLOSED)
			bulk_end(&l->streams[i]);
	l->done = 0;
	while (l->live)
		load_turn(l, LOOP_NEVER);
}

const struct load_mode mode_stall = {
	.name = "stall",
	.what = "streams from the far end that nobody reads, until the end of stdin",
	.run = stall_run,
	.sent = stall_sent,
	.io = stall_io,
	.figures = FIGURES_HELD,
};
