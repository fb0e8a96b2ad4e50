/* Audit records: as they are written out, and on their way to sinks that take none for a while. */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "relay/audit.h"
#include "relay/log.h"
#include "tests/unit/check.h"

#define SAYS_LOST "lost %llu\n"
#define DEADLINE_MS 20000

static char folder[] = "/tmp/attest-audit-XXXXXX";

static size_t say_lost(uint64_t lost, char text[AUDIT_RECORD_MAX])
{
	return (size_t)snprintf(text, AUDIT_RECORD_MAX, SAYS_LOST, (unsigned long long)lost);
}

static const char *path_of(const char *name)
{
	static char path[2][PATH_MAX];
	static unsigned turn;

	turn = !turn;
	snprintf(path[turn], PATH_MAX, "%s/%s", folder, name);
	return path[turn];
}

static struct audit_sink *sink_at(const char *path, bool journal)
{
	struct audit_sink *s;
	char *why;

	s = audit_sink_new(path, journal, say_lost, &why);
	CHECK(s && !why);
	return s;
}

/* Until the sink has written so many. */
static void wait_written(struct audit_sink *s, uint64_t n)
{
	for (unsigned i = 0; audit_sink_counts(s).written < n; i++) {
		CHECK(i < DEADLINE_MS);
		poll(NULL, 0, 1);
	}
}

/* ---- as they are written out ---- */

static const struct audit_record all = {
	.kind = AUDIT_STREAM_END,
	.why = REASON_EOF,
	.id = 7,
	.bytes_up = 1,
	.bytes_down = UINT64_MAX,
	.duration_ms = 12,
	.listener = "front",
	.door = "sni",
	.client = "tcp:192.0.2.9:40112",
	.via_proxy = "",
	.service = "kbs.acme",
	.owner = "acme",
	.target = "tunnel",
	.detail = "a \"quoted\"\nword\\",
};

static void test_json(void)
{
	char text[AUDIT_RECORD_MAX + 1];
	size_t len = audit_format(&all, false, 0, text);

	text[len] = '\0';
	CHECK(strncmp(text, "{\"time\":\"20", 11) == 0);
	CHECK_STR(strstr(text, "\",\"event\""),
		  "\",\"event\":\"stream-end\",\"id\":7,\"reason\":\"eof\",\"bytes_up\":1,"
		  "\"bytes_down\":18446744073709551615,\"duration_ms\":12,"
		  "\"listener\":\"front\",\"door\":\"sni\",\"client\":\"tcp:192.0.2.9:40112\","
		  "\"service\":\"kbs.acme\",\"owner\":\"acme\",\"target\":\"tunnel\","
		  "\"detail\":\"a \\\"quoted\\\"?word\\\\\"}\n");
}

static void test_journal(void)
{
	char text[AUDIT_RECORD_MAX + 1];
	size_t len = audit_format(&all, true, 0, text);

	text[len] = '\0';
	CHECK_STR(strstr(text, "\nSYSLOG_FACILITY"),
		  "\nSYSLOG_FACILITY=10\nPRIORITY=6\n"
		  "MESSAGE_ID=0bf2bdaa6f48449a8dd7ae97226a929d\n"
		  "MESSAGE=stream-end tcp:192.0.2.9:40112 -> kbs.acme: eof\n"
		  "ATTEST_EVENT=stream-end\nATTEST_ID=7\nATTEST_REASON=eof\nATTEST_BYTES_UP=1\n"
		  "ATTEST_BYTES_DOWN=18446744073709551615\nATTEST_DURATION_MS=12\n"
		  "ATTEST_LISTENER=front\nATTEST_DOOR=sni\nATTEST_CLIENT=tcp:192.0.2.9:40112\n"
		  "ATTEST_SERVICE=kbs.acme\nATTEST_OWNER=acme\nATTEST_TARGET=tunnel\n"
		  "ATTEST_DETAIL=a \"quoted\"?word\\\n");
}

/* What says nothing of its kind is not there. */
static void test_kinds(void)
{
	char text[AUDIT_RECORD_MAX + 1];
	struct audit_record r = all;

	for (r.kind = 0; r.kind < AUDIT_KINDS; r.kind++) {
		bool end = r.kind == AUDIT_STREAM_END;

		text[audit_format(&r, false, 3, text)] = '\0';
		CHECK(!strstr(text, "bytes_up") == !end);
		CHECK(!strstr(text, "\"lost\":3") == (r.kind != AUDIT_RECORDS_LOST));
		CHECK(!strstr(text, "duration_ms") ==
		      (r.kind != AUDIT_SESSION_END && r.kind != AUDIT_SESSION_REFUSED &&
		       r.kind != AUDIT_CONNECTION_END && r.kind != AUDIT_STREAM_REFUSED && !end));
	}
}

