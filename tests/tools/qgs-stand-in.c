/*
 * qgs-stand-in: speaks as Intel's QGS does, and misbehaves when told to.
 *
 * Theory of operation: one poll() over commands on stdin, signals, listeners and connections. Each
 * command is one line, and is answered by one line of JSON on stdout once it has taken effect, so
 *that tests need no pauses:
 *
 *	behave HOW [COUNT]   how requests are read: legacy | 1.26; or what becomes of them, for the
 *	                     next COUNT or all: ok | close | error | cut:BYTES | pieces:BYTES |
 *wedged threads N | timeout-ms N | work-ms N | quote-bytes N refuse               stop listening,
 *leave the path: connections are refused recreate             as QGS on SIGHUP: end all
 *connections, bind anew; so does SIGHUP stats | reset        print, or begin anew, the counts quit
 *
 * The options have the same names. A request that is at work keeps what it began with.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "tests/tools/place.h"
#include "tests/tools/quote.h"
#include "tests/tools/serving.h"

#define LISTENERS 4
#define QUOTE_MAX (16U << 20)

enum { POLL_COMMANDS, POLL_SIGNALS, POLL_LISTENERS, POLL_FIXED = POLL_LISTENERS + LISTENERS };

struct stand_in {
	struct serving serving;
	struct place places[LISTENERS];
	int listening[LISTENERS]; /* -1: not now */
	int n_places;
	mode_t mode;
	int commands, signals;
	char line[256];
	size_t line_len;
	bool until_eof, over;
	struct pollfd *fds;
	size_t fds_room;
};

static void __attribute__((format(printf, 1, 2), noreturn)) fatal(const char *format, ...)
{
	va_list args;

	fputs("qgs-stand-in: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

/* ---- listening ---- */

static void refuse(struct stand_in *in)
{
	for (int i = 0; i < in->n_places; i++) {
		if (in->listening[i] >= 0)
			close(in->listening[i]);
		in->listening[i] = -1;
	}
}

static void listen_anew(struct stand_in *in)
{
	refuse(in);
	for (int i = 0; i < in->n_places; i++) {
		in->listening[i] = place_listen(&in->places[i], in->mode);
		if (in->listening[i] < 0)
			fatal("%s: %s", in->places[i].text, strerror(errno));
	}
}

static void recreate(struct stand_in *in)
{
	serving_close_all(&in->serving);
	listen_anew(in);
}

/* ---- commands, which are options too ---- */

static bool read_number(const char *text, uint64_t least, uint64_t most, uint64_t *value)
{
	char *end;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return !errno && !*end && *value >= least && *value <= most;
}

static bool set_fault(struct serving_settings *set, const char *how, const char *count)
{
	static const struct {
		const char *name;
		enum fault fault;
		bool bytes;
	} faults[] = {
		{ "ok", FAULT_NONE, false },       { "close", FAULT_CLOSE, false },
		{ "error", FAULT_ERROR, false },   { "cut:", FAULT_CUT, true },
		{ "pieces:", FAULT_PIECES, true }, { "wedged", FAULT_WEDGED, false },
	};
	uint64_t bytes = 0, left = 0;

	if (count && !read_number(count, 1, UINT64_MAX, &left))
		return false;
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		size_t len = strlen(faults[i].name);

		if (strncmp(how, faults[i].name, len) != 0)
			continue;
		if (faults[i].bytes ? !read_number(how + len, 1, QUOTE_MAX, &bytes) : how[len] != 0)
			return false;
		set->fault = faults[i].fault;
		set->fault_bytes = bytes;
		set->fault_left = left;
		return true;
	}
	return false;
}

static bool set_behaviour(struct serving_settings *set, const char *how, const char *count)
{
	if (!how)
		return false;
	if (strcmp(how, "legacy") == 0 || strcmp(how, "1.26") == 0) {
		set->version = *how == 'l' ? VERSION_LEGACY : VERSION_1_26;
		return !count;
	}
	return set_fault(set, how, count);
}

static bool set_option(struct serving_settings *set, const char *name, const char *value,
		       const char *count)
{
	uint64_t number;

	if (strcmp(name, "behave") == 0)
		return set_behaviour(set, value, count);
	if (count)
		return false;
	if (strcmp(name, "threads") == 0 && read_number(value, 1, 255, &number))
		set->threads = (unsigned)number;
	else if (strcmp(name, "timeout-ms") == 0 && read_number(value, 1, 1U << 30, &number))
		set->timeout_ms = (int64_t)number;
	else if (strcmp(name, "work-ms") == 0 && read_number(value, 0, 1U << 30, &number))
		set->work_ms = (int64_t)number;
	else if (strcmp(name, "quote-bytes") == 0 &&
		 read_number(value, QUOTE_MIN, QUOTE_MAX, &number))
		set->quote_bytes = number;
	else
		return false;
	return true;
}

/* False: no such command. */
static bool obey(struct stand_in *in, const char *name, const char *value, const char *count)
{
	if (set_option(&in->serving.set, name, value, count)) {
		serving_apply(&in->serving);
		return true;
	}
	if (value)
		return false;
	if (strcmp(name, "refuse") == 0)
		refuse(in);
	else if (strcmp(name, "recreate") == 0)
		recreate(in);
	else if (strcmp(name, "reset") == 0)
		serving_reset(&in->serving);
	else if (strcmp(name, "quit") == 0)
		in->over = true;
	else
		return false;
	return true;
}

static void command(struct stand_in *in, char *line)
{
	char *at = line, *name = strtok_r(line, " ", &at), *value = strtok_r(NULL, " ", &at),
	     *count = strtok_r(NULL, " ", &at);

	if (!name)
		return;
	if (strcmp(name, "stats") == 0 && !value)
		serving_print(&in->serving, stdout);
	else if (!strtok_r(NULL, " ", &at) && obey(in, name, value, count))
		printf("{\"done\": true}\n");
	else
		printf("{\"done\": false}\n");
}

static void read_commands(struct stand_in *in)
{
	char *end;
	ssize_t n =
		read(in->commands, in->line + in->line_len, sizeof(in->line) - 1 - in->line_len);

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		in->commands = -1;
		in->over = in->until_eof;
		return;
	}
	in->line_len += (size_t)n;
	in->line[in->line_len] = '\0';
	while ((end = strchr(in->line, '\n'))) {
		*end = '\0';
		n = end + 1 - in->line;
		command(in, in->line);
		in->line_len -= (size_t)n;
		memmove(in->line, end + 1, in->line_len + 1);
	}
	if (in->line_len == sizeof(in->line) - 1)
		fatal("a command of more than %zu bytes", in->line_len);
}

