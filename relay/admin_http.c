/*
 * admin_http: a connection of an admin listener: its requests one after the other, in and out.
 *
 * Theory of operation: HTTP/1.1 on a libevent bufferevent, whose heads httphead.c parses (strictly:
 * what two parsers could read differently is refused). HEAD -> BODY -> RUNNING -> WRITING -> HEAD
 * again, or LINGERING and closed. While a request runs or its reply is written, further bytes stay
 * in the kernel beyond a small buffer, so requests that are sent ahead wait their turn. The
 * deadline is for a whole request, however slowly its bytes come; a reply's clock is the
 * bufferevent's write timeout. Whoever answers bounds how long RUNNING takes. A request outlives
 * its connection: it loses its pointer to it, and its answer goes nowhere.
 *
 * Why not evhttp's own server: it has a clock for the next byte only, no limit of connections, and
 * shuts a socket down when it lets go of it, so that none could be handed on (admin_detach). Its
 * functions for queries, paths and headers are used.
 */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <json-c/json_tokener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "relay/admin_private.h"
#include "relay/httphead.h"

#define LINGER_S 2
#define BODY_DEPTH_MAX 16 /* of JSON */
#define DATE_SIZE 40

static const struct {
	int status;
	const char *text;
} statuses[] = {
	{ 200, "OK" },
	{ 202, "Accepted" },
	{ 204, "No Content" },
	{ 304, "Not Modified" },
	{ 400, "Bad Request" },
	{ 403, "Forbidden" },
	{ 404, "Not Found" },
	{ 405, "Method Not Allowed" },
	{ 409, "Conflict" },
	{ 411, "Length Required" },
	{ 413, "Content Too Large" },
	{ 421, "Misdirected Request" },
	{ 422, "Unprocessable Content" },
	{ 426, "Upgrade Required" },
	{ 431, "Request Header Fields Too Large" },
	{ 500, "Internal Server Error" },
	{ 501, "Not Implemented" },
	{ 503, "Service Unavailable" },
	{ 504, "Gateway Timeout" },
};

static const char *status_text(int status)
{
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].status == status)
			return statuses[i].text;
	return "Status";
}

/* ---- the end ---- */

void admin_connection_free(struct admin_connection *c)
{
	struct admin_listener *l = c->listener;

	if (c->request) {
		c->request->connection = NULL;
		/* One whose body was still read has nobody who would answer it. */
		if (c->state == ADMIN_READING_BODY)
			admin_request_free(c->request);
	}
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	if (c->stream)
		bufferevent_free(c->stream);
	if (c->deadline)
		event_free(c->deadline);
	free(c);
	admin_connection_gone(l);
}

/* A close with bytes unread would be a reset, and take the reply from a slow reader. */
static void linger(struct admin_connection *c)
{
	const struct timeval limit = { .tv_sec = LINGER_S };
	struct evbuffer *in = bufferevent_get_input(c->stream);

	if (c->ended) {
		admin_connection_free(c);
		return;
	}
	c->state = ADMIN_LINGERING;
	evbuffer_drain(in, evbuffer_get_length(in));
	shutdown(bufferevent_getfd(c->stream), SHUT_WR);
	evtimer_add(c->deadline, &limit);
}

/* ---- a request in ---- */

static void await_request(struct admin_connection *c)
{
	const struct timeval limit = { .tv_sec = ADMIN_TIMEOUT_S };

	c->state = ADMIN_READING_HEAD;
	evtimer_add(c->deadline, &limit);
}

static char *copy(struct httphead_slice s)
{
	return s.at ? strndup(s.at, s.len) : NULL;
}

/* evhttp wants a value with each name, and none to be empty: "a&&b" becomes "a=&b=". */
static bool take_query(struct admin_request *r, char *query)
{
	char *whole = malloc(2 * strlen(query) + 2), *end = whole, *part;
	bool good;

	if (!whole)
		return false;
	*end = '\0';
	while ((part = strsep(&query, "&")))
		if (*part)
			end += sprintf(end, "%s%s%s", end == whole ? "" : "&", part,
				       strchr(part, '=') ? "" : "=");
	good = end == whole || evhttp_parse_query_str(whole, &r->query) == 0;
	free(whole);
	return good;
}

