/*
 * clienthello: what a TLS client says first.
 *
 * Theory of operation: two layers, both bounded by lengths that were checked before use. assemble()
 * walks the TLS records and yields the handshake message: in place when it lies in one record
 * (nearly always), else copied into a buffer on the stack. The message is then read with a reader
 * that knows two ends: how many bytes the enclosing length field promises (past it: BAD) and how
 * many of them are here (past it: MORE). So a hello is judged as far as it has come, and a length
 * that cannot be true is refused at once. Unknown extensions, ciphers, names and versions (GREASE
 * among them) are stepped over.
 */
#include "relay/clienthello.h"

#include <string.h>

#define RECORD_HEADER 5
#define MESSAGE_HEADER 4
#define CONTENT_HANDSHAKE 22
#define CLIENT_HELLO 1
#define EXTENSION_SERVER_NAME 0
#define EXTENSION_ALPN 16
#define LABEL_MAX 63

struct reader {
	const uint8_t *at;
	size_t left; /* promised by the length field around it */
	size_t here; /* of these, already received */
	struct clienthello *out;
};

static enum clienthello_result bad(struct clienthello *out, const char *why)
{
	out->why = why;
	return CLIENTHELLO_BAD;
}

/* Takes the next n bytes as a reader of their own; they need not all be here yet. */
static enum clienthello_result sub(struct reader *r, size_t n, struct reader *s)
{
	size_t here = n < r->here ? n : r->here;

	if (n > r->left)
		return bad(r->out, "a length inside the ClientHello runs past its end");
	*s = (struct reader){ .at = r->at, .left = n, .here = here, .out = r->out };
	r->at += here;
	r->here -= here;
	r->left -= n;
	return CLIENTHELLO_OK;
}

/* Takes the next n bytes, all of them here. */
static enum clienthello_result take(struct reader *r, size_t n, const uint8_t **bytes)
{
	struct reader s;
	enum clienthello_result result = sub(r, n, &s);

	if (result != CLIENTHELLO_OK)
		return result;
	*bytes = s.at;
	return s.here == n ? CLIENTHELLO_OK : CLIENTHELLO_MORE;
}

/* Takes a big-endian number of 1 or 2 bytes. */
static enum clienthello_result number(struct reader *r, size_t size, size_t *value)
{
	const uint8_t *b;
	enum clienthello_result result = take(r, size, &b);

	if (result == CLIENTHELLO_OK)
		*value = size == 1 ? b[0] : (size_t)b[0] << 8 | b[1];
	return result;
}

/* Takes a vector: a length of that size, then a reader over so many bytes. */
static enum clienthello_result vector(struct reader *r, size_t size, struct reader *s)
{
	size_t n;
	enum clienthello_result result = number(r, size, &n);

	return result == CLIENTHELLO_OK ? sub(r, n, s) : result;
}

static const char *host_fault(const uint8_t *name, size_t len)
{
	size_t label = 0;
	bool numeric = true;

	if (len == 0 || len >= CLIENTHELLO_HOST_SIZE)
		return "the server name is empty or too long";
	for (size_t i = 0; i < len; i++) {
		uint8_t ch = name[i];
		bool digit = ch >= '0' && ch <= '9';

		if (ch == '.') {
			if (label == 0 || i + 1 == len)
				return "the server name has an empty label or a trailing dot";
			label = 0;
			continue;
		}
		if (!digit && !(ch >= 'a' && ch <= 'z') && !(ch >= 'A' && ch <= 'Z') && ch != '-' &&
		    ch != '_')
			return "the server name has a character no host name has";
		if (++label > LABEL_MAX)
			return "the server name has a label of more than 63 characters";
		numeric = numeric && digit;
	}
	return numeric ? "the server name is an IP address" : NULL;
}

static enum clienthello_result server_name(struct reader *extension)
{
	struct clienthello *out = extension->out;
	enum clienthello_result result;
	struct reader list, name;
	size_t type;

