/*
 * load_main: the command line of bench-load.
 *
 * Theory of operation: one table of options, one of modes. Numbers are read whole or refused. A
 * wrong command line, or a machine that cannot do it, exits 2; a run with an error in it exits 1.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/data.h"
#include "bench/load.h"
#include "bench/prologue.h"
#include "bench/serve.h"
#include "bench/wire.h"

static const struct load_mode *const modes[] = {
	&mode_new,    &mode_pingpong, &mode_up,    &mode_down,
	&mode_verify, &mode_idle,     &mode_stall, &mode_statistics,
};
#define MODES (sizeof(modes) / sizeof(modes[0]))

static void usage(FILE *to)
{
	fputs("Usage: bench-load serve ADDR... [--stdin-eof]\n"
	      "       bench-load MODE ADDR [options]\n"
	      "\n"
	      "ADDR is HOST:PORT or unix:PATH. serve is the far end; the other modes load it:\n"
	      "\n",
	      to);
	for (unsigned i = 0; i < MODES; i++)
		fprintf(to, "  %-10s %s\n", modes[i]->name, modes[i]->what);
	fputs("\n"
	      "  --streams N      at once (1)\n"
	      "  --seconds S      measured (2)\n"
	      "  --warmup S       before, not measured (0.3; 0 with --count or --amount)\n"
	      "  --count N        new, pingpong: so many exchanges, instead of --seconds\n"
	      "  --amount BYTES   bulk: so much on each stream and direction, not --seconds\n"
	      "  --no-half-close  with --amount: never end one direction before the other\n"
	      "  --prologue P     sni:NAME or connect:NAME, for a relay's door\n"
	      "  --think US       pingpong: pause after each exchange\n"
	      "  --verify         up, down: data that the other end compares\n"
	      "  --source-spread  come from many addresses in 127.0.0.0/8, with their own ports\n"
	      "  --timeout S      a stream that stands still for so long has failed (30)\n"
	      "\n"
	      "new, pingpong are closed loops: --streams exchanges at once, the next after each.\n"
	      "per_second is of those that ended in the measured time; percentiles are of those\n"
	      "that began in it (timed), however late they ended; max is of all under way in it.\n"
	      "\n"
	      "One JSON object on stdout. After any error its figures are null, exit status 1.\n",
	      to);
}

static double number(const char *option, const char *text, double min, double max)
{
	char *end;
	double value;

	errno = 0;
	value = strtod(text, &end);
	if (errno || end == text || *end || !(value >= min && value <= max))
		fatal("--%s %s: not a number from %g to %g", option, text, min, max);
	return value;
}

static uint64_t ns(const char *option, const char *text, double unit)
{
	return (uint64_t)(number(option, text, 0, 1e6) * unit);
}

static uint64_t whole(const char *option, const char *text)
{
	double value = number(option, text, 1, 1e15);

	if (value != (double)(uint64_t)value)
		fatal("--%s %s: not a whole number", option, text);
	return (uint64_t)value;
}

static void set_prologue(struct load_options *o, const char *text)
{
	const char *colon = strchr(text, ':');

	if (strcmp(text, "none") == 0)
		return;
	if (strncmp(text, "sni:", 4) == 0)
		o->prologue = PROLOGUE_SNI;
	else if (strncmp(text, "connect:", 8) == 0)
		o->prologue = PROLOGUE_CONNECT;
	else
		fatal("--prologue %s: not none, sni:NAME or connect:NAME", text);
	o->name = colon + 1;
	if (!*o->name || strlen(o->name) > PROLOGUE_NAME_MAX)
		fatal("--prologue %s: the name has not 1 to %d bytes", text, PROLOGUE_NAME_MAX);
}

static void set_option(struct load_options *o, char c, const char *name, const char *value)
{
	switch (c) {
	case 'n':
		o->streams = (unsigned)number(name, value, 1, 1e6);
		break;
	case 's':
		o->seconds = ns(name, value, 1e9);
		break;
	case 'w':
		o->warmup = ns(name, value, 1e9);
		break;
	case 'c':
		o->count = whole(name, value);
		break;
	case 'a':
		o->amount = whole(name, value);
		break;
	case 'p':
		set_prologue(o, value);
		break;
	case 't':
		o->think = ns(name, value, 1e3);
		break;
	case 'o':
		o->timeout = ns(name, value, 1e9);
		break;
	case 'S':
		o->spread = true;
		break;
	case 'v':
		o->verify = true;
		break;
	case 'h':
		o->no_half_close = true;
		break;
	default:
		break;
	}
}

static void parse(struct load_options *o, const struct load_mode *mode, int argc, char **argv)
{
	static const struct option options[] = {
		{ "streams", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 's' },
		{ "warmup", required_argument, NULL, 'w' },
		{ "count", required_argument, NULL, 'c' },
		{ "amount", required_argument, NULL, 'a' },
		{ "prologue", required_argument, NULL, 'p' },
		{ "think", required_argument, NULL, 't' },
		{ "timeout", required_argument, NULL, 'o' },
		{ "source-spread", no_argument, NULL, 'S' },
		{ "verify", no_argument, NULL, 'v' },
		{ "no-half-close", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c, i = 0;

	while ((c = getopt_long(argc, argv, "", options, &i)) != -1) {
		if (c == '?')
			exit(2);
		set_option(o, (char)c, options[i].name, optarg);
	}
	if (optind != argc - 1)
		fatal("one ADDR is needed; see bench-load --help");
	place_parse(&o->place, argv[optind]);
	if (o->count && mode->figures != FIGURES_LATENCY)
		fatal("--count is for new and pingpong");
	if (o->amount && mode->figures != FIGURES_BULK)
		fatal("--amount is for up, down and verify");
	if (o->no_half_close && !o->amount)
		fatal("--no-half-close needs an --amount, for the far end to know when it has all");
	if (o->spread && o->place.address.ss_family != AF_INET)
		fatal("--source-spread is for IPv4 on loopback");
}

static void raise_descriptors(unsigned wanted)
{
	struct rlimit r;

	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	if (r.rlim_cur < wanted)
		fatal("%u descriptors are needed, and the limit is %lu", wanted,
		      (unsigned long)r.rlim_cur);
}

static int run(const struct load_mode *mode, int argc, char **argv)
{
	static struct load load = {
		.options = { .streams = 1,
			     .seconds = 2000000000,
			     .warmup = 300000000,
			     .timeout = 30000000000 },
	};
	int status;

	load.mode = mode;
	parse(&load.options, mode, argc, argv);
	raise_descriptors(load.options.streams + 16);
	load_init(&load);
	mode->run(&load);
	status = load_report(&load);
	load_deinit(&load);
	return status;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	data_init();
	wire_init();
	if (argc > 1 && strcmp(argv[1], "--help") == 0) {
		usage(stdout);
		return 0;
	}
	if (argc > 1 && strcmp(argv[1], "serve") == 0) {
		raise_descriptors(64);
		return serve_main(argc - 2, argv + 2);
	}
	for (unsigned i = 0; i < MODES && argc > 1; i++)
		if (strcmp(argv[1], modes[i]->name) == 0)
			return run(modes[i], argc - 1, argv + 1);
	usage(stderr);
	return 2;
}