/* Bytes of all kinds, those that are awkward more often; of any length. */
static char *nasty(char *buf, size_t size)
{
	static const char *const awkward[] = { "\"",
					       "\\",
					       "\n",
					       "\r",
					       "\x01",
					       "\x7f",
					       "\xff",
					       "\xc3",
					       "\xc3\xa9",
					       "\xe2\x82",
					       "\xe2\x82\xac",
					       "\xed\xa0\x80",
					       "\xf0\x9f\x98\x80",
					       "\xf4\x90\x80\x80",
					       "</",
					       "\xe2\x80\xa8",
					       "=",
					       "\t" };
	size_t want = (size_t)rand() % 8 ? (size_t)rand() % 200 : (size_t)rand() % size, used = 0;

	while (used + 5 < want) {
		unsigned pick = (unsigned)rand() % 40;

		if (pick < sizeof(awkward) / sizeof(awkward[0]))
			used += (size_t)sprintf(buf + used, "%s", awkward[pick]);
		else
			buf[used++] = (char)(1 + rand() % 255);
	}
	buf[used] = '\0';
	return buf;
}

static struct audit_record nasty_record(char (*buf)[3000])
{
	struct audit_record r = { .kind = (enum audit_kind)(rand() % AUDIT_KINDS),
				  .why = (enum reason)(rand() % REASONS),
				  .id = (uint64_t)rand() };
	const char **const at[] = { &r.listener,        &r.door,       &r.carrier,
				    &r.client,          &r.via_proxy,  &r.client_rule,
				    &r.client_identity, &r.credential, &r.service,
				    &r.services,        &r.owner,      &r.target,
				    &r.target_address,  &r.tunnel,     &r.detail };

	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		*at[i] = rand() % 5 ? nasty(buf[i], 3000) : NULL;
	return r;
}

/* The reader is one that nobody here has written. */
static void test_nasty_json(void)
{
	static const char reader[] =
		"import json, sys\n"
		"n = 0\n"
		"for line in sys.stdin.buffer:\n"
		"    assert len(line) <= 4096 and line.endswith(b'}\\n'), line\n"
		"    r = json.loads(line.decode('utf-8', 'strict'))\n"
		"    assert isinstance(r, dict) and 'event' in r and 'time' in r, line\n"
		"    assert not any(ord(c) < 32 or ord(c) == 127 for v in r.values() if "
		"isinstance(v, str) for c in v), line\n"
		"    n += 1\n"
		"assert n == 5000, n\n";
	char buf[15][3000], text[AUDIT_RECORD_MAX], command[sizeof(reader) + 64];
	FILE *python;

	if (access("/usr/bin/python3", X_OK) < 0) {
		fprintf(stderr, "no /usr/bin/python3: nasty records were not read back\n");
		return;
	}
	snprintf(command, sizeof(command), "/usr/bin/python3 -c \"%s\"", reader);
	python = popen(command, "w");
	CHECK(python);
	for (unsigned i = 0; i < 5000; i++) {
		const struct audit_record r = nasty_record(buf);
		size_t len = audit_format(&r, false, 1, text);

		CHECK_INT(fwrite(text, 1, len, python), len);
	}
	CHECK_INT(pclose(python), 0);
}

/* Each line is a key and a value, whatever was in it. */
static void test_nasty_journal(void)
{
	char buf[15][3000], text[AUDIT_RECORD_MAX];

	for (unsigned i = 0; i < 5000; i++) {
		const struct audit_record r = nasty_record(buf);
		size_t len = audit_format(&r, true, 1, text);

		CHECK(len <= AUDIT_RECORD_MAX && text[len - 1] == '\n');
		for (char *at = text, *end; at < text + len; at = end + 1) {
			size_t key = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");

			CHECK(key > 0 && at[key] == '=');
			end = memchr(at, '\n', (size_t)(text + len - at));
			CHECK(end);
		}
	}
}

/* ---- counted and recorded in one ---- */

static void test_counts(void)
{
	struct counters count = { 0 };
	struct audit_record r = { .kind = AUDIT_STREAM_REFUSED, .why = REASON_LIMIT };

	audit_write(NULL, &count, &r);
	r.kind = AUDIT_CONNECTION_REFUSED;
	audit_write(NULL, &count, &r);
	CHECK_INT(counter_get(&count.refused[REASON_LIMIT]), 2);
	r.kind = AUDIT_SESSION_REFUSED;
	audit_write(NULL, &count, &r);
	r.kind = AUDIT_SESSION_END;
	audit_write(NULL, &count, &r);
	CHECK_INT(counter_get(&count.sessions[REASON_LIMIT]), 2);
	r.kind = AUDIT_STREAM_END; /* the splice has counted it */
	audit_write(NULL, &count, &r);
	r.kind = AUDIT_SESSION_START;
	audit_write(NULL, &count, &r);
	CHECK_INT(counter_get(&count.ended[REASON_LIMIT]), 0);
	CHECK_INT(counter_get(&count.sessions[REASON_LIMIT]), 2);
}

