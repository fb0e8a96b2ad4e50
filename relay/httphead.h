/*
 * httphead: the head of an HTTP/1.x request or answer: first line, header lines, empty line.
 *
 * Pure and strict: no state, no allocation; what two parsers could read differently is BAD (a bare
 * LF or CR, folded lines, control characters, space before a colon, more than one space in the
 * request line). All slices point into the input. On MORE call again with everything so far.
 */
#ifndef RELAY_HTTPHEAD_H
#define RELAY_HTTPHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTPHEAD_MAX 8192     /* bytes, the empty line included */
#define HTTPHEAD_LINES_MAX 64 /* header lines */

enum httphead_result {
	HTTPHEAD_MORE,
	HTTPHEAD_OK,
	HTTPHEAD_BAD,       /* no request, or one we will not read; known as early as can be */
	HTTPHEAD_TOO_LARGE, /* over one of the two limits: HTTP 431 */
};

struct httphead_slice {
	const char *at; /* not NUL-terminated; NULL: absent */
	size_t len;
};

struct httphead_line {
	struct httphead_slice name, value; /* value without the spaces and tabs around it */
};

struct httphead {
	struct httphead_slice method, target; /* of a request */
	unsigned status; /* of an answer: three digits */
	unsigned minor;	 /* HTTP/1.minor: 0 or 1 */
	size_t len;	 /* of the whole head; what follows belongs to the body or the tunnel */
	struct httphead_line line[HTTPHEAD_LINES_MAX];
	unsigned lines;
	const char *why; /* on BAD and TOO_LARGE: a static line for logs; "" otherwise */
};

/*
 * BAD as well: two Host lines, and a CONNECT with Transfer-Encoding or with a Content-Length other
 * than the 0 that some clients send: it has no body, so whose bytes follow would be in doubt.
 * out holds on OK only, except why.
 */
enum httphead_result httphead_parse(const void *data, size_t len, struct httphead *out);

/* The same for an answer. It knows nothing of bodies. */
enum httphead_result httphead_parse_answer(const void *data, size_t len, struct httphead *out);

/* The value of the first header line of that name (any case), or one with at == NULL. */
struct httphead_slice httphead_get(const struct httphead *h, const char *name);
/* How many header lines have that name. */
unsigned httphead_count(const struct httphead *h, const char *name);
/* True if the comma-separated list in all header lines of that name holds token (any case). */
bool httphead_has_token(const struct httphead *h, const char *name, const char *token);
/* Exact comparison, with case. */
bool httphead_is(struct httphead_slice s, const char *text);

/*
 * Splits HOST:PORT or [V6]:PORT, the port mandatory and 1 to 65535; host is lower-cased and
 * without brackets: letters, digits, '-', '_' and single dots inside, or hex digits, ':' and '.'
 * between brackets. 0, or -EINVAL with the outputs untouched.
 */
#define HTTPHEAD_HOST_SIZE 256
int httphead_authority(struct httphead_slice s, char host[HTTPHEAD_HOST_SIZE], uint16_t *port);

#endif
