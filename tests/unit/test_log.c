/* Log lines as they leave: one write each, forged by nobody, cut where they are too long. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "relay/log.h"
#include "tests/unit/check.h"

#define LONGEST 2048 /* bytes of a line, with its newline */

static int real_stderr, from_log;

/* Standard error is a pipe of packets here: one read is one write. */
static void begin(void)
{
	int fd[2];

	CHECK_INT(pipe2(fd, O_CLOEXEC | O_NONBLOCK | O_DIRECT), 0);
	CHECK(fcntl(fd[1], F_SETPIPE_SZ, 64 * 4096) > 0); /* a page for each packet */
	from_log = fd[0];
	real_stderr = dup(2);
	CHECK(real_stderr >= 0);
	CHECK_INT(dup2(fd[1], 2), 2);
	close(fd[1]);
}

static void end(void)
{
	CHECK_INT(dup2(real_stderr, 2), 2);
	close(real_stderr);
	close(from_log);
}

/* CHECK speaks on stderr: while that is the pipe, a failure is told on the real one. */
#define HOLDS(cond)                                              \
	do {                                                     \
		if (!(cond)) {                                   \
			dup2(real_stderr, 2);                    \
			fprintf(stderr, "the line: %s\n", line); \
			CHECK(cond);                             \
		}                                                \
	} while (0)

static char line[LONGEST + 2];
static size_t line_len;

/* The next line without its newline; false: there is none. */
static bool next_line(void)
{
	ssize_t n = read(from_log, line, sizeof(line) - 1);

	if (n < 0) {
		line[0] = '\0';
		return false;
	}
	line[n] = '\0';
	HOLDS(n > 0 && n <= LONGEST);
	HOLDS(line[n - 1] == '\n');
	HOLDS(!memchr(line, '\n', (size_t)n - 1)); /* one line, whatever was in it */
	HOLDS(strlen(line) == (size_t)n);
	line[n - 1] = '\0';
	line_len = (size_t)n - 1;
	return true;
}

/* "2026-01-31T23:59:59.123Z" */
static bool is_time(const char *s)
{
	static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";

	for (size_t i = 0; form[i]; i++)
		if (form[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != form[i])
			return false;
	return true;
}

static void test_text(void)
{
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	errno = ENOENT;
	log_info("hello %d", 42);
	HOLDS(errno == ENOENT); /* preserved */
	HOLDS(next_line());
	HOLDS(is_time(line));
	HOLDS(strcmp(line + 24, " info: hello 42") == 0);
	log_warning("w");
	HOLDS(next_line() && strcmp(line + 24, " warning: w") == 0);
	log_error("e");
	HOLDS(next_line() && strcmp(line + 24, " error: e") == 0);
	HOLDS(!next_line());
}

static void test_levels(void)
{
	log_setup(LOG_LEVEL_WARNING, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	log_info("not");
	log_debug("not");
	HOLDS(!next_line());
	HOLDS(log_enabled(LOG_LEVEL_ERROR) && log_enabled(LOG_LEVEL_WARNING));
	HOLDS(!log_enabled(LOG_LEVEL_INFO) && !log_enabled(LOG_LEVEL_DEBUG));
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("d");
	HOLDS(next_line() && strcmp(line + 24, " debug: d") == 0);
	log_set_level(LOG_LEVEL_INFO);
}

/* What a stranger sends cannot start a line of its own, nor steer a terminal. */
static void test_control_characters(void)
{
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	log_info("host %s", "a\r\nINFO: forged\x1b[2J\t\x7f b");
	HOLDS(next_line());
	HOLDS(strcmp(line + 24, " info: host a??INFO: forged?[2J?? b") == 0);
	HOLDS(!next_line());
	log_info("%s", "\xc3\xa9t\xc3\xa9"); /* UTF-8 stays */
	HOLDS(next_line() && strcmp(line + 24, " info: \xc3\xa9t\xc3\xa9") == 0);
}

static void test_json(void)
{
	const struct log_field fields[] = { { .key = "service", .text = "kbs.acme" },
					    { .key = "bytes-up", .number = UINT64_MAX },
					    { .key = "quote", .text = "a\"b\\c\nd" } };
	const char *rest = line + 9 + 24;

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, LOG_TARGET_STDERR);
	log_fields(LOG_LEVEL_INFO, fields, 3, "over: \"%s\" \\ \x01\x7f", "x\ny");
	HOLDS(next_line());
	HOLDS(strncmp(line, "{\"time\":\"", 9) == 0 && is_time(line + 9));
	HOLDS(strcmp(rest, "\",\"level\":\"info\",\"message\":\"over: \\\"x?y\\\" \\\\ ??\","
			   "\"service\":\"kbs.acme\",\"bytes-up\":18446744073709551615,"
			   "\"quote\":\"a\\\"b\\\\c?d\"}") == 0);
	HOLDS(!next_line());
}

/* Is it one JSON object of strings and numbers, in valid UTF-8? */
static const char *json_string(const char *s)
{
	if (*s++ != '"')
		return NULL;
	for (; *s != '"'; s++) {
		unsigned char c = (unsigned char)*s;
		int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : 0;

		if (c < 0x20 || (c >= 0x80 && c < 0xc2) || c > 0xf4)
			return NULL;
		if (c == '\\' && *++s != '"' && *s != '\\')
			return NULL;
		for (; more; more--)
			if (((unsigned char)*++s & 0xc0) != 0x80)
				return NULL;
	}
	return s + 1;
}

static bool is_json(const char *s)
{
	if (*s != '{')
		return false;
	do {
		s = json_string(s + 1);
		if (!s || *s++ != ':')
			return false;
		if (*s == '"')
			s = json_string(s);
		else
			s += strspn(s, "0123456789");
		if (!s)
			return false;
	} while (*s == ',');
	return strcmp(s, "}") == 0;
}

/* Bytes that are no UTF-8 would make the whole line unreadable to its reader. */
static void test_json_bad_utf8(void)
{
	static const char *const bad[] = {
		"\xff",
		"\xc3",
		"\xc3(",
		"\x80",
		"\xe2\x82",
		"\xc0\xaf" /* overlong */,
		"\xed\xa0\x80" /* surrogate */,
		"\xf5\x80\x80\x80",
		"\xf0\x80\x80\x80",
		"\xe0\x80\x80",
		"\xf4\x90\x80\x80",
	};

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, LOG_TARGET_STDERR);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		log_info("a%sb", bad[i]);
		HOLDS(next_line());
		HOLDS(is_json(line));
		HOLDS(!strstr(line, bad[i]));
		HOLDS(strstr(line, "\"a?") && strstr(line, "b\"}"));
	}
	log_info("%s", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"); /* and what is right stays */
	HOLDS(next_line());
	HOLDS(is_json(line) && strstr(line, "\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\""));
}

