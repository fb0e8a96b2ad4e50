/*
 * fault-proxy: passes connections on, and spoils the path as it is told to.
 *
 * Theory of operation: one epoll loop over commands on stdin, listeners and flows. Several pairs of
 * --listen and --to are one link: they share its toxics. Each command is one line, and is answered
 * by one line on stdout once it has taken effect, so that tests need no pauses:
 *
 *	set up|down|both TOXIC N   0: no more. delay, jitter, coalesce (ms), rate (bytes/s), split
 *	                           (bytes to a piece), hole, stall (1: on), reset (after N bytes)
 *	reorder N                  gather N connections, then connect in another order
 *	reset                      RST to all connections now
 *	clear                      no toxics
 *	schedule SEED gentle|harsh draw all that at random moments; harsh: also what kills
 *	schedule off
 *	stats | quit
 *
 * A schedule follows from its seed alone: each step takes the same count of random numbers. What it
 * draws is written to stderr as commands, with the planned time of each.
 *
 * Only TCP has a reset: see usage.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/tools/flows.h"

#define LINKS 32
#define EVENTS 128

struct link {
	struct flow_end end; /* first: its flow is NULL, which tells it from a flow's */
	struct place from, to;
};

struct schedule {
	bool on, harsh;
	uint64_t random;
	int64_t began, next; /* us */
};

struct proxy {
	struct flows flows;
	struct link links[LINKS];
	int n_from, n_to;
	struct flow_end commands;
	char line[256];
	size_t line_len;
	struct schedule schedule;
	bool over;
};