/* ---- files ---- */

/* How many lines "THREAD NUMBER" it has; each is seen once over all files. */
#define THREADS 4
#define EACH 1000
static uint8_t seen[THREADS][EACH];

static unsigned read_back(const char *path)
{
	FILE *f = fopen(path, "re");
	unsigned n = 0, thread, number;
	char line[128];

	CHECK(f);
	for (; fgets(line, sizeof(line), f); n++) {
		CHECK(sscanf(line, "%u %u xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n", &thread,
			     &number) == 2);
		CHECK_INT(strlen(line), 64);
		CHECK(thread < THREADS && number < EACH && !seen[thread][number]);
		seen[thread][number] = 1;
	}
	fclose(f);
	return n;
}

struct putter {
	struct audit_sink *sink;
	unsigned number;
	pthread_t thread;
};

static void put_one(struct audit_sink *s, unsigned thread, unsigned number)
{
	char text[65];
	int n = snprintf(text, sizeof(text), "%u %u ", thread, number);

	memset(text + n, 'x', sizeof(text) - (size_t)n);
	text[63] = '\n';
	audit_sink_put(s, text, 64);
}

static void *put_many(void *arg)
{
	const struct putter *p = arg;

	for (unsigned i = 0; i < EACH; i++) {
		put_one(p->sink, p->number, i);
		if (i % 100 == 0)
			poll(NULL, 0, 1);
	}
	return NULL;
}

/* Renamed again and again under four threads: none is lost, none cut. */
static void test_rotation(void)
{
	struct audit_sink *s = sink_at(path_of("log"), false);
	struct putter putters[THREADS];
	struct stat st;
	unsigned files = 0, total = 0;
	char old[32];

	umask(0);
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < THREADS; i++) {
		putters[i] = (struct putter){ s, i, 0 };
		CHECK_INT(pthread_create(&putters[i].thread, NULL, put_many, &putters[i]), 0);
	}
	for (; files < 8; files++) {
		snprintf(old, sizeof(old), "log.%u", files);
		CHECK_INT(rename(path_of("log"), path_of(old)), 0);
		audit_sink_reopen(s);
		for (unsigned i = 0; access(path_of("log"), F_OK) < 0; i++) {
			CHECK(i < DEADLINE_MS);
			poll(NULL, 0, 1);
		}
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(putters[i].thread, NULL), 0);
	wait_written(s, THREADS * EACH);
	audit_sink_free(s);
	CHECK_INT(stat(path_of("log"), &st), 0);
	CHECK_INT(st.st_mode & 0777, 0640);
	total = read_back(path_of("log"));
	while (files--) {
		snprintf(old, sizeof(old), "log.%u", files);
		total += read_back(path_of(old));
		unlink(path_of(old));
	}
	CHECK_INT(total, THREADS * EACH);
	unlink(path_of("log"));
}

/* A reopen that cannot be goes on where it was. */
static void test_reopen_fails(void)
{
	struct audit_sink *s;

	memset(seen, 0, sizeof(seen));
	CHECK_INT(mkdir(path_of("d"), 0700), 0);
	s = sink_at(path_of("d/log"), false);
	CHECK_INT(rename(path_of("d"), path_of("e")), 0);
	audit_sink_reopen(s);
	put_one(s, 0, 0);
	audit_sink_free(s);
	CHECK_INT(read_back(path_of("e/log")), 1);
	unlink(path_of("e/log"));
	rmdir(path_of("e"));
}

/* A file that may not grow: kept until it may, and no line is torn. */
static void test_disk_full(void)
{
	struct rlimit before, tight;
	struct audit_sink *s;

	memset(seen, 0, sizeof(seen));
	CHECK_INT(getrlimit(RLIMIT_FSIZE, &before), 0);
	tight = before;
	tight.rlim_cur = 1000; /* in the middle of a line */
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &tight), 0);
	s = sink_at(path_of("log"), false);
	for (unsigned i = 0; i < 100; i++)
		put_one(s, 1, i);
	wait_written(s, 15);
	CHECK_INT(audit_sink_counts(s).lost, 0);
	CHECK_INT(audit_sink_counts(s).queued, 85);
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &before), 0);
	wait_written(s, 100);
	audit_sink_free(s);
	CHECK_INT(read_back(path_of("log")), 100);
	unlink(path_of("log"));
}

/* How many lines a file has, and how many of them are records of put_one. */
static void count_lines(const char *path, unsigned *lines, unsigned *records)
{
	char line[256];
	FILE *f = fopen(path, "re");

	CHECK(f);
	*lines = *records = 0;
	while (fgets(line, sizeof(line), f)) {
		++*lines;
		*records += strlen(line) == 64 && line[63] == '\n';
	}
	fclose(f);
}

