/*
 * statistics: mode statistics, what the far end says of itself.
 *
 * Theory of operation: one stream asks, and reads a line of JSON to its end; that becomes part of
 * the result as it is.
 */
#include <string.h>

#include "bench/stream.h"

static void statistics_sent(struct stream *s)
{
}

static void statistics_io(struct stream *s, uint32_t events)
{
	struct load *l = s->load;
	const uint8_t *data;
	size_t room = sizeof(l->far_end) - 1 - s->received;
	ssize_t n = stream_read_to_end(s, &data, room + 1);

	if (n > 0 && (size_t)n > room) {
		stream_fail(s, LOAD_MISMATCH, "more came than a line of statistics");
	} else if (n > 0) {
		memcpy(l->far_end + s->received, data, (size_t)n);
		s->received += (uint64_t)n;
	} else if (n == -2) {
		if (!s->received || l->far_end[s->received - 1] != '\n') {
			stream_fail(s, LOAD_SHORT, "the statistics are no whole line");
			return;
		}
		l->far_end[s->received - 1] = '\0';
		stream_close(s);
	}
}

static void statistics_run(struct load *l)
{
	stream_start(&l->streams[0], WIRE_STATISTICS, 0);
	while (l->live)
		load_turn(l, LOOP_NEVER);
}

const struct load_mode mode_statistics = {
	.name = "statistics",
	.what = "what the far end has counted",
	.run = statistics_run,
	.sent = statistics_sent,
	.io = statistics_io,
	.figures = FIGURES_FAR,
};
