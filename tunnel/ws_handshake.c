/*
 * ws_handshake: the words of the opening handshake.
 *
 * Theory of operation: heads are parsed by relay/httphead, from all bytes so far, each time more
 * has come. A request is judged in the order a person would look for a mistake: the path, the
 * method, the upgrade, the version, the key, the subprotocol; the first fault decides the status.
 * An answer other than 101 is told by its status; a 101 must agree to exactly what was asked.
 */
#include "tunnel/ws_handshake.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAGIC "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455 section 1.3 */
#define NONCE 16
#define KEY_LEN (WS_HANDSHAKE_KEY - 1)
#define SHA1_BYTES 20

bool ws_handshake_key(char key[WS_HANDSHAKE_KEY])
{
	unsigned char nonce[NONCE];

	if (RAND_bytes(nonce, sizeof(nonce)) != 1)
		return false;
	EVP_EncodeBlock((unsigned char *)key, nonce, sizeof(nonce));
	return true;
}

bool ws_handshake_accept(const char *key, char accept[WS_HANDSHAKE_ACCEPT])
{
	char text[KEY_LEN + sizeof(MAGIC)];
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned len = 0;

	snprintf(text, sizeof(text), "%.*s" MAGIC, KEY_LEN, key);
	if (EVP_Digest(text, strlen(text), hash, &len, EVP_sha1(), NULL) != 1 || len != SHA1_BYTES)
		return false;
	EVP_EncodeBlock((unsigned char *)accept, hash, SHA1_BYTES);
	return true;
}

static enum ws_handshake_verdict __attribute__((format(printf, 2, 3)))
bad(struct ws_handshake_heard *heard, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(heard->detail, sizeof(heard->detail), fmt, ap);
	va_end(ap);
	return WS_HANDSHAKE_BAD;
}

/* --- client --- */

size_t ws_handshake_request(char say[WS_HANDSHAKE_SAY], const char *host,
			    const struct ws_handshake_terms *terms, const char *key)
{
	const char *sub = terms->subprotocol;
	bool v6 = strchr(host, ':') && host[0] != '[';
	int n;

	for (const char *p = host; *p; p++)
		if (*p <= ' ' || *p == 0x7f)
			return 0;
	n = snprintf(say, WS_HANDSHAKE_SAY,
		     "GET %s HTTP/1.1\r\n"
		     "Host: %s%s%s\r\n"
		     "Upgrade: websocket\r\n"
		     "Connection: Upgrade\r\n"
		     "Sec-WebSocket-Key: %s\r\n"
		     "Sec-WebSocket-Version: 13\r\n"
		     "%s%s%s\r\n",
		     terms->path, v6 ? "[" : "", host, v6 ? "]" : "", key,
		     sub ? "Sec-WebSocket-Protocol: " : "", sub ? sub : "", sub ? "\r\n" : "");
	return n > 0 && n < WS_HANDSHAKE_SAY ? (size_t)n : 0;
}

static enum ws_handshake_verdict check_switch(const struct httphead *h,
					      const struct ws_handshake_terms *terms,
					      const char *key, struct ws_handshake_heard *heard)
{
	static const char wrong[] = "the server's WebSocket handshake is wrong";
	struct httphead_slice chosen = httphead_get(h, "sec-websocket-protocol");
	char accept[WS_HANDSHAKE_ACCEPT];

	if (!httphead_has_token(h, "upgrade", "websocket") ||
	    !httphead_has_token(h, "connection", "upgrade"))
		return bad(heard, "%s: 101 without an upgrade to WebSocket", wrong);
	if (!ws_handshake_accept(key, accept))
		return bad(heard, "libcrypto has no SHA-1, which a WebSocket needs");
	if (httphead_count(h, "sec-websocket-accept") != 1 ||
	    !httphead_is(httphead_get(h, "sec-websocket-accept"), accept))
		return bad(heard, "%s: its Sec-WebSocket-Accept is not the answer to our key",
			   wrong);
	if (httphead_get(h, "sec-websocket-extensions").at)
		return bad(heard, "%s: it uses extensions nobody asked for", wrong);
	if (terms->subprotocol ? httphead_count(h, "sec-websocket-protocol") != 1 ||
					 !httphead_is(chosen, terms->subprotocol)
			       : chosen.at != NULL)
		return bad(heard, "the server did not agree to subprotocol %s",
			   terms->subprotocol ? terms->subprotocol : "(none)");
	return WS_HANDSHAKE_GOOD;
}

enum ws_handshake_verdict ws_handshake_judge_answer(const void *data, size_t len,
						    const struct ws_handshake_terms *terms,
						    const char *key,
						    struct ws_handshake_heard *heard)
{
	struct httphead h;

	switch (httphead_parse_answer(data, len, &h)) {
	case HTTPHEAD_MORE:
		return WS_HANDSHAKE_MORE;
	case HTTPHEAD_OK:
		break;
	default:
		return bad(heard, "the answer to the WebSocket upgrade is not HTTP: %s", h.why);
	}
	if (h.status != 101)
		return bad(heard, "HTTP %u instead of 101 Switching Protocols", h.status);
	heard->head = h.len;
	return check_switch(&h, terms, key, heard);
}

/* --- server --- */

struct fault {
	unsigned status;
	const char *phrase, *more; /* header lines besides */
};

