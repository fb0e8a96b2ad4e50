/*
 * httphead: the head of an HTTP/1.x request or answer.
 *
 * Theory of operation: one pass, line by line, over all bytes so far. next_line() finds a line's
 * end and refuses what no line may hold; the line's own function splits it. The last, unfinished
 * line is looked at too, as far as that is cheap: a client of another protocol is told from its
 * first bytes, not at its time-out. No byte behind HTTPHEAD_MAX is ever read.
 */
#include "relay/httphead.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#define METHOD_MAX 32

static enum httphead_result bad(struct httphead *out, const char *why)
{
	out->why = why;
	return HTTPHEAD_BAD;
}

static enum httphead_result too_large(struct httphead *out, const char *why)
{
	out->why = why;
	return HTTPHEAD_TOO_LARGE;
}

/* RFC 9110 section 5.6.2 */
static bool is_token(unsigned char ch)
{
	return (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
	       (ch && strchr("!#$%&'*+-.^_`|~", ch));
}

/* The line at data, without its CRLF. MORE: line is what there is of it. */
static enum httphead_result next_line(const char *data, size_t len, struct httphead *out,
				      struct httphead_slice *line)
{
	size_t i;

	for (i = 0; i < len; i++) {
		unsigned char ch = (unsigned char)data[i];

		if (ch == '\r')
			break;
		if (ch == '\n')
			return bad(out, "a line ends with a bare LF");
		if ((ch < ' ' && ch != '\t') || ch == 0x7f)
			return bad(out, "a control character in the head");
	}
	*line = (struct httphead_slice){ .at = data, .len = i };
	if (i + 1 >= len)
		return HTTPHEAD_MORE;
	return data[i + 1] == '\n' ? HTTPHEAD_OK : bad(out, "a CR without LF");
}

/* Splits the request line, or judges the part of it that is there. */
static enum httphead_result request_line(struct httphead_slice s, bool whole, struct httphead *out)
{
	static const char version[] = "HTTP/1.";
	size_t i = 0, from;

	while (i < s.len && i <= METHOD_MAX && is_token((unsigned char)s.at[i]))
		i++;
	if (i > METHOD_MAX || (i < s.len && (s.at[i] != ' ' || i == 0)))
		return bad(out, "the first line is no HTTP request");
	if (i == s.len)
		goto unfinished;
	out->method = (struct httphead_slice){ .at = s.at, .len = i };
	from = ++i;
	while (i < s.len && s.at[i] > ' ' && s.at[i] < 0x7f)
		i++;
	if (i < s.len && (s.at[i] != ' ' || i == from))
		return bad(out, "malformed request line");
	if (i == s.len)
		goto unfinished;
	out->target = (struct httphead_slice){ .at = s.at + from, .len = i - from };
	from = ++i;
	for (; i < s.len; i++) {
		size_t k = i - from;

		if (k < sizeof(version) - 1
			    ? s.at[i] != version[k]
			    : k > sizeof(version) - 1 || (s.at[i] != '0' && s.at[i] != '1'))
			return bad(out, "not HTTP/1.0 or HTTP/1.1");
	}
	if (i - from < sizeof(version))
		goto unfinished;
	out->minor = (unsigned)(s.at[i - 1] - '0');
	return HTTPHEAD_OK;
unfinished:
	return whole ? bad(out, "malformed request line") : HTTPHEAD_MORE;
}

/* Splits the status line, or judges the part of it that is there: "HTTP/1.1 101 any words". */
static enum httphead_result status_line(struct httphead_slice s, bool whole, struct httphead *out)
{
	static const char form[] = "HTTP/1.m ddd "; /* m: 0 or 1, d: a digit */
	unsigned status = 0;
	size_t i;

	for (i = 0; i < s.len && i < sizeof(form) - 1; i++) {
		bool digit = s.at[i] >= '0' && s.at[i] <= '9';

		if (form[i] == 'm'   ? s.at[i] != '0' && s.at[i] != '1'
		    : form[i] == 'd' ? !digit
				     : s.at[i] != form[i])
			return bad(out, "the first line is no HTTP answer");
		if (form[i] == 'm')
			out->minor = (unsigned)(s.at[i] - '0');
		if (form[i] == 'd')
			status = status * 10 + (unsigned)(s.at[i] - '0');
	}
	if (i < sizeof(form) - 2) /* many leave out the words, and some the space before them */
		return whole ? bad(out, "malformed status line") : HTTPHEAD_MORE;
	out->status = status;
	return status >= 100 ? HTTPHEAD_OK : bad(out, "malformed status line");
}

static enum httphead_result header_line(struct httphead_slice s, bool whole, struct httphead *out)
{
	struct httphead_line *line = &out->line[out->lines];
	size_t i = 0;

	if (s.len && (s.at[0] == ' ' || s.at[0] == '\t'))
		return bad(out, "a folded header line");
	while (i < s.len && is_token((unsigned char)s.at[i]))
		i++;
	if (i == s.len && !whole)
		return HTTPHEAD_MORE;
	if (i == s.len || s.at[i] != ':' || i == 0)
		return bad(out, "a header line without a proper name and colon");
	if (!whole)
		return HTTPHEAD_MORE;
	line->name = (struct httphead_slice){ .at = s.at, .len = i };
	for (i++; i < s.len && (s.at[i] == ' ' || s.at[i] == '\t'); i++)
		;
	while (s.len > i && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t'))
		s.len--;
	line->value = (struct httphead_slice){ .at = s.at + i, .len = s.len - i };
	out->lines++;
	return HTTPHEAD_OK;
}

/* What only the whole head can tell. */
static enum httphead_result judge(struct httphead *out)
{
	struct httphead_slice length = httphead_get(out, "content-length");

	if (httphead_count(out, "host") > 1)
		return bad(out, "several Host lines");
	if (!httphead_is(out->method, "CONNECT"))
		return HTTPHEAD_OK;
	if (httphead_get(out, "transfer-encoding").at ||
	    httphead_count(out, "content-length") > 1 || (length.at && !httphead_is(length, "0")))
		return bad(out, "a CONNECT request with a body");
	return HTTPHEAD_OK;
}

static enum httphead_result parse(const void *data, size_t len, bool answer, struct httphead *out)
{
	const char *text = data;
	enum httphead_result found, result;
	struct httphead_slice line;
	size_t end = len < HTTPHEAD_MAX ? len : HTTPHEAD_MAX, pos = 0;

	out->method = out->target = (struct httphead_slice){ 0 };
	out->minor = out->lines = out->status = 0;
	out->len = 0;
	out->why = "";
	for (;;) {
		found = next_line(text + pos, end - pos, out, &line);
		if (found == HTTPHEAD_BAD)
			return found;
		if (pos == 0) {
			result = (answer ? status_line : request_line)(line, found == HTTPHEAD_OK,
								       out);
		} else if (line.len == 0) {
			result = found;
			if (found == HTTPHEAD_OK) {
				out->len = pos + 2;
				return answer ? HTTPHEAD_OK : judge(out);
			}
		} else if (out->lines == HTTPHEAD_LINES_MAX) {
			return too_large(out, "more than 64 header lines");
		} else {
			result = header_line(line, found == HTTPHEAD_OK, out);
		}
		if (result == HTTPHEAD_OK)
			result = found; /* a line is good, and may still lack its CRLF */
		if (result == HTTPHEAD_MORE && len >= HTTPHEAD_MAX)
			return too_large(out, "a head of more than 8192 bytes");
		if (result != HTTPHEAD_OK)
			return result;
		pos += line.len + 2;
	}
}

enum httphead_result httphead_parse(const void *data, size_t len, struct httphead *out)
{
	return parse(data, len, false, out);
}

enum httphead_result httphead_parse_answer(const void *data, size_t len, struct httphead *out)
{
	return parse(data, len, true, out);
}

static bool same(struct httphead_slice s, const char *text)
{
	return s.len == strlen(text) && strncasecmp(s.at, text, s.len) == 0;
}

struct httphead_slice httphead_get(const struct httphead *h, const char *name)
{
	for (unsigned i = 0; i < h->lines; i++)
		if (same(h->line[i].name, name))
			return h->line[i].value;
	return (struct httphead_slice){ 0 };
}

unsigned httphead_count(const struct httphead *h, const char *name)
{
	unsigned n = 0;

	for (unsigned i = 0; i < h->lines; i++)
		n += same(h->line[i].name, name);
	return n;
}

/* True if token is an element of one comma-separated value. */
static bool lists(struct httphead_slice s, const char *token)
{
	size_t from = 0;

	while (from <= s.len) {
		const char *comma = memchr(s.at + from, ',', s.len - from);
		size_t next = comma ? (size_t)(comma - s.at) : s.len, to = next;

		while (from < to && (s.at[from] == ' ' || s.at[from] == '\t'))
			from++;
		while (to > from && (s.at[to - 1] == ' ' || s.at[to - 1] == '\t'))
			to--;
		if (same((struct httphead_slice){ s.at + from, to - from }, token))
			return true;
		from = next + 1;
	}
	return false;
}

bool httphead_has_token(const struct httphead *h, const char *name, const char *token)
{
	for (unsigned i = 0; i < h->lines; i++)
		if (same(h->line[i].name, name) && lists(h->line[i].value, token))
			return true;
	return false;
}

bool httphead_is(struct httphead_slice s, const char *text)
{
	return s.at && s.len == strlen(text) && memcmp(s.at, text, s.len) == 0;
}

static bool is_host(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char ch = (unsigned char)s[i];

		if (ch == '.' ? i == 0 || i + 1 == len || s[i - 1] == '.'
			      : !((ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
				  (ch >= 'A' && ch <= 'Z') || ch == '-' || ch == '_'))
			return false;
	}
	return len > 0;
}

static bool is_v6(const char *text)
{
	struct in6_addr ip;

	return inet_pton(AF_INET6, text, &ip) == 1;
}

int httphead_authority(struct httphead_slice s, char host[HTTPHEAD_HOST_SIZE], uint16_t *port)
{
	bool bracket = s.len > 0 && s.at[0] == '[';
	char text[HTTPHEAD_HOST_SIZE];
	const char *from = s.at + bracket;
	size_t colon = s.len, len;
	unsigned long number = 0;

	while (colon > 0 && s.at[colon - 1] != ':')
		colon--;
	if (colon < 2u + 2u * bracket || s.len - colon < 1 || s.len - colon > 5)
		return -EINVAL;
	for (size_t i = colon; i < s.len; i++) {
		if (s.at[i] < '0' || s.at[i] > '9' || s.at[colon] == '0')
			return -EINVAL;
		number = number * 10 + (unsigned long)(s.at[i] - '0');
	}
	len = colon - 1 - 2u * bracket; /* without the colon and the brackets */
	if (number > 65535 || len >= sizeof(text) || (bracket && from[len] != ']'))
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		text[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] | 0x20 : from[i]);
	text[len] = '\0';
	if (memchr(text, 0, len) || !(bracket ? is_v6(text) : is_host(text, len)))
		return -EINVAL;
	memcpy(host, text, len + 1);
	*port = (uint16_t)number;
	return 0;
}
