/*
 * bulk: modes up, down and verify.
 *
 * Theory of operation: a stream sends data, receives data, or both. It ends its direction when
 * --amount is sent or when the time is over, and then waits for the far end's verdict, which is the
 * last thing that comes: so the last WIRE_VERDICT bytes are always kept back and judged at the
 * end-of-file. Bytes are counted only when both ends agree on them. With --no-half-close a stream
 * only stops sending at the amount, which the far end knows: for what is between them and drops one
 * direction when the other ends.
 *
 * Warm-up is a round of its own, with streams of its own, so that the measured one is whole: from
 * its first connect to its last verdict.
 */
#include "bench/bulk.h"

#include <string.h>
#include <sys/epoll.h>

#include "bench/data.h"
#include "bench/stream.h"

/* Chunks in one wake-up, before the others have their turn. */
#define BURST 4
#define VERIFY_AMOUNT (4 << 20)

static bool sends(const struct stream *s)
{
	return s->request.op != WIRE_DOWN;
}

static bool time_is_over(const struct load *l)
{
	return !l->options.amount && (l->stopping || loop_now() >= l->until);
}

void bulk_end(struct stream *s)
{
	s->state = STREAM_OPEN;
	s->moved = loop_now();
	loop_want(&s->load->loop, &s->watch, EPOLLIN);
	if (s->request.no_half_close)
		s->ended = true;
	else
		stream_end(s);
}

static void end_if_over(struct stream *s)
{
	uint64_t amount = s->load->options.amount;
	bool over = amount ? sends(s) && s->sent == amount : time_is_over(s->load);

	if (over && !s->ended)
		bulk_end(s);
}

/* ---- sending ---- */

static size_t next_chunk(const struct stream *s, const uint8_t **data)
{
	static uint8_t made[DATA_CHUNK];
	uint64_t amount = s->load->options.amount;
	size_t len = DATA_CHUNK;

	*data = data_chunk();
	if (s->request.verify)
		len = data_size(s->request.seed, s->sent);
	if (amount && len > amount - s->sent)
		len = (size_t)(amount - s->sent);
	if (s->request.verify) {
		data_fill(s->request.seed, s->sent, made, len);
		*data = made;
	}
	return len;
}

static bool send_some(struct stream *s)
{
	const uint8_t *data;
	size_t len;
	ssize_t n;

	for (int i = 0; i < BURST; i++) {
		len = next_chunk(s, &data);
		if (!len)
			break;
		n = stream_write(s, data, len);
		if (n < 0)
			return false;
		s->sent += (uint64_t)n;
		if (n > 0)
			s->moved = loop_now();
		if ((size_t)n < len)
			break;
	}
	end_if_over(s);
	return s->state == STREAM_OPEN;
}

static void on_sent(struct stream *s)
{
	if (sends(s))
		loop_want(&s->load->loop, &s->watch, EPOLLIN | EPOLLOUT);
	else
		end_if_over(s);
}

/* ---- receiving ---- */

/* Data came, all of which is known not to be the verdict. */
static bool check(struct stream *s, const uint8_t *data, size_t len)
{
	if (s->request.verify && !data_check(s->request.seed ^ DATA_DOWN, s->received, data, len)) {
		stream_fail(s, LOAD_MISMATCH, "the data is wrong");
		return false;
	}
	s->received += len;
	return true;
}

/* Of tail and data, all but the last WIRE_VERDICT bytes are data for sure. */
static bool keep_tail(struct stream *s, const uint8_t *data, size_t len)
{
	uint8_t both[2 * WIRE_VERDICT];
	size_t over;

	if (len >= WIRE_VERDICT) {
		over = len - WIRE_VERDICT;
		if (!check(s, s->tail, s->tail_len) || !check(s, data, over))
			return false;
		memcpy(s->tail, data + over, WIRE_VERDICT);
		s->tail_len = WIRE_VERDICT;
		return true;
	}
	memcpy(both, s->tail, s->tail_len);
	memcpy(both + s->tail_len, data, len);
	len += s->tail_len;
	over = len > WIRE_VERDICT ? len - WIRE_VERDICT : 0;
	if (!check(s, both, over))
		return false;
	s->tail_len = (uint8_t)(len - over);
	memcpy(s->tail, both + over, s->tail_len);
	return true;
}

