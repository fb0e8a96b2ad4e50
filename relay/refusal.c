/*
 * refusal: each door's own words for "no".
 *
 * Theory of operation: one small write into a socket to which nothing was sent yet, so it fits or
 * the peer is gone; then an orderly close in the background, so that the words arrive.
 *
 *   sni      a fatal TLS alert in plaintext, as a server may send before its first flight:
 *            unrecognized_name (RFC 6066) if there is no such service, access_denied if the
 *            client may not use it, decode_error for what is no TLS, else internal_error
 *   connect, websocket
 *            an HTTP/1.1 answer with a status, Proxy-Status (RFC 9209) and one line for people;
 *            to a stream, its answer
 *   static   RST: nothing else is common to all protocols
 */
#include "relay/refusal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/linger.h"

#define ALERT_ACCESS_DENIED 49
#define ALERT_DECODE_ERROR 50
#define ALERT_INTERNAL_ERROR 80
#define ALERT_UNRECOGNIZED_NAME 112

/* What a proxy tells of a reason: the status, and the error type of RFC 9209, section 2.3. */
static struct answer {
	int status;
	const char *error;
} answer_to(enum reason why)
{
	switch (why) {
	case REASON_PROTOCOL:
	case REASON_NO_DOOR:
		return (struct answer){ 400, "http_request_error" };
	case REASON_FORBIDDEN:
	case REASON_EXPIRED:
	case REASON_REVOKED:
		return (struct answer){ 403, "http_request_denied" };
	case REASON_UNKNOWN_SERVICE:
		return (struct answer){ 404, "destination_not_found" };
	case REASON_HANDSHAKE_TIMEOUT:
		return (struct answer){ 408, "http_request_error" };
	case REASON_TOO_LARGE:
		return (struct answer){ 431, "http_request_error" };
	case REASON_DIAL_REFUSED:
		return (struct answer){ 502, "connection_refused" };
	case REASON_DIAL_UNREACHABLE: /* no route, or no such name: one word for both */
	case REASON_DIAL_FAILED:
		return (struct answer){ 502, "destination_unavailable" };
	case REASON_TARGET_RESET:
	case REASON_TUNNEL_LOST:
	case REASON_TUNNEL_DEAD:
		return (struct answer){ 502, "connection_terminated" };
	case REASON_AGENT_REFUSED:
	case REASON_GOING_AWAY:
		return (struct answer){ 503, "destination_unavailable" };
	case REASON_SOURCE_LIMIT:
	case REASON_CLIENT_LIMIT:
	case REASON_RATE_LIMIT:
	case REASON_PENALTY:
		return (struct answer){ 429, "connection_limit_reached" };
	case REASON_LIMIT:
	case REASON_OWNER_LIMIT:
	case REASON_HANDSHAKE_LIMIT:
		return (struct answer){ 503, "connection_limit_reached" };
	case REASON_SHUTDOWN:
	case REASON_NO_MEMORY:
		return (struct answer){ 503, "proxy_internal_error" };
	case REASON_PICKUP_TIMEOUT:
		return (struct answer){ 504, "destination_unavailable" };
	case REASON_DIAL_TIMEOUT:
		return (struct answer){ 504, "connection_timeout" };
	default:
		return (struct answer){ 502, "proxy_internal_error" };
	}
}

int refusal_status(enum reason why)
{
	return answer_to(why).status;
}

int refusal_proxy_status(enum reason why, char text[REFUSAL_PROXY_STATUS_MAX])
{
	int len = snprintf(text, REFUSAL_PROXY_STATUS_MAX, "attest-relay; error=%s; details=\"%s\"",
			   answer_to(why).error, reason_word(why));

	assert(len > 0 && len < REFUSAL_PROXY_STATUS_MAX);
	return len;
}

static const char *phrase(int status)
{
	switch (status) {
	case 400:
		return "Bad Request";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 408:
		return "Request Timeout";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	default:
		return "Bad Gateway";
	}
}

static void write_http(struct conduit *c, enum reason why, const char *about)
{
	char text[1024], body[512], proxy_status[REFUSAL_PROXY_STATUS_MAX];
	int status = refusal_status(why), len;

	refusal_proxy_status(why, proxy_status);
	len = snprintf(body, sizeof(body), "attest-relay: %s (%s)\n", about, reason_word(why));
	if (len >= (int)sizeof(body))
		len = sizeof(body) - 1;
	len = snprintf(text, sizeof(text),
		       "HTTP/1.1 %d %s\r\n"
		       "Content-Type: text/plain; charset=utf-8\r\n"
		       "Content-Length: %d\r\n"
		       "Proxy-Status: %s\r\n"
		       "Connection: close\r\n"
		       "\r\n%s",
		       status, phrase(status), len, proxy_status, body);
	if (len < (int)sizeof(text))
		conduit_write(c, text, (size_t)len);
}

static uint8_t alert_of(enum reason why)
{
	switch (why) {
	case REASON_UNKNOWN_SERVICE:
	case REASON_NO_SNI:
		return ALERT_UNRECOGNIZED_NAME;
	case REASON_PROTOCOL:
	case REASON_TOO_LARGE:
		return ALERT_DECODE_ERROR;
	case REASON_FORBIDDEN:
	case REASON_EXPIRED:
	case REASON_REVOKED:
		return ALERT_ACCESS_DENIED;
	default:
		return ALERT_INTERNAL_ERROR;
	}
}

static void write_alert(struct conduit *c, enum reason why)
{
	const uint8_t record[] = { 21, 3, 3, 0, 2, 2, alert_of(why) };

	conduit_write(c, record, sizeof(record));
}

void refusal_write(struct conduit *client, enum door door, enum reason why, const char *about)
{
	if (client->ops->answer)
		client->ops->answer(client, why);
	else if (door & DOORS_HTTP)
		write_http(client, why, about);
	else if (door == DOOR_SNI)
		write_alert(client, why);
}

void refusal_send(struct conduit *client, enum door door, enum reason why, const char *about,
		  void (*over)(void *arg), void *arg)
{
	refusal_write(client, door, why, about);
	if (!client->ops->answer && door & (DOORS_HTTP | DOOR_SNI)) {
		linger_close(client, over, arg);
		return;
	}
	conduit_close(client, why);
	if (over)
		over(arg);
}