/* Splits the target, which must be a path. */
static bool take_target(struct admin_request *r, struct httphead_slice target)
{
	char *text = copy(target), *query = text ? strchr(text, '?') : NULL;
	bool good = text && text[0] == '/' && !strchr(text, '#');
	size_t len = 0;

	if (query)
		*query++ = '\0';
	if (good && query)
		good = take_query(r, query);
	if (good) {
		r->path = evhttp_uridecode(text, 0, &len);
		good = r->path && strlen(r->path) == len; /* no NUL inside */
	}
	free(text);
	return good;
}

static bool take_headers(struct admin_request *r, const struct httphead *h)
{
	for (unsigned i = 0; i < h->lines; i++) {
		char *name = copy(h->line[i].name), *value = copy(h->line[i].value);
		bool good = name && value && evhttp_add_header(&r->headers, name, value) == 0;

		free(name);
		free(value);
		if (!good)
			return false;
	}
	return true;
}

/* Of the body: false if it is said twice, or no number. */
static bool body_length(const struct httphead *h, size_t *len)
{
	struct httphead_slice s = httphead_get(h, "Content-Length");
	size_t value = 0;

	*len = 0;
	if (!s.at)
		return true;
	if (httphead_count(h, "Content-Length") != 1 || s.len == 0)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		if (s.at[i] < '0' || s.at[i] > '9')
			return false;
		if (value <= ADMIN_BODY_MAX) /* beyond it is too much, however much */
			value = value * 10 + (size_t)(s.at[i] - '0');
	}
	*len = value;
	return true;
}