static void read_signal(struct stand_in *in)
{
	struct signalfd_siginfo info;

	if (read(in->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP)
		recreate(in);
	else
		in->over = true;
}

/* ---- the loop ---- */

static int prepare_polls(struct stand_in *in)
{
	size_t needed = POLL_FIXED + in->serving.n;

	if (needed > in->fds_room) {
		in->fds_room = 2 * needed;
		in->fds = realloc(in->fds, in->fds_room * sizeof(*in->fds));
		if (!in->fds)
			fatal("out of memory");
	}
	in->fds[POLL_COMMANDS] = (struct pollfd){ .fd = in->commands, .events = POLLIN };
	in->fds[POLL_SIGNALS] = (struct pollfd){ .fd = in->signals, .events = POLLIN };
	for (int i = 0; i < LISTENERS; i++)
		in->fds[POLL_LISTENERS + i] =
			(struct pollfd){ .fd = in->listening[i], .events = POLLIN };
	return serving_polls(&in->serving, in->fds + POLL_FIXED);
}

static void run(struct stand_in *in)
{
	while (!in->over) {
		int timeout = prepare_polls(in);
		int ready = poll(in->fds, POLL_FIXED + in->serving.n, timeout);

		if (ready < 0 && errno != EINTR)
			fatal("poll: %s", strerror(errno));
		if (ready < 0)
			continue;
		serving_turn(&in->serving, in->fds + POLL_FIXED);
		for (int i = 0; i < LISTENERS; i++) {
			if (in->fds[POLL_LISTENERS + i].revents &&
			    serving_accept(&in->serving, in->listening[i]))
				fatal("accept: %s", strerror(errno));
		}
		if (in->fds[POLL_SIGNALS].revents)
			read_signal(in);
		if (in->fds[POLL_COMMANDS].revents)
			read_commands(in);
	}
}

/* ---- the start ---- */

static const char usage[] =
	"qgs-stand-in --listen unix:/PATH|vsock:CID:PORT|tcp:ADDRESS:PORT... [--mode 0660]\n"
	"    [--threads 4] [--timeout-ms 30000] [--work-ms 0] [--quote-bytes 5000]\n"
	"    [--behave legacy|1.26] [--behave ok|close|error|cut:BYTES|pieces:BYTES|wedged]\n"
	"    [--until-eof]   it ends with its stdin\n";

static void add_place(struct stand_in *in, const char *text)
{
	const char *why;

	if (in->n_places == LISTENERS)
		fatal("%d addresses at most", LISTENERS);
	why = place_parse(&in->places[in->n_places++], text);
	if (why)
		fatal("%s: %s", text, why);
}

static void read_options(struct stand_in *in, int argc, char **argv)
{
	static const struct option options[] = {
		{ "listen", required_argument, NULL, 'l' },
		{ "mode", required_argument, NULL, 'm' },
		{ "until-eof", no_argument, NULL, 'e' },
		{ "behave", required_argument, NULL, 's' },
		{ "threads", required_argument, NULL, 's' },
		{ "timeout-ms", required_argument, NULL, 's' },
		{ "work-ms", required_argument, NULL, 's' },
		{ "quote-bytes", required_argument, NULL, 's' },
		{ NULL, 0, NULL, 0 },
	};
	char *end;
	int option, at = 0;

	while ((option = getopt_long(argc, argv, "", options, &at)) != -1) {
		if (option == 'l') {
			add_place(in, optarg);
		} else if (option == 'm') {
			in->mode = (mode_t)strtoul(optarg, &end, 8);
			if (!*optarg || *end || in->mode > 0777)
				fatal("--mode %s: not an octal mode", optarg);
		} else if (option == 'e') {
			in->until_eof = true;
		} else if (option != 's') {
			fatal("usage:\n%s", usage);
		} else if (!set_option(&in->serving.set, options[at].name, optarg, NULL)) {
			fatal("--%s %s: not possible", options[at].name, optarg);
		}
	}
	if (optind != argc || !in->n_places)
		fatal("usage:\n%s", usage);
}

static int watch_signals(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		fatal("signalfd: %s", strerror(errno));
	return fd;
}

int main(int argc, char **argv)
{
	static struct stand_in in = { .commands = STDIN_FILENO, .listening = { -1, -1, -1, -1 } };
	struct rlimit files;

	serving_init(&in.serving);
	read_options(&in, argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	in.signals = watch_signals();
	listen_anew(&in);
	for (int i = 0; i < in.n_places; i++)
		printf("listening %s\n", in.places[i].text);
	run(&in);
	refuse(&in);
	for (int i = 0; i < in.n_places; i++) {
		if (in.places[i].path)
			unlink(in.places[i].path);
	}
	serving_deinit(&in.serving);
	free(in.fds);
	return 0;
}
