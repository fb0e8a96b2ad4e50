/*
 * line: one line of text that grows in a buffer of fixed size; plain, or JSON.
 *
 * What does not fit is left out. Nobody forges a line: what strangers send is cleaned on its way
 * in.
 */
#ifndef RELAY_LINE_H
#define RELAY_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct line {
	char *text; /* not ended by NUL */
	size_t used, size;
};

static inline void line_put(struct line *l, char c)
{
	if (l->used < l->size)
		l->text[l->used++] = c;
}

void line_text(struct line *l, const char *text);  /* as it is */
void line_plain(struct line *l, const char *text); /* control characters become '?' */
void line_number(struct line *l, uint64_t number);
void line_digits(struct line *l, uint64_t number, unsigned n); /* the last n, 1 to 20 */
/* "2026-01-31T23:59:59.123Z" */
void line_time(struct line *l, const struct timespec *at);

/*
 * A JSON string with its quotes: one bad byte would spoil the line for a reader, so control
 * characters and what is no UTF-8 become '?'. At most max bytes of text, and never half a
 * character. False: it was cut.
 */
#define LINE_JSON_ROOM 16 /* left free behind it, for what closes the object */
bool line_json(struct line *l, const char *text, size_t max);

/* The length of the UTF-8 character at text (RFC 3629); 0: there is none. */
size_t line_character(const char *text);

#endif
