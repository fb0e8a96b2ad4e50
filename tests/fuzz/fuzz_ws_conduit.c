/*
 * fuzz_ws_conduit: bytes of a hostile peer into a WebSocket of either role, after the handshake.
 *
 * Input: a byte of options, a byte for the carrier, then what it delivers. By the options the owner
 * reads little or much, writes, ends and closes. It is told no more than it asked for, gets no more
 * bytes than the peer sent, and when it has closed the carrier is let go.
 */
#include <stdlib.h>

#include "relay/worker.c" /* to turn the loop by hand */
#include "tests/fuzz/carrier.h"
#include "tunnel/ws.h"

enum {
	OPTION_CLIENT = 1 << 0,  /* the role under test */
	OPTION_LENIENT = 1 << 1, /* of a server */
	OPTION_PIECES = 1 << 2,  /* the carrier delivers and takes pieces, as its byte says */
	OPTION_STALL = 1 << 3,   /* the owner reads nothing */
	OPTION_MUTE = 1 << 4,    /* ... writes nothing */
	OPTION_SHUT = 1 << 5,    /* ... ends its direction half-way */
	OPTION_CLOSE = 1 << 6,   /* ... closes half-way */
	OPTION_CLEAN = 1 << 7,   /* closes in order */
};

#define TURNS 400

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct worker *w;
static unsigned option, n_events, asked;
static struct conduit *owned;
static size_t got;
static bool shut, over; /* our direction; both */

static void require(bool what)
{
	if (!what)
		abort();
}

static void drop(void)
{
	struct conduit *c = owned;

	owned = NULL;
	conduit_close(c, option & OPTION_CLEAN ? REASON_EOF : REASON_RESET);
}

static void want(void)
{
	asked = over || option & OPTION_STALL ? 0 : READY_READ;
	if (!over && !shut && !(option & OPTION_MUTE) && n_events % 3)
		asked |= READY_WRITE;
	conduit_want(owned, asked);
}

static void on_ready(struct conduit *c, unsigned events)
{
	static uint8_t buf[700];
	ssize_t n;

	require(c == owned && !(events & (READY_READ | READY_WRITE) & ~asked));
	n_events++;
	if (events & READY_READ) {
		n = conduit_read(c, buf, 1 + n_events * 37 % sizeof(buf));
		if (n > 0)
			got += (size_t)n;
		else if (n != -EAGAIN)
			over = true;
	}
	if (events & READY_WRITE && !shut) {
		n = conduit_write(c, buf, 1 + n_events * 53 % sizeof(buf));
		require(n != 0);
		over |= n < 0 && n != -EAGAIN;
	}
	if (option & OPTION_SHUT && n_events == 7)
		shut = conduit_shutdown(c) == 0;
	if (option & OPTION_CLOSE && n_events == 9)
		drop();
	else
		want();
}

static void run(uint8_t how, const uint8_t *data, size_t size)
{
	struct carrier k;

	carrier_init(&k, w, how, option & OPTION_PIECES, data, size);
	n_events = 0;
	got = 0;
	shut = over = false;
	if (option & OPTION_LENIENT && !(option & OPTION_CLIENT))
		owned = ws_conduit_new_lenient(&k.base);
	else
		owned = ws_conduit_new(&k.base, option & OPTION_CLIENT ? WS_FRAME_CLIENT
								       : WS_FRAME_SERVER);
	require(owned);
	owned->ready = on_ready;
	want();
	for (int i = 0; i < TURNS && !k.closed; i++)
		carrier_turn(&k);
	require(got <= k.delivered);
	if (owned)
		drop();
	carrier_finish(&k);
	for (int i = 0; i < TURNS && !k.closed; i++)
		carrier_turn(&k);
	require(k.closed);
	conduit_deinit(&k.base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2 || size > 65536)
		return 0;
	if (!w)
		w = worker_new(0);
	require(w);
	option = data[0];
	run(data[1], data + 2, size - 2);
	return 0;
}