static void __attribute__((format(printf, 1, 2), noreturn)) fatal(const char *format, ...)
{
	va_list args;

	fputs("fault-proxy: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

/* ---- commands ---- */

static bool read_number(const char *text, uint64_t *value)
{
	char *end;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return !errno && !*end;
}

static bool set_toxic(struct flows *fs, enum direction d, const char *name, uint64_t value)
{
	struct toxics *t = &fs->toxics[d];
	const struct {
		const char *name;
		uint64_t *place;
	} all[] = {
		{ "delay", &t->delay },       { "jitter", &t->jitter }, { "rate", &t->rate },
		{ "split", &t->split },       { "hole", &t->hole },     { "stall", &t->stall },
		{ "coalesce", &t->coalesce }, { "reset", &t->reset },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		if (strcmp(name, all[i].name) != 0)
			continue;
		*all[i].place = value;
		if (all[i].place == &t->hole && !value)
			flows_hole_over(fs, d);
		return true;
	}
	return false;
}

static bool set(struct flows *fs, char *where, char *name, char *number)
{
	bool both = where && strcmp(where, "both") == 0, up = both || (where && *where == 'u'),
	     down = both || (where && *where == 'd');
	uint64_t value;

	if (!where || (!both && strcmp(where, "up") != 0 && strcmp(where, "down") != 0))
		return false;
	if (!name || !read_number(number, &value))
		return false;
	return (!up || set_toxic(fs, UP, name, value)) &&
	       (!down || set_toxic(fs, DOWN, name, value));
}

static void clear(struct flows *fs)
{
	memset(fs->toxics, 0, sizeof(fs->toxics));
	fs->reorder = 0;
	flows_hole_over(fs, UP);
	flows_hole_over(fs, DOWN);
}

static bool begin_schedule(struct schedule *s, const char *seed, const char *how)
{
	*s = (struct schedule){ .began = now_us() };
	if (seed && strcmp(seed, "off") == 0)
		return true;
	if (!read_number(seed, &s->random) || !how)
		return false;
	s->harsh = strcmp(how, "harsh") == 0;
	s->on = s->harsh || strcmp(how, "gentle") == 0;
	s->next = s->began;
	return s->on;
}

static void print_stats(const struct flow_counts *c)
{
	printf("{\"accepted\": %" PRIu64 ", \"live\": %" PRIu64 ", \"ended\": %" PRIu64
	       ", \"aborted\": %" PRIu64 ", \"injected\": %" PRIu64 ", \"unreachable\": %" PRIu64
	       ", \"up\": %" PRIu64 ", \"down\": %" PRIu64 ", \"swallowed_up\": %" PRIu64
	       ", \"swallowed_down\": %" PRIu64 "}\n",
	       c->accepted, c->live, c->ended, c->aborted, c->injected, c->unreachable,
	       c->bytes[UP], c->bytes[DOWN], c->swallowed[UP], c->swallowed[DOWN]);
}

/* False: no such command. */
static bool obey(struct proxy *p, char *line)
{
	struct flows *fs = &p->flows;
	char *at = line, *name = strtok_r(line, " ", &at), *a = strtok_r(NULL, " ", &at),
	     *b = strtok_r(NULL, " ", &at), *c = strtok_r(NULL, " ", &at);

	if (!name)
		return false;
	if (strcmp(name, "set") == 0)
		return set(fs, a, b, c);
	if (strcmp(name, "schedule") == 0)
		return begin_schedule(&p->schedule, a, b);
	if (strcmp(name, "reorder") == 0)
		return read_number(a, &fs->reorder);
	if (strcmp(name, "reset") == 0)
		flows_reset(fs);
	else if (strcmp(name, "clear") == 0)
		clear(fs);
	else if (strcmp(name, "quit") == 0)
		p->over = true;
	else
		return false;
	return true;
}

static void command(struct proxy *p, char *line)
{
	if (strcmp(line, "stats") == 0)
		print_stats(&p->flows.counts);
	else
		puts(obey(p, line) ? "{\"done\": true}" : "{\"done\": false}");
}

static void read_commands(struct proxy *p)
{
	char *end;
	ssize_t n = read(STDIN_FILENO, p->line + p->line_len, sizeof(p->line) - 1 - p->line_len);

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) { /* it ends with who started it */
		p->over = true;
		return;
	}
	p->line_len += (size_t)n;
	p->line[p->line_len] = '\0';
	while ((end = strchr(p->line, '\n'))) {
		*end = '\0';
		command(p, p->line);
		p->line_len -= (size_t)(end + 1 - p->line);
		memmove(p->line, end + 1, p->line_len + 1);
	}
	if (p->line_len == sizeof(p->line) - 1)
		fatal("a command of more than %zu bytes", p->line_len);
}

/* ---- the schedule ---- */

static void compose(const struct schedule *s, char *line, size_t room, uint64_t kind,
		    const char *where, uint64_t value)
{
	static const struct {
		const char *name;
		uint64_t least, most;
	} gentle[] = {
		{ "delay", 1, 40 },        { "jitter", 1, 40 },   { "rate", 100000, 2000000 },
		{ "split", 1, 64 },        { "split", 64, 4096 }, { "stall", 1, 1 },
		{ "coalesce", 1, 40 },
	}, harsh[] = { { "hole", 1, 1 }, { "reset", 1, 200000 } };
	const size_t n = sizeof(gentle) / sizeof(gentle[0]);

	kind %= s->harsh ? n + 8 : n + 5;
	if (kind < n || kind >= n + 6) {
		uint64_t least = kind < n ? gentle[kind].least : harsh[kind - n - 6].least,
			 most = kind < n ? gentle[kind].most : harsh[kind - n - 6].most;

		snprintf(line, room, "set %s %s %" PRIu64, where,
			 kind < n ? gentle[kind].name : harsh[kind - n - 6].name,
			 least + value % (most - least + 1));
	} else if (kind == n) {
		snprintf(line, room, "reorder %" PRIu64, 2 + value % 6);
	} else if (kind < n + 5) {
		snprintf(line, room, "clear");
	} else {
		snprintf(line, room, "reset");
	}
}

static void say_and_do(struct proxy *p, char *line)
{
	const struct schedule *s = &p->schedule;

	fprintf(stderr, "+%" PRId64 " ms: %s\n", (s->next - s->began) / 1000, line);
	if (!obey(p, line))
		fatal("the schedule has drawn what cannot be");
}

/* One step. Stalls, holes and resets last until the next one. */
static void step(struct proxy *p)
{
	static const char *const places[] = { "up", "down", "both" };
	struct schedule *s = &p->schedule;
	uint64_t kind = draw(&s->random), where = draw(&s->random), value = draw(&s->random),
		 pause = draw(&s->random);
	char line[64];

	for (int d = 0; d < DIRECTIONS; d++) {
		set_toxic(&p->flows, d, "stall", 0);
		set_toxic(&p->flows, d, "hole", 0);
		set_toxic(&p->flows, d, "reset", 0);
	}
	compose(s, line, sizeof(line), kind, places[where % 3], value);
	say_and_do(p, line);
	s->next += (int64_t)(20 + pause % 280) * 1000;
}

static int64_t follow_schedule(struct proxy *p, int64_t sleep)
{
	int64_t now = now_us(), until;

	while (p->schedule.on && p->schedule.next <= now)
		step(p);
	if (!p->schedule.on)
		return sleep;
	until = p->schedule.next - now;
	return sleep < 0 || until < sleep ? until : sleep;
}

/* ---- the loop ---- */

static void add_to_epoll(struct proxy *p, struct flow_end *end, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = end };

	end->fd = fd;
	if (epoll_ctl(p->flows.epoll, EPOLL_CTL_ADD, fd, &ev))
		fatal("epoll_ctl: %s", strerror(errno));
}

