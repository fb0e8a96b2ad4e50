/*
 * reason: the words for every ending.
 *
 * Theory of operation: three arrays made from reason.def, indexed by enum reason. Nothing else
 * in the program spells a reason out.
 */
#include "relay/reason.h"

#include <assert.h>
#include <string.h>

enum { CLEAN, ABORT };

static const struct {
	const char *word;
	const char *explanation;
	int class;
} table[] = {
#define REASON(symbol, word, class, explanation) [REASON_##symbol] = { word, explanation, class },
#include "relay/reason.def"
#undef REASON
};
static_assert(sizeof(table) / sizeof(table[0]) == REASONS, "reason.def and enum reason differ");

const char *reason_word(enum reason why)
{
	return table[why].word;
}

const char *reason_explanation(enum reason why)
{
	return table[why].explanation;
}

bool reason_is_clean(enum reason why)
{
	return table[why].class == CLEAN;
}

enum reason reason_of_word(const char *word)
{
	for (unsigned i = 0; i < REASONS; i++)
		if (strcmp(table[i].word, word) == 0)
			return (enum reason)i;
	return REASON_NONE;
}
