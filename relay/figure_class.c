/*
 * figure_class: how streams end, in few words: whose business it is.
 *
 * Theory of operation: a switch without a default, so a new row of reason.def that has no class
 * here does not compile without a warning.
 */
#include "relay/figure_class.h"

/* clang-format off: a line has what belongs together */
enum figure_class figure_class_of(enum reason why)
{
	switch (why) {
	case REASON_NONE: case REASON_EOF:
		return FIGURE_CLEAN;
	case REASON_RESET: case REASON_CLOSED_EARLY: case REASON_TRUNCATED:
	case REASON_HANDSHAKE_TIMEOUT: case REASON_HANDSHAKE_FAILED: case REASON_PROTOCOL:
	case REASON_TOO_LARGE: case REASON_NO_DOOR: case REASON_NO_SNI:
	case REASON_UNKNOWN_SERVICE: case REASON_REQUEST_TIMEOUT:
	case REASON_REPLY_TIMEOUT:
		return FIGURE_CLIENT;
	case REASON_TARGET_RESET: case REASON_CUT_SHORT: case REASON_NO_REPLY:
	case REASON_QGS_STUCK:
		return FIGURE_TARGET;
	case REASON_TUNNEL_LOST: case REASON_TUNNEL_DEAD: case REASON_REPLACED:
	case REASON_STALE: case REASON_GOING_AWAY:
		return FIGURE_TUNNEL;
	case REASON_PICKUP_TIMEOUT:
		return FIGURE_NO_TUNNEL;
	case REASON_DIAL_REFUSED: case REASON_DIAL_TIMEOUT: case REASON_DIAL_UNREACHABLE:
	case REASON_DIAL_FAILED: case REASON_AGENT_REFUSED: case REASON_QGS_DOWN:
		return FIGURE_UNREACHABLE;
	case REASON_IDLE: case REASON_HALF_CLOSED_IDLE:
		return FIGURE_IDLE;
	case REASON_LIMIT: case REASON_SOURCE_LIMIT: case REASON_OWNER_LIMIT:
	case REASON_CLIENT_LIMIT: case REASON_RATE_LIMIT: case REASON_HANDSHAKE_LIMIT:
	case REASON_QUEUE_TIMEOUT:
		return FIGURE_LIMIT;
	case REASON_FORBIDDEN: case REASON_BAD_CREDENTIAL: case REASON_EXPIRED:
	case REASON_REVOKED: case REASON_PENALTY:
		return FIGURE_DENIED;
	case REASON_SHUTDOWN: case REASON_CLOSED_BY_ADMIN: case REASON_NO_MEMORY:
	case REASON_INTERNAL: case REASONS:
		return FIGURE_RELAY;
	}
	return FIGURE_RELAY;
}
/* clang-format on */

const char *figure_class_word(enum figure_class c)
{
	static const char *const words[FIGURE_CLASSES] = {
		[FIGURE_CLEAN] = "clean",         [FIGURE_CLIENT] = "client",
		[FIGURE_TARGET] = "target",       [FIGURE_TUNNEL] = "tunnel",
		[FIGURE_NO_TUNNEL] = "no-tunnel", [FIGURE_UNREACHABLE] = "unreachable",
		[FIGURE_IDLE] = "idle",           [FIGURE_LIMIT] = "limit",
		[FIGURE_DENIED] = "denied",       [FIGURE_RELAY] = "relay",
	};

	return words[c];
}
