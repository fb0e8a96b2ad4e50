/*
 * refusal: each door's own words for "no".
 *
 * Theory of operation: one small write into a socket to which nothing was sent yet, so it fits or
 * the peer is gone; then an orderly close in the background, so that the words arrive.
 *
 *   sni      a fatal TLS alert in plaintext, as a server may send before its first flight:
 *            unrecognized_name (RFC 6066) if there is no such service, else internal_error
 *   connect, websocket
 *            an HTTP/1.1 answer with a status and one line for people; to a stream, its answer
 *   static   RST: nothing else is common to all protocols
 */
#include "relay/refusal.h"

#include <stdio.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/linger.h"

#define ALERT_UNRECOGNIZED_NAME 112
#define ALERT_INTERNAL_ERROR 80
#define ALERT_DECODE_ERROR 50

int refusal_status(enum reason why)
{
	switch (why) {
	case REASON_PROTOCOL:
	case REASON_NO_DOOR:
		return 400;
	case REASON_FORBIDDEN:
		return 403;
	case REASON_UNKNOWN_SERVICE:
		return 404;
	case REASON_HANDSHAKE_TIMEOUT:
		return 408;
	case REASON_TOO_LARGE:
		return 431;
	case REASON_PICKUP_TIMEOUT:
	case REASON_DIAL_TIMEOUT:
		return 504;
	case REASON_LIMIT:
	case REASON_AGENT_REFUSED:
	case REASON_GOING_AWAY:
	case REASON_SHUTDOWN:
	case REASON_NO_MEMORY:
		return 503;
	default:
		return 502;
	}
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
	char text[1024], body[512];
	int status = refusal_status(why), len;

	len = snprintf(body, sizeof(body), "attest-relay: %s (%s)\n", about, reason_word(why));
	if (len >= (int)sizeof(body))
		len = sizeof(body) - 1;
	len = snprintf(text, sizeof(text),
		       "HTTP/1.1 %d %s\r\n"
		       "Content-Type: text/plain; charset=utf-8\r\n"
		       "Content-Length: %d\r\n"
		       "Connection: close\r\n"
		       "\r\n%s",
		       status, phrase(status), len, body);
	if (len < (int)sizeof(text))
		conduit_write(c, text, (size_t)len);
}

static void write_alert(struct conduit *c, enum reason why)
{
	uint8_t description = why == REASON_UNKNOWN_SERVICE || why == REASON_NO_SNI ?
				      ALERT_UNRECOGNIZED_NAME :
			      why == REASON_PROTOCOL || why == REASON_TOO_LARGE ?
				      ALERT_DECODE_ERROR :
				      ALERT_INTERNAL_ERROR;
	const uint8_t record[] = { 21, 3, 3, 0, 2, 2, description };

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
