/*
 * proxy_words: the talk with a proxy, HTTP CONNECT or SOCKS5.
 *
 * Theory of operation: a talk is in the step whose answer it waits for.
 *
 *   HTTP     CONNECT -> open
 *   SOCKS5   METHOD -> PASSWORD (if the proxy chose that) -> REQUEST -> open
 *
 * Each step's function looks at all that was heard since the step began: MORE until the answer is
 * whole; then the next step's words go into say, or there is a verdict. No proxy may speak before
 * it is spoken to, so an answer must end where the heard bytes end. Interim answers (1xx) are
 * passed over. Basic credentials go with the first request: one round trip, and proxies that close
 * after a 407 need no second connection.
 *
 * Nothing that a proxy sends reaches a log but a status line's printable characters, cut short.
 */
#include "tunnel/proxy_words.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define STATUS_MAX 80 /* of a status line that is shown */
#define SOCKS_VERSION 5
#define SOCKS_PASSWORD_VERSION 1
#define SOCKS_CONNECT 1

enum { METHOD_NONE = 0, METHOD_PASSWORD = 2, METHOD_REFUSED = 0xff };
enum { ADDRESS_V4 = 1, ADDRESS_NAME = 3, ADDRESS_V6 = 4 };

#define NO(t, ...) (snprintf((t)->detail, PROXY_DETAIL_MAX, __VA_ARGS__), PROXY_NO)

void proxy_talk_wipe(struct proxy_talk *t)
{
	explicit_bzero(t, sizeof(*t));
}

static enum proxy_verdict glued(struct proxy_talk *t)
{
	return NO(t, "sent bytes behind its answer, before the relay was spoken to: something has "
		     "put them there; refused");
}

/* ---- HTTP ---- */