	result = vector(extension, 2, &list);
	if (result != CLIENTHELLO_OK)
		return result;
	if (extension->left || list.left == 0)
		return bad(out, "the server_name extension is malformed");
	while (list.left) {
		const uint8_t *host;
		const char *fault;
		size_t len;

		if ((result = number(&list, 1, &type)) != CLIENTHELLO_OK ||
		    (result = vector(&list, 2, &name)) != CLIENTHELLO_OK)
			return result;
		len = name.left;
		if ((result = take(&name, len, &host)) != CLIENTHELLO_OK)
			return result;
		if (type != 0)
			continue;
		if (out->host[0])
			return bad(out, "two host names in the server_name extension");
		fault = host_fault(host, len);
		if (fault)
			return bad(out, fault);
		for (size_t i = 0; i < len; i++)
			out->host[i] =
				(char)(host[i] >= 'A' && host[i] <= 'Z' ? host[i] | 0x20 : host[i]);
		out->host[len] = '\0';
	}
	return CLIENTHELLO_OK;
}

static enum clienthello_result alpn(struct reader *extension)
{
	struct clienthello *out = extension->out;
	enum clienthello_result result;
	struct reader list, name;

	result = vector(extension, 2, &list);
	if (result != CLIENTHELLO_OK)
		return result;
	if (extension->left || list.left == 0)
		return bad(out, "the ALPN extension is malformed");
	while (list.left) {
		const uint8_t *bytes;
		size_t len;

		result = vector(&list, 1, &name);
		if (result != CLIENTHELLO_OK)
			return result;
		len = name.left;
		if (len == 0)
			return bad(out, "the ALPN extension is malformed");
		result = take(&name, len, &bytes);
		if (result != CLIENTHELLO_OK)
			return result;
		if (len == sizeof(CLIENTHELLO_ALPN) - 1 &&
		    memcmp(bytes, CLIENTHELLO_ALPN, len) == 0)
			out->alpn_tunnel = true;
	}
	return CLIENTHELLO_OK;
}

static enum clienthello_result extensions(struct reader *list)
{
	struct clienthello *out = list->out;
	bool named = false;

	while (list->left) {
		enum clienthello_result result;
		struct reader e;
		size_t type;

		if ((result = number(list, 2, &type)) != CLIENTHELLO_OK ||
		    (result = vector(list, 2, &e)) != CLIENTHELLO_OK)
			return result;
		if (type == EXTENSION_SERVER_NAME) {
			if (named)
				return bad(out, "two server_name extensions");
			named = true;
			result = server_name(&e);
		} else if (type == EXTENSION_ALPN) {
			if (out->alpn)
				return bad(out, "two ALPN extensions");
			out->alpn = true;
			result = alpn(&e);
		} else if (e.here < e.left) {
			result = CLIENTHELLO_MORE;
		}
		if (result != CLIENTHELLO_OK)
			return result;
	}
	return CLIENTHELLO_OK;
}

/* Takes a vector whose content does not matter; its length must be least to most, in steps. */
static enum clienthello_result step_over(struct reader *r, size_t size, size_t least, size_t most,
					 size_t step)
{
	enum clienthello_result result;
	struct reader v;

	result = vector(r, size, &v);
	if (result != CLIENTHELLO_OK)
		return result;
	if (v.left < least || v.left > most || v.left % step)
		return bad(r->out, "a field of the ClientHello has an impossible length");
	return v.here == v.left ? CLIENTHELLO_OK : CLIENTHELLO_MORE;
}

static enum clienthello_result body(struct reader *r)
{
	enum clienthello_result result;
	const uint8_t *bytes;
	struct reader list;

	result = take(r, 1, &bytes);
	if (result != CLIENTHELLO_OK)
		return result;
	if (bytes[0] != 3)
		return bad(r->out, "the ClientHello is of an unknown TLS version");
	if ((result = take(r, 1 + 32, &bytes)) != CLIENTHELLO_OK ||
	    (result = step_over(r, 1, 0, 32, 1)) != CLIENTHELLO_OK ||    /* session id */
	    (result = step_over(r, 2, 2, 65534, 2)) != CLIENTHELLO_OK || /* cipher suites */
	    (result = step_over(r, 1, 1, 255, 1)) != CLIENTHELLO_OK)     /* compression */
		return result;
	if (r->left == 0) /* TLS 1.2 without extensions */
		return CLIENTHELLO_OK;
	result = vector(r, 2, &list);
	if (result != CLIENTHELLO_OK)
		return result;
	if (r->left)
		return bad(r->out, "bytes behind the extensions of the ClientHello");
	return extensions(&list);
}

/* What assemble() has gathered of the handshake message. */
struct message {
	const uint8_t *at;
	size_t len;   /* received */
	size_t total; /* header and body, 0: not known yet */
	bool complete;
};

