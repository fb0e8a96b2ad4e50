/*
 * message: the header blocks of a session, and control exchanges.
 *
 * Theory of operation: nghttp2 tells a block as begin, field.., end; blocks never interleave, so
 * the session has one struct message that each begin empties. Only control messages keep their
 * fields (struct fields, 18 KB, from the first field to the end of the block); of a stream's
 * messages only what the protocol names is kept. A block over the limits is reset at the field that
 * breaks them: nghttp2 then decodes the rest for HPACK's sake and tells us no more of it.
 *
 * A control exchange is told to its user when its header block is complete; no body means anything,
 * so one is counted and dropped. Its slot is free again when HTTP/2 has closed the stream. Bounds:
 * EXCHANGES_MAX slots, EXCHANGE_BODY_MAX bytes, FIELDS_MAX fields, FIELDS_BYTES_MAX bytes.
 */
#include "tunnel/message.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tunnel/session_private.h"

#define NV(n, v, f)                                                                    \
	{                                                                              \
		.name = (uint8_t *)(n), .namelen = strlen(n), .value = (uint8_t *)(v), \
		.valuelen = strlen(v), .flags = (f)                                    \
	}

static const struct fields no_fields;

static struct exchange *exchange_find(struct session *s, int32_t id)
{
	for (unsigned i = 0; i < EXCHANGES_MAX; i++)
		if (s->exchanges[i].id == id)
			return &s->exchanges[i];
	return NULL;
}

unsigned exchange_count(const struct session *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < EXCHANGES_MAX; i++)
		n += s->exchanges[i].id != 0;
	return n;
}

static struct exchange *exchange_add(struct session *s, int32_t id)
{
	struct exchange *e = exchange_find(s, 0);

	if (e)
		*e = (struct exchange){ .id = id };
	return e;
}

void exchange_body(struct session *s, int32_t id, size_t len)
{
	struct exchange *e = exchange_find(s, id);

	nghttp2_session_consume_stream(s->h2, id, len);
	if (!e) /* being reset */
		return;
	e->body += (uint32_t)len;
	if (e->body > EXCHANGE_BODY_MAX)
		session_begin_close(s, REASON_TOO_LARGE,
				    "a control exchange with a body of over %d bytes",
				    EXCHANGE_BODY_MAX);
}

void exchange_closed(struct session *s, int32_t id)
{
	struct exchange *e = exchange_find(s, id);
	bool answered;

	if (!e)
		return;
	answered = e->answered;
	e->id = 0;
	if (s->role == SESSION_CLIENT && !answered && s->phase == PHASE_OPEN)
		s->events->reply(s, id, 0, &no_fields);
	session_check_idle(s);
}

void message_deinit(struct message *m)
{
	if (m->fields) /* a credential may be among them */
		explicit_bzero(m->fields, sizeof(*m->fields));
	free(m->fields);
	m->fields = NULL;
}

int message_begin(nghttp2_session *h2, const nghttp2_frame *frame, void *session)
{
	struct message *m = &((struct session *)session)->message;

	message_deinit(m);
	m->method = MESSAGE_METHOD_NONE;
	m->status = 0;
	m->n = 0;
	m->bytes = 0;
	m->authority[0] = m->path[0] = m->id[0] = m->client[0] = m->asked[0] = m->word[0] = '\0';
	m->names[0] = m->rule[0] = '\0';
	return 0;
}

/* Copies what fits whole and is plain text; otherwise to stays "". */
static void keep(char *to, size_t size, const uint8_t *value, size_t len)
{
	if (len >= size)
		return;
	for (size_t i = 0; i < len; i++)
		if (value[i] <= ' ' || value[i] >= 0x7f)
			return;
	memcpy(to, value, len);
	to[len] = '\0';
}

static void keep_pseudo(struct message *m, const char *name, const uint8_t *value, size_t len)
{
	if (strcmp(name, ":method") == 0) {
		if (strcmp((const char *)value, "CONNECT") == 0)
			m->method = MESSAGE_CONNECT;
		else if (strcmp((const char *)value, "POST") == 0)
			m->method = MESSAGE_POST;
		else
			m->method = MESSAGE_OTHER;
	} else if (strcmp(name, ":authority") == 0) {
		keep(m->authority, sizeof(m->authority), value, len);
	} else if (strcmp(name, ":path") == 0) {
		keep(m->path, sizeof(m->path), value, len);
	} else if (strcmp(name, ":status") == 0) {
		m->status = atoi((const char *)value); /* nghttp2 has checked: three digits */
	}
}