/* Appends what printf makes of it, or marks say as overfull. */
static void append(struct proxy_talk *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void append(struct proxy_talk *t, const char *fmt, ...)
{
	size_t room = sizeof(t->say) - t->say_len;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf((char *)t->say + t->say_len, room, fmt, args);
	va_end(args);
	t->say_len += n < 0 || (size_t)n >= room ? room : (size_t)n;
}

static void append_credentials(struct proxy_talk *t)
{
	const struct proxy_credentials *c = t->credentials;
	char plain[sizeof(c->user) + sizeof(c->password)];
	unsigned char encoded[4 * (sizeof(plain) + 2) / 3 + 1];
	int len;

	if (!c->known)
		return;
	len = snprintf(plain, sizeof(plain), "%s:%s", c->user, c->password);
	EVP_EncodeBlock(encoded, (unsigned char *)plain, len);
	append(t, "Proxy-Authorization: Basic %s\r\n", encoded);
	explicit_bzero(plain, sizeof(plain));
	explicit_bzero(encoded, sizeof(encoded));
}

static int say_connect(struct proxy_talk *t)
{
	bool six = strchr(t->host, ':') != NULL;
	const char *open = six ? "[" : "", *close = six ? "]" : "";

	t->step = PROXY_STEP_CONNECT;
	append(t, "CONNECT %s%s%s:%u HTTP/1.1\r\n", open, t->host, close, t->port);
	append(t, "Host: %s%s%s:%u\r\n", open, t->host, close, t->port);
	append_credentials(t);
	append(t, "User-Agent: attest-tunnel\r\n\r\n");
	return t->say_len < sizeof(t->say) ? 0 : -EINVAL;
}

/* The first line of the answer as far as it can be shown. */
static void status_line(const struct proxy_talk *t, char line[STATUS_MAX])
{
	size_t n = 0;

	while (n < t->heard_len && n < STATUS_MAX - 1 && t->heard[n] >= ' ' && t->heard[n] <= '~') {
		line[n] = (char)t->heard[n];
		n++;
	}
	line[n] = '\0';
}

/* One of the proxy's Proxy-Authenticate lines is for Basic. */
static bool takes_basic(const struct httphead *h)
{
	for (unsigned i = 0; i < h->lines; i++) {
		struct httphead_slice name = h->line[i].name, value = h->line[i].value;

		if (name.len == strlen("Proxy-Authenticate") &&
		    strncasecmp(name.at, "Proxy-Authenticate", name.len) == 0 && value.len >= 5 &&
		    strncasecmp(value.at, "Basic", 5) == 0)
			return true;
	}
	return false;
}

/* What whoever reads the log can do about it. */
static const char *advice(const struct proxy_talk *t, const struct httphead *h)
{
	if (h->status == 407 && httphead_count(h, "Proxy-Authenticate") && !takes_basic(h))
		return "it takes no password by HTTP's Basic method, which is the one there is "
		       "here; a helper on this machine that speaks its own can stand in between";
	if (h->status == 407 || h->status == 401) /* tinyproxy says the latter to a wrong one */
		return t->credentials->known
			       ? "it does not take the user name and password it was shown"
			       : "it wants a user name and password: write USER:PASSWORD into a "
				 "file, and name that with --proxy-credentials-file";
	if (h->status == 403)
		return t->port == 443
			       ? "it does not allow this host; its operator can"
			       : "it does not allow this host or this port: many proxies allow "
				 "port 443 only, so a relay that also listens there would do";
	if (h->status == 502 || h->status == 503 || h->status == 504)
		return "it cannot reach the relay itself, or does not know its name";
	if (h->status / 100 == 3)
		return "it wants one to go elsewhere first: is this a network with a login page?";
	return "is it a proxy, and does it allow CONNECT?";
}

static enum proxy_verdict judge_refusal(struct proxy_talk *t, const struct httphead *h)
{
	char line[STATUS_MAX];

	status_line(t, line);
	t->rejected = t->credentials->known && (h->status == 407 || h->status == 401);
	return NO(t, "answers \"%s\" to CONNECT: %s", line, advice(t, h));
}

static enum proxy_verdict judge_not_http(struct proxy_talk *t, const struct httphead *h)
{
	if (t->heard[0] == 0x15 || t->heard[0] == 0x16)
		return NO(t, "speaks TLS: expected https:// instead of http:// for it");
	if (t->heard[0] == SOCKS_VERSION || t->heard[0] == 0)
		return NO(t, "does not speak HTTP; if it is a SOCKS proxy, expected socks5:// or "
			     "socks5h:// for it");
	return NO(t, "answers CONNECT with something that is no good HTTP (%s): is it a proxy?",
		  h->why);
}

static enum proxy_verdict judge_connect(struct proxy_talk *t)
{
	struct httphead h;

	for (;;) {
		switch (httphead_parse_answer(t->heard, t->heard_len, &h)) {
		case HTTPHEAD_MORE:
			return PROXY_MORE;
		case HTTPHEAD_OK:
			break;
		case HTTPHEAD_BAD:
		case HTTPHEAD_TOO_LARGE:
			return judge_not_http(t, &h);
		}
		if (h.status / 100 != 1)
			break;
		t->heard_len -= h.len;
		memmove(t->heard, t->heard + h.len, t->heard_len);
	}
	if (h.status / 100 != 2)
		return judge_refusal(t, &h);
	return h.len == t->heard_len ? PROXY_OPEN : glued(t);
}

/* ---- SOCKS5 ---- */

static int say_greeting(struct proxy_talk *t)
{
	t->step = PROXY_STEP_METHOD;
	t->say[t->say_len++] = SOCKS_VERSION;
	t->say[t->say_len++] = t->credentials->known ? 2 : 1;
	t->say[t->say_len++] = METHOD_NONE;
	if (t->credentials->known)
		t->say[t->say_len++] = METHOD_PASSWORD;
	return 0;
}

static void say_word(struct proxy_talk *t, const char *text)
{
	size_t len = strlen(text); /* 255 at most, of which there is room for all */

	t->say[t->say_len++] = (uint8_t)len;
	memcpy(t->say + t->say_len, text, len);
	t->say_len += len;
}

static enum proxy_verdict say_password(struct proxy_talk *t)
{
	t->step = PROXY_STEP_PASSWORD;
	t->say[t->say_len++] = SOCKS_PASSWORD_VERSION;
	say_word(t, t->credentials->user);
	say_word(t, t->credentials->password);
	return PROXY_MORE;
}

static enum proxy_verdict say_request(struct proxy_talk *t)
{
	uint8_t address[16];
	size_t len = 0;

	t->step = PROXY_STEP_REQUEST;
	t->say[t->say_len++] = SOCKS_VERSION;
	t->say[t->say_len++] = SOCKS_CONNECT;
	t->say[t->say_len++] = 0;
	if (inet_pton(AF_INET, t->host, address) == 1)
		len = 4;
	else if (inet_pton(AF_INET6, t->host, address) == 1)
		len = 16;
	t->say[t->say_len++] = len == 4 ? ADDRESS_V4 : len == 16 ? ADDRESS_V6 : ADDRESS_NAME;
	if (len) {
		memcpy(t->say + t->say_len, address, len);
		t->say_len += len;
	} else {
		say_word(t, t->host);
	}
	t->say[t->say_len++] = (uint8_t)(t->port >> 8);
	t->say[t->say_len++] = (uint8_t)t->port;
	return PROXY_MORE;
}

/* The two bytes that answer greeting and password; first: the version there. False: verdict. */
static bool take_pair(struct proxy_talk *t, uint8_t first, uint8_t *second,
		      enum proxy_verdict *verdict)
{
	*verdict = PROXY_MORE;
	if (t->heard_len && t->heard[0] != first) {
		*verdict = t->heard[0] == 'H' ? NO(t, "speaks HTTP, not SOCKS5: expected http:// "
						      "instead of socks5:// for it")
					      : NO(t, "does not speak SOCKS5: is it a proxy?");
		return false;
	}
	if (t->heard_len < 2)
		return false;
	if (t->heard_len > 2) {
		*verdict = glued(t);
		return false;
	}
	*second = t->heard[1];
	t->heard_len = 0;
	return true;
}

static enum proxy_verdict judge_method(struct proxy_talk *t)
{
	enum proxy_verdict verdict;
	uint8_t method;

	if (!take_pair(t, SOCKS_VERSION, &method, &verdict))
		return verdict;
	if (method == METHOD_NONE)
		return say_request(t);
	if (method == METHOD_PASSWORD && t->credentials->known)
		return say_password(t);
	if (t->credentials->known)
		return NO(t, "takes neither a user name and password nor none: it has another way "
			     "to tell who may pass, which is not known here");
	return NO(t, "does not let one through without a user name and password: write "
		     "USER:PASSWORD into a file, and name that with --proxy-credentials-file");
}

static enum proxy_verdict judge_password(struct proxy_talk *t)
{
	enum proxy_verdict verdict;
	uint8_t status;

	if (!take_pair(t, SOCKS_PASSWORD_VERSION, &status, &verdict))
		return verdict;
	t->rejected = status != 0;
	if (t->rejected)
		return NO(t, "does not take the user name and password it was shown");
	return say_request(t);
}

static enum proxy_verdict judge_reply(struct proxy_talk *t, uint8_t code)
{
	static const char *const replies[] = {
		[1] = "it failed, and does not say why",
		[2] = "its rules do not allow this host or port; many allow port 443 only",
		[3] = "it finds no way to the relay's network",
		[4] = "it cannot reach the relay's host, or does not know its name",
		[5] = "the relay's host refuses its connection",
		[6] = "the relay did not answer it in time",
		[7] = "it does not do CONNECT",
		[8] = "it does not know this kind of address: try socks5h:// instead of socks5://",
	};

	if (code < sizeof(replies) / sizeof(*replies))
		return NO(t, "answers SOCKS5 error %u: %s", code, replies[code]);
	return NO(t, "answers SOCKS5 error %u", code);
}

/* VER REP RSV ATYP ADDR PORT: the address is of no use here, but must be whole. */
static enum proxy_verdict judge_request(struct proxy_talk *t)
{
	size_t len;

	if (t->heard_len && t->heard[0] != SOCKS_VERSION)
		return NO(t, "does not speak SOCKS5: is it a proxy?");
	if (t->heard_len >= 2 && t->heard[1] != 0)
		return judge_reply(t, t->heard[1]);
	if (t->heard_len < 5)
		return PROXY_MORE;
	switch (t->heard[3]) {
	case ADDRESS_V4:
		len = 4 + 4 + 2;
		break;
	case ADDRESS_NAME:
		len = 4 + 1 + (size_t)t->heard[4] + 2;
		break;
	case ADDRESS_V6:
		len = 4 + 16 + 2;
		break;
	default:
		return NO(t, "answers with an unknown kind of address (%u)", t->heard[3]);
	}
	if (t->heard_len < len)
		return PROXY_MORE;
	return t->heard_len == len ? PROXY_OPEN : glued(t);
}

/* ---- both ---- */

static const struct proxy_credentials nobody;

int proxy_talk_begin(struct proxy_talk *t, enum proxy_scheme scheme, const char *host,
		     uint16_t port, const struct proxy_credentials *credentials)
{
	bool http = scheme == PROXY_HTTP || scheme == PROXY_HTTPS;

	*t = (struct proxy_talk){ .scheme = scheme, .host = host, .port = port };
	t->credentials = credentials ? credentials : &nobody;
	if (!*host || strlen(host) > 255)
		return -EINVAL;
	return http ? say_connect(t) : say_greeting(t);
}

enum proxy_verdict proxy_talk_judge(struct proxy_talk *t)
{
	switch (t->step) {
	case PROXY_STEP_CONNECT:
		return judge_connect(t);
	case PROXY_STEP_METHOD:
		return judge_method(t);
	case PROXY_STEP_PASSWORD:
		return judge_password(t);
	case PROXY_STEP_REQUEST:
		return judge_request(t);
	}
	return NO(t, "out of step");
}