static struct admin_request *request_new(struct admin_connection *c)
{
	struct admin_request *r = calloc(1, sizeof(*r));
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (!r)
		return NULL;
	TAILQ_INIT(&r->query);
	TAILQ_INIT(&r->headers);
	TAILQ_INIT(&r->reply_headers);
	r->admin = c->admin;
	r->connection = c;
	r->scopes = c->listener->scopes;
	r->local = c->listener->address.kind == ADDRESS_UNIX;
	r->unnamed = r->local && c->listener->address.name[0] == '@';
	if (r->local &&
	    getsockopt(bufferevent_getfd(c->stream), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
		r->peer_known = true;
		r->uid = peer.uid;
		r->pid = peer.pid;
	}
	r->next = c->admin->requests;
	r->at = &c->admin->requests;
	if (r->next)
		r->next->at = &r->next;
	c->admin->requests = r;
	c->request = r;
	return r;
}

/* The answer to what is no good request; what follows it would be in doubt. */
static void refuse(struct admin_connection *c, int status, const char *code, const char *why)
{
	struct admin_request *r = c->request ? c->request : request_new(c);

	if (!r) {
		c->ended = true; /* and so its end */
		return;
	}
	r->keep = false;
	c->state = ADMIN_RUNNING;
	admin_fail(r, status, code, "%s", why);
}

/* The head's request. False: it was refused. */
static bool take_head(struct admin_connection *c, const struct httphead *h)
{
	struct admin_request *r = request_new(c);
	size_t len;

	if (!r || !(r->method = copy(h->method)) || !take_headers(r, h))
		return refuse(c, 500, "memory", "out of memory"), false;
	r->keep = h->minor >= 1 ? !httphead_has_token(h, "Connection", "close")
				: httphead_has_token(h, "Connection", "keep-alive");
	r->head = strcmp(r->method, "HEAD") == 0;
	r->get = r->head || strcmp(r->method, "GET") == 0;
	if (!take_target(r, h->target))
		return refuse(c, 400, "bad-request", "the target is not a path"), false;
	if (h->minor >= 1 && !httphead_get(h, "Host").at)
		return refuse(c, 400, "bad-request", "no Host header"), false;
	if (httphead_get(h, "Transfer-Encoding").at)
		return refuse(c, 411, "length-required", "a body needs a Content-Length"), false;
	if (!body_length(h, &len))
		return refuse(c, 400, "bad-request", "Content-Length is not a number"), false;
	if (len > ADMIN_BODY_MAX)
		return refuse(c, 413, "too-large", "the body is too large"), false;
	r->body_len = len;
	return true;
}

static void read_head(struct admin_connection *c)
{
	struct evbuffer *in = bufferevent_get_input(c->stream);
	size_t len = evbuffer_get_length(in), look = len < ADMIN_HEAD_MAX ? len : ADMIN_HEAD_MAX;
	struct httphead head;
	const void *data = evbuffer_pullup(in, (ev_ssize_t)look);
	enum httphead_result result;

	result = len ? httphead_parse(data, look, &head) : HTTPHEAD_MORE;
	if (result == HTTPHEAD_MORE && len < ADMIN_HEAD_MAX)
		return;
	if (result == HTTPHEAD_BAD) {
		refuse(c, 400, "bad-request", head.why);
		return;
	}
	if (result != HTTPHEAD_OK) {
		refuse(c, 431, "too-large", "the request's head is too large");
		return;
	}
	if (!take_head(c, &head))
		return;
	c->state = ADMIN_READING_BODY;
	evbuffer_drain(in, head.len);
	if (c->request->body_len > evbuffer_get_length(in) &&
	    evhttp_find_header(&c->request->headers, "Expect"))
		bufferevent_write(c->stream, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

static struct json_object *parse_body(const void *data, size_t len)
{
	struct json_tokener *tokener = json_tokener_new_ex(BODY_DEPTH_MAX);
	struct json_object *o = NULL;

	if (!tokener)
		return NULL;
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	o = json_tokener_parse_ex(tokener, data, (int)len);
	if (json_tokener_get_error(tokener) != json_tokener_success ||
	    json_tokener_get_parse_end(tokener) != len ||
	    !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		o = NULL;
	}
	json_tokener_free(tokener);
	return o;
}

/* May hand c's descriptor on, and free c. */
static void run(struct admin_connection *c)
{
	struct evbuffer *in = bufferevent_get_input(c->stream);
	struct admin_request *r = c->request;

	if (r->body_len)
		r->body = parse_body(evbuffer_pullup(in, (ev_ssize_t)r->body_len), r->body_len);
	evbuffer_drain(in, r->body_len);
	evtimer_del(c->deadline);
	c->state = ADMIN_RUNNING;
	admin_dispatch(r);
}

/* What can be done with what has come. May free c. */
static void advance(struct admin_connection *c)
{
	struct evbuffer *in = bufferevent_get_input(c->stream);

	if (c->state == ADMIN_READING_HEAD)
		read_head(c);
	if (c->state == ADMIN_READING_BODY && evbuffer_get_length(in) >= c->request->body_len)
		run(c);
	else if (c->ended && (c->state == ADMIN_READING_HEAD || c->state == ADMIN_READING_BODY))
		admin_connection_free(c);
}

/* ---- a reply out ---- */

static void put_headers(struct evbuffer *out, const struct admin_request *r, int status,
			const char *type, size_t len, bool keep)
{
	const struct evkeyval *header;
	time_t now = time(NULL);
	char date[DATE_SIZE];
	struct tm tm;

	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
	evbuffer_add_printf(out, "Date: %s\r\n", date);
	/* these have no body, and 304's would be the length of what it stands for */
	if (status != 204 && status != 304)
		evbuffer_add_printf(out, "Content-Length: %zu\r\n", len);
	if (type)
		evbuffer_add_printf(out, "Content-Type: %s\r\n", type);
	for (header = r->reply_headers.tqh_first; header; header = header->next.tqe_next)
		evbuffer_add_printf(out, "%s: %s\r\n", header->key, header->value);
	if (!evhttp_find_header(&r->reply_headers, "Cache-Control"))
		evbuffer_add_printf(out, "Cache-Control: no-store\r\n");
	if (!evhttp_find_header(&r->reply_headers, "Content-Security-Policy"))
		evbuffer_add_printf(out, "Content-Security-Policy: default-src 'self'; base-uri "
					 "'none'; form-action 'none'; frame-ancestors 'none'\r\n");
	evbuffer_add_printf(out,
			    "X-Content-Type-Options: nosniff\r\n"
			    "Referrer-Policy: no-referrer\r\n"
			    "Cross-Origin-Resource-Policy: same-origin\r\n%s\r\n",
			    keep ? "" : "Connection: close\r\n");
}

void admin_connection_reply(struct admin_request *r, int status, const char *type,
			    struct evbuffer *body)
{
	struct admin_connection *c = r->connection;

	if (c) {
		struct evbuffer *out = bufferevent_get_output(c->stream);

		evtimer_del(c->deadline);
		c->request = NULL;
		c->state = ADMIN_WRITING;
		c->closing = !r->keep;
		evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\n", status, status_text(status));
		put_headers(out, r, status, type, body ? evbuffer_get_length(body) : 0, r->keep);
		if (body && !r->head)
			evbuffer_add_buffer(out, body);
	}
	admin_request_free(r);
}

int admin_connection_detach(struct admin_connection *c)
{
	int fd = bufferevent_getfd(c->stream);

	if (evbuffer_get_length(bufferevent_get_input(c->stream)) ||
	    evbuffer_get_length(bufferevent_get_output(c->stream)))
		return -1; /* sent ahead: it would be lost */
	bufferevent_setfd(c->stream, -1);
	c->state = ADMIN_LINGERING;
	admin_connection_free(c);
	return fd;
}

/* ---- its events ---- */

static void on_read(struct bufferevent *stream, void *arg)
{
	struct admin_connection *c = arg;
	struct evbuffer *in = bufferevent_get_input(stream);

	if (c->state == ADMIN_LINGERING)
		evbuffer_drain(in, evbuffer_get_length(in));
	else
		advance(c);
}

static void on_written(struct bufferevent *stream, void *arg)
{
	struct admin_connection *c = arg;

	if (c->state != ADMIN_WRITING)
		return;
	if (c->closing) {
		linger(c);
		return;
	}
	await_request(c);
	advance(c); /* what was sent ahead */
}

static void on_event(struct bufferevent *stream, short what, void *arg)
{
	struct admin_connection *c = arg;

	c->ended = true;
	/* A peer may end its direction and wait for the answer. */
	if ((what & BEV_EVENT_EOF) && (c->state == ADMIN_RUNNING || c->state == ADMIN_WRITING))
		return;
	admin_connection_free(c);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	admin_connection_free(arg);
}

void admin_connection_start(struct admin_listener *l, int fd)
{
	const struct timeval limit = { .tv_sec = ADMIN_TIMEOUT_S };
	struct admin_connection *c = calloc(1, sizeof(*c));
	struct admin *a = l->admin;

	if (!c) {
		close(fd);
		admin_connection_gone(l);
		return;
	}
	c->admin = a;
	c->listener = l;
	c->next = a->connections;
	c->at = &a->connections;
	if (c->next)
		c->next->at = &c->next;
	a->connections = c;
	c->deadline = evtimer_new(a->base, on_deadline, c);
	c->stream = bufferevent_socket_new(a->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!c->stream)
		close(fd);
	if (!c->deadline || !c->stream) {
		admin_connection_free(c);
		return;
	}
	bufferevent_setcb(c->stream, on_read, on_written, on_event, c);
	bufferevent_setwatermark(c->stream, EV_READ, 0, ADMIN_HEAD_MAX + ADMIN_BODY_MAX);
	bufferevent_set_timeouts(c->stream, NULL, &limit);
	await_request(c);
	bufferevent_enable(c->stream, EV_READ | EV_WRITE);
}
