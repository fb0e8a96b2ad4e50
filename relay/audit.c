/*
 * audit: one record for each stream, tunnel and refusal: who, what, when, how much, and why it
 * ended.
 *
 * Theory of operation: a record is written out by the thread that has it, into a buffer on its
 * stack, and handed to the sink as a text: one line of JSON, or what journald's socket takes,
 * KEY=value in lines. Which keys there are is one table; both formats go by it.
 *
 * A text longer than TEXT_MAX is cut, a field that has no room is left out, and "cut" says so:
 * what is left is JSON all the same. Who came and what for stand first, so what may be missing is
 * the detail.
 */
#include "relay/audit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "relay/failures.h"
#include "relay/line.h"
#include "relay/log.h"
#include "relay/log_out.h"

#define TEXT_MAX 600 /* longer than any address */

enum counted { NOTHING, REFUSED, SESSIONS, CLIENTS };

static const struct {
	const char *word, *id;
	int priority;
	enum counted counted;
} kinds[] = {
#define AUDIT(symbol, word, counted, priority, id, explanation) \
	[AUDIT_##symbol] = { word, id, priority, counted },
#include "relay/audit.def"
#undef AUDIT
};

#define IN(kind) (1u << AUDIT_##kind)
#define ENDS                                                                           \
	(IN(STREAM_END) | IN(STREAM_REFUSED) | IN(SESSION_END) | IN(SESSION_REFUSED) | \
	 IN(CONNECTION_END))

/* clang-format off: rows stay rows */
#define TEXT(key)                                           \
	{                                                   \
#key, offsetof(struct audit_record, key), 0 \
	}
#define NUMBER(key, in)                                      \
	{                                                    \
#key, offsetof(struct audit_record, key), in \
	}
static const struct {
	const char *key;
	size_t offset;
	unsigned in; /* NUMBER: kinds of which it says something; 0: TEXT */
} fields[] = {
	NUMBER(bytes_up, IN(STREAM_END)),
	NUMBER(bytes_down, IN(STREAM_END)),
	NUMBER(streams, IN(SESSION_END) | IN(CONNECTION_END)),
	NUMBER(duration_ms, ENDS),
	TEXT(listener),
	TEXT(door),
	TEXT(client),
	TEXT(via_proxy),
	TEXT(service),
	TEXT(owner),
	TEXT(carrier),
	TEXT(tunnel),
	TEXT(target_address),
	TEXT(client_rule),
	TEXT(credential),
	TEXT(client_identity),
	TEXT(serial),
	TEXT(target),
	TEXT(detail),
	TEXT(services),
};
/* clang-format on */
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

struct audit {
	struct audit_sink *sink;
	bool journal;
};

/* ---- writing out ---- */

/* One field; false: it is not there as a whole. */
static bool put_json(struct line *l, const char *key, const char *text, uint64_t number)
{
	size_t before = l->used;
	bool whole = true;

	line_text(l, ",\"");
	line_text(l, key);
	line_text(l, "\":");
	if (text)
		whole = line_json(l, text, TEXT_MAX);
	else
		line_number(l, number);
	if (l->size - l->used >= LINE_JSON_ROOM)
		return whole;
	l->used = before;
	return false;
}

/* At most TEXT_MAX bytes; false: it was cut. */
static bool put_plain(struct line *l, const char *text)
{
	size_t room = l->size - l->used;
	struct line value = { l->text, l->used, l->used + (room < TEXT_MAX ? room : TEXT_MAX) };
	size_t before = l->used;

	line_plain(&value, text);
	l->used = value.used;
	return l->used - before == strlen(text);
}

static bool put_journal(struct line *l, const char *key, const char *text, uint64_t number)
{
	size_t before = l->used;
	bool whole = true;

	line_text(l, "ATTEST_");
	for (; *key; key++)
		line_put(l, *key >= 'a' && *key <= 'z' ? (char)(*key - 'a' + 'A') : *key);
	line_put(l, '=');
	if (text)
		whole = put_plain(l, text);
	else
		line_number(l, number);
	line_put(l, '\n');
	if (l->size - l->used >= LINE_JSON_ROOM)
		return whole;
	l->used = before;
	return false;
}

static const char *text_or(const char *text, const char *otherwise)
{
	return text && *text ? text : otherwise;
}

static void put_message(struct line *l, const struct audit_record *r)
{
	line_text(l, "SYSLOG_IDENTIFIER=");
	line_text(l, program_invocation_short_name);
	line_text(l, "\nSYSLOG_FACILITY=10\nPRIORITY="); /* authpriv */
	line_number(l, (uint64_t)kinds[r->kind].priority);
	line_text(l, "\nMESSAGE_ID=");
	line_text(l, kinds[r->kind].id);
	line_text(l, "\nMESSAGE=");
	line_text(l, kinds[r->kind].word);
	if (r->client) {
		line_put(l, ' ');
		put_plain(l, r->client);
		line_text(l, " -> ");
		put_plain(l, text_or(r->service, text_or(r->tunnel, "?")));
	}
	if (r->why != REASON_NONE) {
		line_text(l, ": ");
		line_text(l, reason_word(r->why));
	}
	line_put(l, '\n');
}

static void put_head(struct line *l, const struct audit_record *r, bool journal)
{
	struct timespec now;

	if (journal) {
		put_message(l, r);
		put_journal(l, "event", kinds[r->kind].word, 0);
	} else {
		clock_gettime(CLOCK_REALTIME, &now);
		line_text(l, "{\"time\":\"");
		line_time(l, &now);
		line_text(l, "\",\"event\":\"");
		line_text(l, kinds[r->kind].word);
		line_put(l, '"');
	}
}

size_t audit_format(const struct audit_record *r, bool journal, uint64_t lost,
		    char text[AUDIT_RECORD_MAX])
{
	bool (*put)(struct line * l, const char *key, const char *value, uint64_t number) =
		journal ? put_journal : put_json;
	struct line l = { text, 0, AUDIT_RECORD_MAX };
	bool whole = true;

	put_head(&l, r, journal);
	if (r->id)
		put(&l, "id", NULL, r->id);
	if (r->why != REASON_NONE)
		put(&l, "reason", reason_word(r->why), 0);
	if (r->kind == AUDIT_RECORDS_LOST)
		put(&l, "lost", NULL, lost);
	for (size_t i = 0; i < FIELDS; i++) {
		const char *at = (const char *)r + fields[i].offset;
		const char *value;
		uint64_t number;

		if (fields[i].in) {
			memcpy(&number, at, sizeof(number));
			if (fields[i].in >> r->kind & 1)
				whole &= put(&l, fields[i].key, NULL, number);
		} else {
			memcpy(&value, at, sizeof(value));
			if (value && *value)
				whole &= put(&l, fields[i].key, value, 0);
		}
	}
	if (!whole)
		line_text(&l, journal ? "ATTEST_CUT=1\n" : ",\"cut\":true");
	if (!journal)
		line_text(&l, "}\n");
	return l.used;
}

/* ---- where it goes ---- */

static size_t say_lost(uint64_t lost, bool journal, char text[AUDIT_RECORD_MAX])
{
	const struct audit_record r = { .kind = AUDIT_RECORDS_LOST };

	return audit_format(&r, journal, lost, text);
}

static size_t say_lost_json(uint64_t lost, char text[AUDIT_RECORD_MAX])
{
	return say_lost(lost, false, text);
}

static size_t say_lost_journal(uint64_t lost, char text[AUDIT_RECORD_MAX])
{
	return say_lost(lost, true, text);
}

int audit_start(struct audit **to, const struct audit_config *config, char **why)
{
	bool file = config->file;
	struct audit *a;

	*to = NULL;
	*why = NULL;
	if (config->target == CONFIG_AUDIT_OFF ||
	    (config->target == CONFIG_AUDIT_AUTO && !file && !log_is_journal()))
		return 0;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -1;
	a->journal = !file;
	a->sink = audit_sink_new(file ? config->file : LOG_OUT_JOURNAL, a->journal,
				 file ? say_lost_json : say_lost_journal, why);
	if (a->sink) {
		*to = a;
		return 0;
	}
	free(a);
	if (file || config->target == CONFIG_AUDIT_JOURNAL)
		return -1;
	log_warning("audit: off: %s", *why ? *why : "out of memory"); /* nobody asked for it */
	free(*why);
	*why = NULL;
	return 0;
}

void audit_stop(struct audit *a)
{
	if (!a)
		return;
	audit_sink_free(a->sink);
	free(a);
}

const char *audit_event(enum audit_kind kind)
{
	return kinds[kind].word;
}

void audit_write(struct audit *a, struct counters *count, const struct audit_record *r)
{
	char text[AUDIT_RECORD_MAX];

	if (kinds[r->kind].counted == REFUSED)
		counter_add(&count->refused[r->why], 1);
	else if (kinds[r->kind].counted == SESSIONS)
		counter_add(&count->sessions[r->why], 1);
	else if (kinds[r->kind].counted == CLIENTS)
		counter_add(&count->h2_clients[r->why], 1);
	failures_note(r);
	if (a)
		audit_sink_put(a->sink, text, audit_format(r, a->journal, 0, text));
}

void audit_reopen(struct audit *a)
{
	if (a)
		audit_sink_reopen(a->sink);
}

struct audit_counts audit_counts(const struct audit *a)
{
	return a ? audit_sink_counts(a->sink) : (struct audit_counts){ 0 };
}