/* Too long: cut, marked, and in JSON still JSON, at every length around the bound. */
static void test_cut(void)
{
	static char text[2 * LONGEST];
	const struct log_field fields[] = { { .key = "first", .text = "1" },
					    { .key = "long", .text = text },
					    { .key = "last", .number = 7 } };

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	memset(text, 'x', sizeof(text) - 1);
	log_info("%s", text);
	HOLDS(next_line());
	HOLDS(line_len > 1500 && strcmp(line + line_len - 4, "x...") == 0);
	log_info("next");
	HOLDS(next_line() && strcmp(line + 24, " info: next") == 0);

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, LOG_TARGET_STDERR);
	for (unsigned kind = 0; kind < 3; kind++) {
		static const char *const unit[] = { "x", "\"", "\xe2\x82\xac" };
		size_t each = strlen(unit[kind]);

		for (size_t len = 700;
		     len<sizeof(text) - 8; len += len> 1700 && len < 2100 ? 1 : 97) {
			size_t used = 0;

			for (; used < len; used += each)
				memcpy(text + used, unit[kind], each);
			text[used] = '\0';
			log_fields(LOG_LEVEL_INFO, fields, 3, "m");
			HOLDS(next_line());
			HOLDS(is_json(line));
			HOLDS(strstr(line, "\"first\":\"1\""));
			log_fields(LOG_LEVEL_INFO, fields, 1, "%s", text);
			HOLDS(next_line());
			HOLDS(is_json(line));
		}
	}
	HOLDS(!next_line());
}

static unsigned say(unsigned times)
{
	unsigned lines = 0;

	for (unsigned i = 0; i < times; i++)
		log_limited(LOG_LEVEL_INFO, NULL, 0, "stranger");
	while (next_line())
		lines++;
	return lines;
}

static void test_rate(void)
{
	struct log_rate rate = { 0 };
	unsigned dropped = 77;

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	HOLDS(say(1000) == LOG_RATE_BURST);

	for (unsigned i = 0; i < LOG_RATE_BURST; i++) {
		HOLDS(log_rate_allows(&rate, &dropped));
		HOLDS(dropped == 0);
	}
	for (unsigned i = 0; i < 5; i++)
		HOLDS(!log_rate_allows(&rate, &dropped) && dropped == 0);
	rate.window -= LOG_RATE_SECONDS; /* the time passes */
	HOLDS(log_rate_allows(&rate, &dropped));
	HOLDS(dropped == 5); /* told once */
	HOLDS(log_rate_allows(&rate, &dropped));
	HOLDS(dropped == 0);

	/* what is not logged does not count */
	log_set_level(LOG_LEVEL_ERROR);
	HOLDS(say(1000) == 0);
	log_set_level(LOG_LEVEL_INFO);
}

/* Lines of several threads never mix. */
static void *chatter(void *arg)
{
	for (int i = 0; i < 10; i++)
		log_info("%s", (const char *)arg);
	return NULL;
}

static void test_threads(void)
{
	static char text[4][600];
	pthread_t t[4];
	unsigned lines = 0;

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	for (int i = 0; i < 4; i++) {
		memset(text[i], 'a' + i, sizeof(text[i]) - 1);
		CHECK_INT(pthread_create(&t[i], NULL, chatter, text[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (; next_line(); lines++) {
		const char *what = line + 24 + strlen(" info: ");

		HOLDS(strspn(what, (char[]){ what[0], '\0' }) == sizeof(text[0]) - 1);
	}
	HOLDS(lines == 40);
}

/* AUTO: standard error is not the journal, whatever the environment says of some other file. */
static void test_auto(void)
{
	setenv("JOURNAL_STREAM", "1:2", 1);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_AUTO);
	log_info("here");
	HOLDS(next_line());
	unsetenv("JOURNAL_STREAM");
}

int main(void)
{
	begin();
	test_text();
	test_levels();
	test_control_characters();
	test_json();
	test_json_bad_utf8();
	test_cut();
	test_rate();
	test_threads();
	test_auto();
	end();
	return 0;
}