/* What a stream's request says of the client. */
static void keep_word(struct message *m, const char *name, const uint8_t *value, size_t len)
{
	if (strcmp(name, "attest-stream") == 0)
		keep(m->id, sizeof(m->id), value, len);
	else if (strcmp(name, "attest-client") == 0)
		keep(m->client, sizeof(m->client), value, len);
	else if (strcmp(name, "attest-authority") == 0)
		keep(m->asked, sizeof(m->asked), value, len);
	else if (strcmp(name, "attest-client-certificate") == 0)
		keep(m->names, sizeof(m->names), value, len);
	else if (strcmp(name, "attest-client-rule") == 0)
		keep(m->rule, sizeof(m->rule), value, len);
}

/* Whether the fields of this block are for a control exchange's user. */
static bool wants_fields(struct session *s, const nghttp2_frame *frame)
{
	if (s->role == SESSION_SERVER)
		return frame->headers.cat == NGHTTP2_HCAT_REQUEST &&
		       s->message.method == MESSAGE_POST;
	return exchange_find(s, frame->hd.stream_id) != NULL;
}

int message_field(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
		  size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
		  void *session)
{
	struct session *s = session;
	struct message *m = &s->message;
	const char *key = (const char *)name;

	m->bytes += name_len + value_len + 2;
	/* pseudo-headers are few and not the user's: they may come on top of FIELDS_MAX */
	if (++m->n > FIELDS_MAX + 4 || m->bytes > FIELDS_BYTES_MAX)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (key[0] == ':') {
		keep_pseudo(m, key, value, value_len);
		return 0;
	}
	if (m->method == MESSAGE_CONNECT) {
		keep_word(m, key, value, value_len);
		return 0;
	}
	if (!wants_fields(s, frame)) {
		if (s->role == SESSION_CLIENT && strcmp(key, "attest-reason") == 0)
			keep(m->word, sizeof(m->word), value, value_len);
		return 0;
	}
	if (!m->fields) {
		m->fields = malloc(sizeof(*m->fields));
		if (!m->fields)
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
		fields_init(m->fields);
	}
	if (fields_add(m->fields, key, (const char *)value, flags & NGHTTP2_NV_FLAG_NO_INDEX) < 0)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	return 0;
}

static void refuse(struct session *s, int32_t id, uint32_t code)
{
	nghttp2_submit_rst_stream(s->h2, NGHTTP2_FLAG_NONE, id, code);
	session_schedule(s);
}

