/*
 * exchange: modes new and pingpong.
 *
 * Theory of operation: every slot does one exchange after another, each on a connection of its own
 * (new) or all on the same (pingpong). Nothing begins after the measured time, and all that has
 * begun is finished. Each figure has its own idea of what lies in the measured time:
 *
 *	rate         what ended in it
 *	percentiles  what began in it, however late it ended: else a stall that outlasts the
 *	             measured time would be left out for being slow
 *	max          what was under way in it, at any moment
 *
 * With --count all are measured, from the first to the end of the last. Streams that think wait in
 * a queue: all think for the same time, so who came first is due first.
 *
 * This is a closed loop: --streams exchanges at most are under way, and a slow one holds back those
 * that would have followed. So a percentile says how long exchanges took, and not how long clients
 * would have waited that come at a rate of their own: a stall of all is one slow exchange for each
 * stream, however many would have come meanwhile.
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

static bool is_measured(const struct load *l, uint64_t at)
{
	return l->options.count || (at >= l->from && at < l->until);
}

/* Counts one that is complete. */
static void count(struct load *l, const struct stream *s)
{
	uint64_t took = s->moved - s->began;

	l->all_done++;
	if (l->options.count)
		l->until = s->moved;
	if (is_measured(l, s->moved))
		l->done++;
	if (is_measured(l, s->began))
		histogram_add(&l->latency, took);
	if (s->moved >= l->from && took > l->longest) /* none begins after the measured time */
		l->longest = took;
}

/* Is there another one to begin? With --count this takes it. */
static bool take_ticket(struct load *l, uint64_t now)
{
	if (l->stopping)
		return false;
	if (!l->options.count)
		return now < l->until;
	if (l->begun == l->options.count)
		return false;
	l->begun++;
	return true;
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
	.name = "new",
	.what = "connect, exchange, close",
	.run = new_run,
	.sent = on_sent,
	.io = new_io,
	.figures = FIGURES_LATENCY,
};

/* ---- pingpong ---- */

static void go_on(struct stream *s)
{
	if (take_ticket(s->load, loop_now()))
		stream_request(s);
	else
		stream_close(s);
}

static void pingpong_io(struct stream *s, uint32_t events)
{
	struct load *l = s->load;

	if (s->state == STREAM_QUIET) {
		stream_unexpected(s);
		return;
	}
	if (!exchange_take(s))
		return;
	count(l, s);
	if (!l->options.think) {
		go_on(s);
		return;
	}
	s->state = STREAM_QUIET;
	s->next = NULL;
	*(l->thinking ? &l->thinking_last->next : &l->thinking) = s;
	l->thinking_last = s;
}

/* When the first of those that think has thought enough, or the run is over. */
static uint64_t next_thought(const struct load *l)
{
	uint64_t due;

	if (!l->thinking)
		return LOOP_NEVER;
	if (l->stopping)
		return 0;
	due = l->thinking->moved + l->options.think;
	return l->options.count || due < l->until ? due : l->until;
}

static void pingpong_run(struct load *l)
{
	struct stream *s;

	start(l);
	while (l->live) {
		load_turn(l, next_thought(l));
		while (l->thinking && next_thought(l) <= loop_now()) {
			s = l->thinking;
			l->thinking = s->next;
			if (s->state == STREAM_QUIET) /* else it has failed meanwhile */
				go_on(s);
		}
	}
}

const struct load_mode mode_pingpong = {
	.name = "pingpong",
	.what = "exchanges one after another on streams that stay",
	.run = pingpong_run,
	.sent = on_sent,
	.io = pingpong_io,
	.figures = FIGURES_LATENCY,
};
