/*
 * log: lines for people, or JSON for machines; to stderr or to the journal.
 *
 * Libraries (everything but main.c, splice and the tunnel's ends) speak at debug only.
 * Thread-safe. Never payload, never secrets. errno is preserved.
 */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG, LOG_LEVELS };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON, LOG_FORMATS };
enum log_target { LOG_TARGET_AUTO, LOG_TARGET_STDERR, LOG_TARGET_JOURNAL, LOG_TARGETS };

/* AUTO: the journal when stderr is connected to it (JOURNAL_STREAM, sd_journal_stream_fd(3)). */
void log_setup(enum log_level level, enum log_format format, enum log_target target);
/* The same while other threads log. */
void log_change(enum log_level level, enum log_format format, enum log_target target);
void log_set_level(enum log_level level);
bool log_is_journal(void); /* whether that is where lines go */
bool log_enabled(enum log_level level);
/* Lines that nobody took in time, since the start: a line never waits for its reader. */
uint64_t log_lost(void);

/* One more fact of a line: a key of its own in JSON and in the journal (upper-cased there). */
struct log_field {
	const char *key;
	const char *text; /* NULL: number holds */
	uint64_t number;
};

void log_fields(enum log_level level, const struct log_field *fields, unsigned n, const char *fmt,
		...) __attribute__((format(printf, 4, 5)));

#define log_error(...) log_fields(LOG_LEVEL_ERROR, 0, 0, __VA_ARGS__)
#define log_warning(...) log_fields(LOG_LEVEL_WARNING, 0, 0, __VA_ARGS__)
#define log_info(...) log_fields(LOG_LEVEL_INFO, 0, 0, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_LEVEL_DEBUG))                                                  \
			log_fields(LOG_LEVEL_DEBUG, 0, 0, __VA_ARGS__);                            \
	} while (0)

/*
 * For lines a stranger can cause: at most LOG_RATE_BURST per call site, or per rate, zero at first,
 * in LOG_RATE_SECONDS; the first line after a gap says how many were left out.
 */
#define LOG_RATE_BURST 10
#define LOG_RATE_SECONDS 10
struct log_rate {
	int64_t window;
	unsigned seen, dropped;
};
bool log_rate_allows(struct log_rate *rate, unsigned *dropped);

#define log_limited(level, fields, n, ...)                                                         \
	do {                                                                                       \
		static struct log_rate rate_;                                                      \
		log_limited_by(&rate_, level, fields, n, __VA_ARGS__);                             \
	} while (0)

#define log_limited_by(rate, level, fields, n, ...)                                                \
	do {                                                                                       \
		unsigned dropped_;                                                                 \
		if (log_enabled(level) && log_rate_allows(rate, &dropped_)) {                      \
			if (dropped_)                                                              \
				log_fields(level, 0, 0, "%u lines like the next were left out",    \
					   dropped_);                                              \
			log_fields(level, fields, n, __VA_ARGS__);                                 \
		}                                                                                  \
	} while (0)

#endif