static void got_connect(struct session *s, const nghttp2_frame *frame)
{
	struct message *m = &s->message;
	const struct client_words words = { .id = m->id,
					    .address = m->client,
					    .asked = m->asked,
					    .names = m->names,
					    .rule = m->rule };
	int32_t id = frame->hd.stream_id;
	struct stream *st;
	enum reason why;

	for (char *p = m->authority; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	if (s->phase != PHASE_OPEN || s->n_streams >= s->limits.streams) {
		refuse(s, id, NGHTTP2_REFUSED_STREAM);
		return;
	}
	st = stream_new(s, id);
	if (!st) {
		refuse(s, id, NGHTTP2_REFUSED_STREAM);
		return;
	}
	nghttp2_session_set_stream_user_data(s->h2, id, st);
	st->eof_in = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	s->opened++;
	why = s->events->accept(s, &st->base, m->authority, &words);
	if (why != REASON_NONE)
		conduit_close(&st->base, why);
}

/* The answer to what is neither a stream nor a control request. */
static void answer_plain(struct session *s, int32_t id, const char *status)
{
	nghttp2_nv nv[] = {
		NV(":status", status, NGHTTP2_NV_FLAG_NONE),
		NV("allow", s->events->request ? "CONNECT, POST" : "CONNECT", NGHTTP2_NV_FLAG_NONE),
	};

	/* RFC 9110 15.5.6: a 405 says what is allowed */
	nghttp2_submit_response(s->h2, id, nv, strcmp(status, "405") == 0 ? 2 : 1, NULL);
	session_schedule(s);
}

/*
 * Who has its whole answer need not say the rest (RFC 9113 8.1). Not submitted with the answer:
 * nghttp2 would send the reset first, and then no answer.
 */
void message_answered(struct session *s, int32_t id)
{
	if (!exchange_find(s, id) && nghttp2_session_get_stream_remote_close(s->h2, id) == 0)
		refuse(s, id, NGHTTP2_NO_ERROR);
}

static const struct fields *fields_of(const struct message *m)
{
	return m->fields ? m->fields : &no_fields;
}

static void got_post(struct session *s, const nghttp2_frame *frame)
{
	int32_t id = frame->hd.stream_id;
	const struct fields *f = fields_of(&s->message);

	if (s->phase != PHASE_OPEN || !exchange_add(s, id))
		refuse(s, id, NGHTTP2_REFUSED_STREAM);
	else
		s->events->request(s, id, s->message.path, f);
}

static void got_request(struct session *s, const nghttp2_frame *frame)
{
	enum message_method method = s->message.method;

	if (method == MESSAGE_CONNECT)
		got_connect(s, frame);
	else if (method != MESSAGE_POST || !s->events->request)
		answer_plain(s, frame->hd.stream_id, "405");
	else if (s->message.path[0])
		got_post(s, frame);
	else /* longer than any path of this protocol */
		answer_plain(s, frame->hd.stream_id, "404");
}

static void got_answer(struct session *s, const nghttp2_frame *frame)
{
	int32_t id = frame->hd.stream_id;
	int status = s->message.status;
	struct stream *st = nghttp2_session_get_stream_user_data(s->h2, id);
	struct exchange *e = exchange_find(s, id);

	if (status < 200) /* interim, or trailers */
		return;
	if (st && status == 200) {
		stream_on_open(st);
	} else if (st) {
		stream_on_refused(st, status, s->message.word,
				  frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
	} else if (e && !e->answered) {
		e->answered = true;
		if (s->phase == PHASE_OPEN)
			s->events->reply(s, id, status, fields_of(&s->message));
	}
}

void message_end(struct session *s, const nghttp2_frame *frame)
{
	if (s->role == SESSION_CLIENT)
		got_answer(s, frame);
	else if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		got_request(s, frame);
	message_deinit(&s->message);
}

/* Fills nv after its first n pseudo-headers. Returns how many there are. */
static size_t fill(nghttp2_nv *nv, size_t n, const struct fields *f)
{
	for (unsigned i = 0; f && i < f->n; i++)
		nv[n++] = (nghttp2_nv)NV(f->at[i].name, f->at[i].value,
					 f->at[i].secret ? NGHTTP2_NV_FLAG_NO_INDEX
							 : NGHTTP2_NV_FLAG_NONE);
	return n;
}

static size_t add_word(nghttp2_nv *nv, size_t n, const char *name, const char *value, uint8_t flags)
{
	if (!value || !*value)
		return n;
	nv[n] = (nghttp2_nv)NV(name, value, flags);
	return n + 1;
}

size_t message_connect(nghttp2_nv nv[MESSAGE_CONNECT_FIELDS], const char *authority,
		       const struct client_words *words)
{
	size_t n = 2;

	nv[0] = (nghttp2_nv)NV(":method", "CONNECT", NGHTTP2_NV_FLAG_NONE);
	nv[1] = (nghttp2_nv)NV(":authority", authority, NGHTTP2_NV_FLAG_NONE);
	if (!words)
		return n;
	/* what differs each time would only push others out of the HPACK table */
	n = add_word(nv, n, "attest-stream", words->id, NGHTTP2_NV_FLAG_NO_INDEX);
	n = add_word(nv, n, "attest-client", words->address, NGHTTP2_NV_FLAG_NO_INDEX);
	n = add_word(nv, n, "attest-authority", words->asked, NGHTTP2_NV_FLAG_NONE);
	n = add_word(nv, n, "attest-client-certificate", words->names, NGHTTP2_NV_FLAG_NONE);
	return add_word(nv, n, "attest-client-rule", words->rule, NGHTTP2_NV_FLAG_NONE);
}

int32_t session_request(struct session *s, const char *path, const struct fields *f)
{
	nghttp2_nv nv[4 + FIELDS_MAX] = {
		NV(":method", "POST", NGHTTP2_NV_FLAG_NONE),
		NV(":scheme", "https", NGHTTP2_NV_FLAG_NONE),
		NV(":authority", "relay", NGHTTP2_NV_FLAG_NONE),
		NV(":path", path, NGHTTP2_NV_FLAG_NONE),
	};
	int32_t id;

	if (s->phase != PHASE_OPEN || s->goaway_seen || !exchange_find(s, 0))
		return -1;
	id = nghttp2_submit_request(s->h2, NULL, nv, fill(nv, 4, f), NULL, NULL);
	if (id < 0)
		return -1;
	exchange_add(s, id);
	session_schedule(s);
	return id;
}

void session_reply(struct session *s, int32_t id, int status, const struct fields *f)
{
	struct exchange *e = exchange_find(s, id);
	char text[8];
	nghttp2_nv nv[1 + FIELDS_MAX];

	if (id <= 0 || !e || e->answered || s->phase != PHASE_OPEN)
		return;
	snprintf(text, sizeof(text), "%03d", status < 100 || status > 999 ? 500 : status);
	nv[0] = (nghttp2_nv)NV(":status", text, NGHTTP2_NV_FLAG_NONE);
	e->answered = true;
	nghttp2_submit_response(s->h2, id, nv, fill(nv, 1, f), NULL);
	session_schedule(s);
}
