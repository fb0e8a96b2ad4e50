/*
 * Fuzzes what a WebSocket's peer sends: frames, and the heads of the handshake.
 *
 * Input: one byte that says what follows, then that. Frames in one piece and in many must come to
 * the same bytes and the same end, and their payload never be more than they were; a head's verdict
 * must not change when more is known.
 */
#include <stdlib.h>
#include <string.h>

#include "tunnel/ws_frame.h"
#include "tunnel/ws_handshake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE_MAX_TAKEN 65536

static void require(bool what)
{
	if (!what)
		abort();
}

static void frames(enum ws_frame_role role, const uint8_t *data, size_t size)
{
	static uint8_t whole[SIZE_MAX_TAKEN], pieces[SIZE_MAX_TAKEN], one[256];
	struct ws_frame_in a, b;
	size_t n, m = 0, at = 0;

	size = size < SIZE_MAX_TAKEN ? size : SIZE_MAX_TAKEN;
	memcpy(whole, data, size);
	ws_frame_in_init(&a, role);
	ws_frame_in_init(&b, role);
	n = ws_frame_take(&a, whole, size);
	require(n <= size);
	while (at < size) {
		size_t len = 1 + data[(at * 7 + 3) % size] % 200, got;

		len = len < size - at ? len : size - at;
		memcpy(one, data + at, len);
		got = ws_frame_take(&b, one, len);
		require(got <= len);
		memcpy(pieces + m, one, got);
		m += got;
		at += len;
	}
	require(n == m && memcmp(whole, pieces, n) == 0);
	require(a.over == b.over && a.fault == b.fault && a.closed == b.closed);
	require(a.pinged == b.pinged && a.ping_len == b.ping_len);
	require(memcmp(a.ping, b.ping, a.ping_len) == 0);
	require(a.left == b.left && a.phase == b.phase && a.head_len == b.head_len);
	require(a.over == (a.fault || a.closed));
}

static void heads(bool answer, bool subprotocol, const uint8_t *data, size_t size)
{
	const struct ws_handshake_terms terms = { .path = "/tunnel",
						  .subprotocol = subprotocol ? "attest-relay.v1"
									     : NULL };
	static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==";
	struct ws_handshake_heard heard = { 0 };
	enum ws_handshake_verdict early = WS_HANDSHAKE_MORE, late;
	size_t cuts[] = { size ? data[size - 1] % size : 0, size };

	for (unsigned i = 0; i < 2; i++) {
		char say[WS_HANDSHAKE_SAY];
		size_t said = 0;

		heard = (struct ws_handshake_heard){ 0 };
		if (answer)
			late = ws_handshake_judge_answer(data, cuts[i], &terms, key, &heard);
		else
			late = ws_handshake_judge_request(data, cuts[i], &terms, &heard, say,
							  &said);
		require(early == WS_HANDSHAKE_MORE || early == late);
		require(said < sizeof(say));
		require((late != WS_HANDSHAKE_MORE && !answer) == (said > 0));
		require((late == WS_HANDSHAKE_GOOD) == (heard.head > 0) || answer);
		require(heard.head <= cuts[i] && heard.head <= HTTPHEAD_MAX);
		require((late == WS_HANDSHAKE_BAD) == (heard.detail[0] != '\0'));
		early = late;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 8) {
	case 0:
	case 1:
		frames(WS_FRAME_SERVER, data + 1, size - 1);
		break;
	case 2:
	case 3:
		frames(WS_FRAME_CLIENT, data + 1, size - 1);
		break;
	default:
		heads(data[0] & 1, data[0] & 2, data + 1, size - 1);
	}
	return 0;
}
