/*
 * line: one line of text that grows in a buffer of fixed size; plain, or JSON.
 *
 * Theory of operation: plain values. A line that is full takes nothing more; only a JSON string
 * minds its end, so that its closing quote and LINE_JSON_ROOM bytes of what closes the object
 * still have room.
 */
#include "relay/line.h"

#include <string.h>

void line_text(struct line *l, const char *text)
{
	size_t len = strlen(text), room = l->size - l->used;

	if (len > room)
		len = room;
	memcpy(l->text + l->used, text, len);
	l->used += len;
}

void line_plain(struct line *l, const char *text)
{
	char *to = l->text + l->used;
	const char *end = l->text + l->size;

	for (; *text && to < end; text++)
		*to++ = (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text;
	l->used = (size_t)(to - l->text);
}

void line_number(struct line *l, uint64_t number)
{
	char digits[20];
	size_t n = sizeof(digits);

	do {
		digits[--n] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	for (; n < sizeof(digits); n++)
		line_put(l, digits[n]);
}

void line_digits(struct line *l, uint64_t number, unsigned n)
{
	uint64_t unit = 1;

	while (--n)
		unit *= 10;
	for (; unit; unit /= 10)
		line_put(l, (char)('0' + number / unit % 10));
}

/* Not strftime(3): every stream's end has a line and a record, and both have the time. */
void line_time(struct line *l, const struct timespec *at)
{
	struct tm tm;

	gmtime_r(&at->tv_sec, &tm);
	line_digits(l, (uint64_t)tm.tm_year + 1900, 4);
	line_put(l, '-');
	line_digits(l, (uint64_t)tm.tm_mon + 1, 2);
	line_put(l, '-');
	line_digits(l, (uint64_t)tm.tm_mday, 2);
	line_put(l, 'T');
	line_digits(l, (uint64_t)tm.tm_hour, 2);
	line_put(l, ':');
	line_digits(l, (uint64_t)tm.tm_min, 2);
	line_put(l, ':');
	line_digits(l, (uint64_t)tm.tm_sec, 2);
	line_put(l, '.');
	line_digits(l, (uint64_t)at->tv_nsec / 1000000, 3);
	line_put(l, 'Z');
}

size_t line_character(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t len = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if ((s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4)
		return 0;
	/* longer than need be, surrogates, above U+10FFFF */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

bool line_json(struct line *l, const char *text, size_t max)
{
	size_t end = l->used + max + 1;

	if (l->size < LINE_JSON_ROOM || end > l->size - LINE_JSON_ROOM)
		end = l->size < LINE_JSON_ROOM ? 0 : l->size - LINE_JSON_ROOM;
	line_put(l, '"');
	while (*text) {
		unsigned char c = (unsigned char)*text;
		size_t len = line_character(text);
		bool bad = len == 0 || c < 0x20 || c == 0x7f, escaped = c == '"' || c == '\\';

		if (l->used + (bad ? 1 : len + escaped) > end)
			break;
		if (bad) {
			line_put(l, '?');
			text++;
			continue;
		}
		if (escaped)
			line_put(l, '\\');
		while (len--)
			line_put(l, *text++);
	}
	line_put(l, '"');
	return !*text;
}
