/*
 * log: one line per fact, whole lines only.
 *
 * Theory of operation: a line is formatted into a buffer on the stack (LINE_SIZE bytes; longer text
 * is cut and marked) and leaves in one write(2) or one datagram (log_out), so lines of several
 * threads never mix. Text for a terminal or a file has a time-stamp; for the journal, which has its
 * own, not. Control characters from outside are replaced: nobody forges a line. The settings are
 * atomic: a reload changes them.
 */
#include "relay/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>

#include "relay/line.h"
#include "relay/log_out.h"

#define LINE_SIZE 2048
#define FIELDS_LIMIT 24
#define FIELD_SIZE 640

static const char *const level_words[] = { "error", "warning", "info", "debug" };
static const int level_priority[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
_Static_assert(sizeof(level_words) / sizeof(level_words[0]) == LOG_LEVELS, "a word for each level");

static atomic_int current_level = LOG_LEVEL_INFO;
static atomic_int current_format = LOG_FORMAT_TEXT;
static atomic_bool to_journal;

/* True when stderr is the stream that systemd says it is (sd_journal_stream_fd(3)). */
static bool stderr_is_journal(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	if (!text || sscanf(text, "%llu:%llu", &device, &inode) != 2 || fstat(2, &st) < 0)
		return false;
	return st.st_dev == device && st.st_ino == inode;
}

static bool is_for_journal(enum log_target target)
{
	return target == LOG_TARGET_JOURNAL || (target == LOG_TARGET_AUTO && stderr_is_journal());
}

void log_setup(enum log_level level, enum log_format format, enum log_target target)
{
	log_out_setup(is_for_journal(target));
	log_change(level, format, target);
}

void log_change(enum log_level level, enum log_format format, enum log_target target)
{
	bool journal = is_for_journal(target);

	log_set_level(level);
	if (journal)
		log_out_journal();
	atomic_store(&current_format, (int)format);
	atomic_store(&to_journal, journal); /* after what it needs */
}

void log_set_level(enum log_level level)
{
	atomic_store(&current_level, (int)level);
}

bool log_is_journal(void)
{
	return atomic_load(&to_journal);
}

uint64_t log_lost(void)
{
	return log_out_lost();
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&current_level, memory_order_relaxed);
}

static void put_now(struct line *l)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	line_time(l, &now);
}

static void to_stderr_text(enum log_level level, const char *message)
{
	char text[LINE_SIZE];
	struct line l = { text, 0, sizeof(text) - 1 }; /* and the newline */

	put_now(&l);
	line_put(&l, ' ');
	line_text(&l, level_words[level]);
	line_text(&l, ": ");
	line_plain(&l, message);
	text[l.used++] = '\n';
	if (!log_out_put(false, text, l.used))
		log_out_lose();
}

static void to_stderr_json(enum log_level level, const struct log_field *fields, unsigned n,
			   const char *message)
{
	char text[LINE_SIZE];
	struct line l = { text, 0, sizeof(text) - 1 };

	line_text(&l, "{\"time\":\"");
	put_now(&l);
	line_text(&l, "\",\"level\":\"");
	line_text(&l, level_words[level]);
	line_text(&l, "\",\"message\":");
	line_json(&l, message, LINE_SIZE);
	for (unsigned i = 0; i < n; i++) {
		size_t before = l.used;
		bool whole;

		line_put(&l, ',');
		whole = line_json(&l, fields[i].key, LINE_SIZE);
		line_put(&l, ':');
		if (fields[i].text)
			whole &= line_json(&l, fields[i].text, LINE_SIZE);
		else
			line_number(&l, fields[i].number);
		if (!whole || l.size - l.used < LINE_JSON_ROOM) {
			l.used = before;
			break;
		}
	}
	line_put(&l, '}');
	text[l.used++] = '\n';
	if (!log_out_put(false, text, l.used))
		log_out_lose();
}

/* As it is named there: in capitals, with '_'. */
static void put_field(struct line *l, const struct log_field *f)
{
	struct line to = { l->text, l->used, l->used + FIELD_SIZE - 1 }; /* and the newline */

	for (const char *k = f->key; *k; k++)
		line_put(&to, *k == '-'                ? '_'
			      : *k >= 'a' && *k <= 'z' ? (char)(*k - 'a' + 'A')
						       : *k);
	line_put(&to, '=');
	if (f->text)
		line_plain(&to, f->text);
	else
		line_number(&to, f->number);
	l->used = to.used;
	l->text[l->used++] = '\n';
}

/* journald's native protocol: KEY=value in lines, one datagram. */
static void to_journald(enum log_level level, const struct log_field *fields, unsigned n,
			const char *message)
{
	char text[LINE_SIZE + FIELDS_LIMIT * FIELD_SIZE];
	struct line l = { text, 0, LINE_SIZE - 1 };

	line_text(&l, "SYSLOG_IDENTIFIER=");
	line_text(&l, program_invocation_short_name);
	line_text(&l, "\nPRIORITY=");
	line_number(&l, (uint64_t)level_priority[level]);
	line_text(&l, "\nMESSAGE=");
	line_plain(&l, message);
	text[l.used++] = '\n';
	for (unsigned i = 0; i < n && i < FIELDS_LIMIT; i++)
		put_field(&l, &fields[i]);
	if (!log_out_put(true, text, l.used))
		to_stderr_text(level, message);
}

void log_fields(enum log_level level, const struct log_field *fields, unsigned n, const char *fmt,
		...)
{
	char message[LINE_SIZE - 256];
	int saved = errno;
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	if (vsnprintf(message, sizeof(message), fmt, ap) >= (int)sizeof(message))
		strcpy(message + sizeof(message) - 4, "...");
	va_end(ap);
	if (atomic_load_explicit(&to_journal, memory_order_acquire))
		to_journald(level, fields, n, message);
	else if (atomic_load_explicit(&current_format, memory_order_relaxed) == LOG_FORMAT_JSON)
		to_stderr_json(level, fields, n, message);
	else
		to_stderr_text(level, message);
	errno = saved;
}

bool log_rate_allows(struct log_rate *rate, unsigned *dropped)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct timespec ts;
	bool allowed;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	pthread_mutex_lock(&lock);
	*dropped = 0;
	if (rate->seen == 0 || ts.tv_sec - rate->window >= LOG_RATE_SECONDS) {
		*dropped = rate->dropped;
		*rate = (struct log_rate){ .window = ts.tv_sec };
	}
	allowed = rate->seen < LOG_RATE_BURST;
	if (allowed)
		rate->seen++;
	else
		rate->dropped++;
	pthread_mutex_unlock(&lock);
	return allowed;
}