/* What was begun and never ended costs no other record: after a reload, nor after a crash. */
static void test_torn(void)
{
	struct rlimit before, tight;
	struct audit_sink *s;
	unsigned lines, records;
	FILE *f = fopen(path_of("log"), "we");

	CHECK(f && fputs("{\"time\":\"20", f) >= 0 && fclose(f) == 0);
	CHECK_INT(getrlimit(RLIMIT_FSIZE, &before), 0);
	tight = before;
	tight.rlim_cur = 1000;
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &tight), 0);
	s = sink_at(path_of("log"), false);
	for (unsigned i = 0; i < 100; i++)
		put_one(s, 1, i);
	wait_written(s, 15);
	audit_sink_reopen(s); /* and nobody has renamed the file */
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &before), 0);
	wait_written(s, 100);
	audit_sink_free(s);
	count_lines(path_of("log"), &lines, &records);
	CHECK_INT(records, 100);
	CHECK(lines == 101 || lines == 102); /* the reopen may come before what it tears */
	unlink(path_of("log"));
}

static void test_no_file(void)
{
	char *why;

	CHECK(!audit_sink_new(path_of("none/log"), false, say_lost, &why));
	CHECK(why && strstr(why, "cannot write audit records to ") &&
	      strstr(why, "none/log: No such file or directory"));
	free(why);
	CHECK(!audit_sink_new(path_of("none"), true, say_lost, &why));
	CHECK(why && strstr(why, "No such file or directory"));
	free(why);
}

/* ---- journald ---- */

static int journald(const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	unlink(path);
	CHECK_INT(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

/* It reads nothing: the queue fills, the rest is lost, and how many is said when it reads again. */
static void test_stuck_journal(void)
{
	const char *path = path_of("socket");
	int fd = journald(path);
	struct audit_sink *s = sink_at(path, true);
	uint64_t put = AUDIT_QUEUE_MAX + 2000, got = 0, told = 0;
	struct audit_counts counts;
	unsigned long long lost;
	struct timespec a, b;
	char text[256];
	ssize_t n;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (uint64_t i = 0; i < put; i++)
		put_one(s, 2, 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	CHECK(b.tv_sec - a.tv_sec < 10); /* or a putter has waited */
	counts = audit_sink_counts(s);
	CHECK(counts.lost > 0 && counts.lost <= 2000);
	CHECK_INT(counts.written + counts.queued + counts.lost, put);
	while (!told) {
		n = recv(fd, text, sizeof(text) - 1, 0);
		CHECK(n > 0);
		text[n] = '\0';
		if (sscanf(text, SAYS_LOST, &lost) == 1)
			told = lost;
		else
			got++;
	}
	CHECK_INT(got, counts.written + counts.queued); /* where they are missing */
	CHECK_INT(told, counts.lost);
	CHECK_INT(got + told, put);
	CHECK_INT(recv(fd, text, sizeof(text), MSG_DONTWAIT), -1);
	audit_sink_free(s);
	close(fd);
}

/* Gone and back at the same path, as another socket. */
static void test_journal_restarts(void)
{
	const char *path = path_of("socket");
	int fd = journald(path);
	struct audit_sink *s = sink_at(path, true);
	char text[256];

	put_one(s, 0, 0);
	CHECK_INT(recv(fd, text, sizeof(text), 0), 64);
	close(fd);
	put_one(s, 0, 1);
	put_one(s, 0, 2);
	poll(NULL, 0, 50);
	CHECK_INT(audit_sink_counts(s).queued, 2);
	fd = journald(path);
	CHECK_INT(recv(fd, text, sizeof(text), 0), 64);
	CHECK(strncmp(text, "0 1 ", 4) == 0);
	CHECK_INT(recv(fd, text, sizeof(text), 0), 64);
	audit_sink_free(s);
	close(fd);
	unlink(path);
}

/* The end does not wait for ever either. */
static void test_end_while_stuck(void)
{
	const char *path = path_of("socket");
	int fd = journald(path);
	struct audit_sink *s = sink_at(path, true);

	for (unsigned i = 0; i < 5000; i++)
		put_one(s, 0, 0);
	audit_sink_free(s);
	close(fd);
	unlink(path);
}

int main(void)
{
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	signal(SIGPIPE, SIG_IGN);
	CHECK(mkdtemp(folder));
	srand(20261121);
	test_json();
	test_journal();
	test_kinds();
	test_nasty_json();
	test_nasty_journal();
	test_counts();
	test_rotation();
	test_reopen_fails();
	test_disk_full();
	test_torn();
	test_no_file();
	test_stuck_journal();
	test_journal_restarts();
	test_end_while_stuck();
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