/* What is wrong with the end of this stream; NULL: nothing, both ends agree on all. */
static const char *judge(const struct stream *s, const struct wire_verdict *v)
{
	uint64_t amount = s->request.amount;

	if (v->op != s->request.op || v->id != s->request.id)
		return "the verdict is another stream's";
	if (v->received != s->sent)
		return "the far end received another number of bytes";
	if (v->sent != s->received)
		return "the far end sent another number of bytes";
	if (!v->good)
		return "the far end saw wrong data";
	if (s->request.op != WIRE_UP && amount && s->received != amount)
		return "the far end sent another number of bytes than it should";
	return NULL;
}

static void finish(struct stream *s)
{
	struct load *l = s->load;
	struct wire_verdict v;
	const char *wrong;

	if (s->tail_len < WIRE_VERDICT || !wire_get_verdict(s->tail, &v)) {
		stream_fail(s, LOAD_SHORT, "ended without the far end's verdict");
		return;
	}
	wrong = judge(s, &v);
	if (wrong) {
		stream_fail(s, LOAD_MISMATCH, wrong);
		return;
	}
	if (!s->ended && (sends(s) || !s->request.amount)) {
		stream_fail(s, LOAD_SHORT, "the far end ended before we did");
		return;
	}
	l->bytes += s->sent + s->received;
	l->all_bytes += s->sent + s->received;
	l->done++;
	stream_close(s);
}

static bool receive(struct stream *s)
{
	const uint8_t *data;
	ssize_t n;
	size_t max;

	for (int i = 0; i < BURST; i++) {
		max = DATA_CHUNK;
		if (s->request.verify)
			max = data_size(s->request.seed ^ DATA_DOWN, s->received);
		n = stream_read_to_end(s, &data, max);
		if (n == -2)
			finish(s);
		else if (n > 0)
			s->moved = loop_now();
		if (n <= 0)
			return n == 0;
		if (!keep_tail(s, data, (size_t)n))
			return false;
		if ((size_t)n < max)
			break;
	}
	return true;
}

void bulk_io(struct stream *s, uint32_t events)
{
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && !receive(s))
		return;
	if (events & EPOLLOUT && !s->ended)
		send_some(s);
}

/* ---- rounds ---- */

static void tell_it_is_over(struct load *l)
{
	for (unsigned i = 0; i < l->options.streams; i++)
		if (l->streams[i].state == STREAM_OPEN)
			end_if_over(&l->streams[i]);
}

static void run_round(struct load *l, enum wire_op op, uint64_t ns)
{
	bool told = false;

	l->bytes = l->done = 0;
	l->from = loop_now();
	l->until = l->options.amount ? 0 : l->from + ns;
	for (unsigned i = 0; i < l->options.streams; i++)
		if (!l->stopping)
			stream_start(&l->streams[i], op, l->options.amount);
	while (l->live) {
		load_turn(l, told || l->options.amount ? LOOP_NEVER : l->until);
		if (!told && time_is_over(l)) {
			told = true;
			tell_it_is_over(l);
		}
	}
	l->until = loop_now();
}

static void run_both(struct load *l, enum wire_op op)
{
	if (l->options.warmup && !l->options.amount)
		run_round(l, op, l->options.warmup);
	if (!l->stopping)
		run_round(l, op, l->options.seconds);
}

static void up_run(struct load *l)
{
	run_both(l, WIRE_UP);
}

static void down_run(struct load *l)
{
	run_both(l, WIRE_DOWN);
}

static void verify_run(struct load *l)
{
	l->options.verify = true;
	if (!l->options.amount)
		l->options.amount = VERIFY_AMOUNT;
	run_both(l, WIRE_BOTH);
}

#define BULK(run_it) .run = run_it, .sent = on_sent, .io = bulk_io, .figures = FIGURES_BULK

const struct load_mode mode_up = { .name = "up", .what = "data to the far end", BULK(up_run) };
const struct load_mode mode_down = { .name = "down",
				     .what = "data from the far end",
				     BULK(down_run) };
const struct load_mode mode_verify = { .name = "verify",
				       .what = "random data both ways at once, compared",
				       BULK(verify_run) };