static void run(struct proxy *p)
{
	struct epoll_event events[EVENTS];

	while (!p->over) {
		int64_t sleep = follow_schedule(p, flows_turn(&p->flows));
		int n;

		if (sleep > 0 && sleep < 1000) /* less than epoll can say */
			usleep((useconds_t)sleep);
		n = epoll_wait(p->flows.epoll, events, EVENTS,
			       sleep < 0 ? -1 : (int)(sleep / 1000));
		if (n < 0 && errno != EINTR)
			fatal("epoll_wait: %s", strerror(errno));
		for (int i = 0; i < n; i++) {
			struct flow_end *end = events[i].data.ptr;
			struct link *l = (struct link *)end;

			if (end->flow)
				flows_event(&p->flows, end, events[i].events);
			else if (end == &p->commands)
				read_commands(p);
			else
				flows_accept(&p->flows, end->fd, &l->to);
		}
	}
}

/* ---- the start ---- */

static const char usage[] =
	"fault-proxy --listen ADDRESS --to ADDRESS [--listen ... --to ...]...\n"
	"    An ADDRESS is unix:/PATH, tcp:ADDRESS:PORT or vsock:CID:PORT; CID may be 'any' to\n"
	"    listen. CID 2, the host, is never connected to.\n"
	"    Commands come on stdin: set, reorder, reset, clear, schedule, stats, quit.\n"
	"Only TCP has a word for RST. A reset, and the end of a hole, are otherwise a close of\n"
	"both directions at once, which on vsock lets the other side\n"
	"    read what had reached it, then an end-of-file: no ECONNRESET, nothing is taken back;\n"
	"    fail to write, with EPIPE, as it would not after an end of one direction.\n"
	"Likewise, who has gone away on vsock is known only by an end-of-file and EPIPE, and\n"
	"an end is what is passed on.\n";

/* NULL, or why not. */
static const char *read_place(struct place *p, const char *text, bool to_connect)
{
	const char *why = place_parse(p, text);

	if (why || !to_connect || !place_is_host(p))
		return why;
	return "that is the host, or any machine: not to be connected to";
}

static void read_options(struct proxy *p, int argc, char **argv)
{
	static const struct option options[] = { { "listen", required_argument, NULL, 'l' },
						 { "to", required_argument, NULL, 't' },
						 { NULL, 0, NULL, 0 } };
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int *n = option == 'l' ? &p->n_from : &p->n_to;
		const char *why;

		if (option == '?' || *n == LINKS)
			fatal("usage:\n%s", usage);
		why = option == 'l' ? read_place(&p->links[*n].from, optarg, false)
				    : read_place(&p->links[*n].to, optarg, true);
		if (why)
			fatal("%s: %s", optarg, why);
		(*n)++;
	}
	if (optind != argc || !p->n_from || p->n_from != p->n_to)
		fatal("usage:\n%s", usage);
}

int main(int argc, char **argv)
{
	static struct proxy p;
	struct rlimit files;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0)
		fatal("epoll_create1: %s", strerror(errno));
	read_options(&p, argc, argv);
	flows_init(&p.flows, epoll);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	add_to_epoll(&p, &p.commands, STDIN_FILENO);
	for (int i = 0; i < p.n_from; i++) {
		int fd = place_listen(&p.links[i].from, 0);

		if (fd < 0)
			fatal("%s: %s", p.links[i].from.text, strerror(errno));
		add_to_epoll(&p, &p.links[i].end, fd);
		printf("listening %s\n", p.links[i].from.text);
	}
	run(&p);
	flows_deinit(&p.flows);
	for (int i = 0; i < p.n_from; i++) {
		close(p.links[i].end.fd);
		if (p.links[i].from.path)
			unlink(p.links[i].from.path);
	}
	close(epoll);
	return 0;
}
