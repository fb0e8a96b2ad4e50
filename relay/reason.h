/* reason: why something ended. One table (reason.def) feeds logs, counters and the manual. */
#ifndef RELAY_REASON_H
#define RELAY_REASON_H

#include <stdbool.h>

enum reason {
#define REASON(symbol, word, class, explanation) REASON_##symbol,
#include "relay/reason.def"
#undef REASON
	REASONS
};

/* Static strings, never NULL for a valid reason. */
const char *reason_word(enum reason why);
const char *reason_explanation(enum reason why);

/* True when a peer is to see an orderly end, false when it is to see an abort. */
bool reason_is_clean(enum reason why);

/* The reason of this word; REASON_NONE: it is none's. */
enum reason reason_of_word(const char *word);

#endif