/* Learns the message's type and length as soon as they are there. */
static enum clienthello_result learn(struct message *m, size_t overhead, struct clienthello *out)
{
	size_t size;

	if (m->len >= 1 && m->at[0] != CLIENT_HELLO)
		return bad(out, "the first handshake message is no ClientHello");
	if (m->len < MESSAGE_HEADER || m->total)
		return CLIENTHELLO_OK;
	size = (size_t)m->at[1] << 16 | (size_t)m->at[2] << 8 | m->at[3];
	if (size > CLIENTHELLO_MAX - MESSAGE_HEADER - overhead)
		return bad(out, "the ClientHello is too large");
	m->total = MESSAGE_HEADER + size;
	return CLIENTHELLO_OK;
}

static enum clienthello_result record_header(const uint8_t *h, size_t len, bool first,
					     struct clienthello *out, size_t *size)
{
	static const uint8_t least[] = { CONTENT_HANDSHAKE, 3, 0 },
			     most[] = { CONTENT_HANDSHAKE, 3, 4 };

	for (size_t i = 0; i < len && i < sizeof(least); i++)
		if (h[i] < least[i] || h[i] > most[i])
			return first ? CLIENTHELLO_NOT_TLS
				     : bad(out, "another record inside the ClientHello");
	if (len < RECORD_HEADER)
		return CLIENTHELLO_MORE;
	*size = (size_t)h[3] << 8 | h[4];
	if (*size == 0)
		return bad(out, "an empty handshake record");
	if (*size > CLIENTHELLO_MAX - RECORD_HEADER)
		return bad(out, "the ClientHello is too large");
	return CLIENTHELLO_OK;
}

/* Gathers the message out of its records into m; copy is used when there are several. */
static enum clienthello_result assemble(const uint8_t *data, size_t len, uint8_t *copy,
					struct message *m, struct clienthello *out)
{
	for (size_t pos = 0;;) {
		size_t size, here;
		enum clienthello_result result;

		out->need = pos + RECORD_HEADER;
		result = record_header(data + pos, len - pos, pos == 0, out, &size);
		if (result != CLIENTHELLO_OK)
			return result;
		pos += RECORD_HEADER;
		if (pos + size > CLIENTHELLO_MAX)
			return bad(out, "the ClientHello is too large");
		here = size < len - pos ? size : len - pos;
		if (m->len == 0) {
			m->at = data + pos;
		} else { /* the second record and on; at most CLIENTHELLO_MAX in all */
			if (m->at != copy)
				memcpy(copy, m->at, m->len);
			memcpy(copy + m->len, data + pos, here);
			m->at = copy;
		}
		m->len += here;
		result = learn(m, pos - (m->len - here), out);
		if (result != CLIENTHELLO_OK)
			return result;
		if (m->total && m->len - here + size > m->total)
			return bad(out, "bytes behind the ClientHello in its record");
		pos += size;
		out->need = pos;
		if (here < size)
			return CLIENTHELLO_MORE;
		m->complete = m->len == m->total;
		if (m->complete)
			return CLIENTHELLO_OK;
	}
}

enum clienthello_result clienthello_parse(const uint8_t *data, size_t len, struct clienthello *out)
{
	uint8_t copy[CLIENTHELLO_MAX];
	enum clienthello_result result, inner;
	struct message m = { 0 };
	struct reader r;

	*out = (struct clienthello){ .need = 1, .why = "" };
	if (len == 0)
		return CLIENTHELLO_MORE;
	if (len > CLIENTHELLO_MAX)
		len = CLIENTHELLO_MAX; /* what is behind the hello, or it is too large anyway */
	result = assemble(data, len, copy, &m, out);
	if (m.total && (result == CLIENTHELLO_OK || result == CLIENTHELLO_MORE)) {
		r = (struct reader){ .at = m.at + MESSAGE_HEADER,
				     .left = m.total - MESSAGE_HEADER,
				     .here = m.len - MESSAGE_HEADER,
				     .out = out };
		inner = body(&r);
		if (inner != CLIENTHELLO_OK)
			result = inner;
	}
	if (result != CLIENTHELLO_OK) {
		out->host[0] = '\0';
		out->alpn = out->alpn_tunnel = false;
	}
	if (result != CLIENTHELLO_MORE)
		out->need = 0;
	return result;
}