static const struct fault
	too_large = { 431, "Request Header Fields Too Large", "" },
	no_such_path = { 404, "Not Found", "" },
	not_get = { 405, "Method Not Allowed", "Allow: GET\r\n" },
	no_upgrade = { 426, "Upgrade Required", "Upgrade: websocket\r\n" },
	other_version = { 426, "Upgrade Required",
			  "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" },
	malformed = { 400, "Bad Request", "" }, internal = { 500, "Internal Server Error", "" };

/* A nonce of 16 bytes, in base64. */
static bool is_key(struct httphead_slice s)
{
	unsigned char nonce[KEY_LEN]; /* 18 bytes are written */

	return s.len == KEY_LEN && s.at[KEY_LEN - 3] != '=' && s.at[KEY_LEN - 2] == '=' &&
	       s.at[KEY_LEN - 1] == '=' &&
	       EVP_DecodeBlock(nonce, (const unsigned char *)s.at, KEY_LEN) > 0;
}

static const struct fault *check_request(const struct httphead *h,
					 const struct ws_handshake_terms *terms, bool *chosen,
					 struct ws_handshake_heard *heard)
{
	const char *what = terms->path ? terms->path : "a WebSocket";

	*chosen = terms->subprotocol &&
		  httphead_has_token(h, "sec-websocket-protocol", terms->subprotocol);
	if (terms->path && !httphead_is(h->target, terms->path)) {
		bad(heard, "not a request for %s", what);
		return &no_such_path;
	}
	if (!httphead_is(h->method, "GET")) {
		bad(heard, "a method other than GET for %s", what);
		return &not_get;
	}
	if (h->minor < 1 || !httphead_get(h, "host").len) {
		bad(heard, "not HTTP/1.1 with a Host line");
		return &malformed;
	}
	if (!httphead_has_token(h, "upgrade", "websocket") ||
	    !httphead_has_token(h, "connection", "upgrade")) {
		bad(heard, "a request without upgrade to WebSocket");
		return &no_upgrade;
	}
	if (httphead_count(h, "sec-websocket-version") != 1 ||
	    !httphead_is(httphead_get(h, "sec-websocket-version"), "13")) {
		bad(heard, "not WebSocket version 13");
		return &other_version;
	}
	if (httphead_count(h, "sec-websocket-key") != 1 ||
	    !is_key(httphead_get(h, "sec-websocket-key"))) {
		bad(heard, "no proper Sec-WebSocket-Key");
		return &malformed;
	}
	if (terms->subprotocol && !*chosen &&
	    !(terms->optional && !httphead_get(h, "sec-websocket-protocol").at)) {
		bad(heard, "subprotocol %s not offered", terms->subprotocol);
		return &malformed;
	}
	return NULL;
}

static enum ws_handshake_verdict say_fault(const struct fault *f, struct ws_handshake_heard *heard,
					   char say[WS_HANDSHAKE_SAY], size_t *said)
{
	size_t used = strlen(heard->detail);

	snprintf(heard->detail + used, sizeof(heard->detail) - used, ": answered with HTTP %u",
		 f->status);
	*said = (size_t)snprintf(say, WS_HANDSHAKE_SAY,
				 "HTTP/1.1 %u %s\r\n"
				 "%s"
				 "Content-Length: 0\r\n"
				 "Connection: close\r\n"
				 "\r\n",
				 f->status, f->phrase, f->more);
	return WS_HANDSHAKE_BAD;
}

enum ws_handshake_verdict ws_handshake_judge_request(const void *data, size_t len,
						     const struct ws_handshake_terms *terms,
						     struct ws_handshake_heard *heard,
						     char say[WS_HANDSHAKE_SAY], size_t *said)
{
	const char *sub = terms->subprotocol;
	char accept[WS_HANDSHAKE_ACCEPT];
	const struct fault *fault;
	struct httphead h;
	bool chosen;
	int n;

	switch (httphead_parse(data, len, &h)) {
	case HTTPHEAD_MORE:
		return WS_HANDSHAKE_MORE;
	case HTTPHEAD_OK:
		break;
	case HTTPHEAD_TOO_LARGE:
		bad(heard, "%s", h.why);
		return say_fault(&too_large, heard, say, said);
	case HTTPHEAD_BAD:
		bad(heard, "%s", h.why);
		return say_fault(&malformed, heard, say, said);
	}
	fault = check_request(&h, terms, &chosen, heard);
	if (fault)
		return say_fault(fault, heard, say, said);
	if (!ws_handshake_accept(httphead_get(&h, "sec-websocket-key").at, accept)) {
		bad(heard, "libcrypto has no SHA-1, which a WebSocket needs");
		return say_fault(&internal, heard, say, said);
	}
	n = snprintf(say, WS_HANDSHAKE_SAY,
		     "HTTP/1.1 101 Switching Protocols\r\n"
		     "Upgrade: websocket\r\n"
		     "Connection: Upgrade\r\n"
		     "Sec-WebSocket-Accept: %s\r\n"
		     "%s%s%s\r\n",
		     accept, chosen ? "Sec-WebSocket-Protocol: " : "", chosen ? sub : "",
		     chosen ? "\r\n" : "");
	if (n < 0 || n >= WS_HANDSHAKE_SAY) {
		bad(heard, "no room for the answer");
		return say_fault(&internal, heard, say, said);
	}
	*said = (size_t)n;
	heard->head = h.len;
	return WS_HANDSHAKE_GOOD;
}
