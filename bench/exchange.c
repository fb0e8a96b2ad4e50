/*
 * exchange: modes new and pingpong.
 *
 * Theory of operation: every slot does one exchange after another, each on a connection of its own
 * (new) or all on the same (pingpong). What ends within the measured time counts; what is in progress
 * at its end is finished, and can only count as an error. With --count all are measured, from the
 * first to the end of the last. Streams that think wait in a queue: all think for the same time, so
 * who came first is due first.
 */
#include "bench/exchange.h"

#include "bench/wire.h"

/* ---- one exchange ---- */

bool exchange_take(struct stream *s)
{
	const uint8_t *data;
	ssize_t n = stream_read(s, &data, 2 * WIRE_REPLY);

	if (n <= 0)
		return false;
	if ((size_t)n > WIRE_REPLY - s->at) {
		stream_fail(s, LOAD_MISMATCH, "more than the reply came");
		return false;
	}
	if (!wire_is_reply(data, s->at, (size_t)n, s->request.id)) {
		stream_fail(s, LOAD_MISMATCH, "the reply is wrong");
		return false;
	}
	s->at += (uint32_t)n;
	s->moved = loop_now();
	return s->at == WIRE_REPLY;
}

static void on_sent(struct stream *s)
{
}

/* Counts one that is complete. */
static void count(struct load *l, const struct stream *s)
{
	l->all_done++;
	if (l->options.count)
		l->until = s->moved;
	else if (s->moved < l->from || s->moved >= l->until)
		return;
	l->done++;
	histogram_add(&l->latency, s->moved - s->began);
}

/* Is there another one to begin? With --count this takes it. */
static bool take_ticket(struct load *l, uint64_t now)
{
	static uint64_t taken;

	if (l->stopping)
		return false;
	if (!l->options.count)
		return now < l->until;
	return taken < l->options.count && ++taken;
}

static void start(struct load *l)
{
	uint64_t now = loop_now();

	l->from = now + (l->options.count ? 0 : l->options.warmup);
	l->until = l->options.count ? 0 : l->from + l->options.seconds;
	for (unsigned i = 0; i < l->options.streams; i++)
		if (take_ticket(l, now))
			stream_start(&l->streams[i], WIRE_EXCHANGE, 0);
}

/* ---- new ---- */

static void new_io(struct stream *s, uint32_t events)
{
	if (!exchange_take(s))
		return;
	count(s->load, s);
	stream_close(s);
	if (take_ticket(s->load, s->moved))
		stream_start(s, WIRE_EXCHANGE, 0);
}

static void new_run(struct load *l)
{
	start(l);
	while (l->live)
		load_turn(l, LOOP_NEVER);
}

const struct load_mode mode_new = {
	.name = "new", .what = "connect, exchange, close", .run = new_run, .sent = on_sent,
	.io = new_io, .figures = FIGURES_LATENCY,
};

/* ---- pingpong ---- */

/* Who thinks, the first to end first. */
static struct stream *thinking, **thinking_end = &thinking;

static void next(struct stream *s)
{
	if (take_ticket(s->load, loop_now()))
		stream_request(s);
	else
		stream_close(s);
}

static void pingpong_io(struct stream *s, uint32_t events)
{
	const uint8_t *data;

	if (s->state == STREAM_QUIET) {
		if (stream_read(s, &data, 1) > 0)
			stream_fail(s, LOAD_MISMATCH, "data nobody asked for");
		return;
	}
	if (!exchange_take(s))
		return;
	count(s->load, s);
	if (!s->load->options.think) {
		next(s);
		return;
	}
	s->state = STREAM_QUIET;
	s->next = NULL;
	*thinking_end = s;
	thinking_end = &s->next;
}

static void pingpong_run(struct load *l)
{
	start(l);
	while (l->live) {
		uint64_t due = thinking ? thinking->moved + l->options.think : LOOP_NEVER;

		load_turn(l, due);
		while (thinking && (thinking->state != STREAM_QUIET ||
				    thinking->moved + l->options.think <= loop_now())) {
			struct stream *s = thinking;

			thinking = s->next;
			if (!thinking)
				thinking_end = &thinking;
			if (s->state == STREAM_QUIET)
				next(s);
		}
	}
}

const struct load_mode mode_pingpong = {
	.name = "pingpong", .what = "exchanges one after another on streams that stay",
	.run = pingpong_run, .sent = on_sent, .io = pingpong_io, .figures = FIGURES_LATENCY,
};
