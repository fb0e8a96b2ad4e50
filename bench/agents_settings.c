/*
 * agents_settings: bench-agents' command line.
 *
 * Theory of operation: a table says of each option what its value is and where it goes. The first
 * that is wrong is named.
 */
#include "bench/agents_settings.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

static const char help[] =
	"Usage: bench-agents ADDRESS... --token-file FILE [option...]\n"
	"Connects many agents to the relay at ADDRESS (tcp:HOST:PORT, unix:PATH); at several in "
	"turn.\n"
	"In FILE, NAME and SERVICE a % stands for the agent's number, from 0.\n"
	"  --count N           agents (default 100)\n"
	"  --token-file FILE   the owner's token\n"
	"  --ca-file FILE      the CA of the relay's certificate (default: the system's)\n"
	"  --server-name NAME  the name in it\n"
	"  --service SERVICE   what each offers (default s%)\n"
	"  --instance NAME     who each is (default bench-%)\n"
	"  --target ADDRESS    what a stream is joined to (default tcp:127.0.0.1:9)\n"
	"  --transport WORD    direct (default) or websocket\n"
	"  --spread SECONDS    start them evenly over this time (default 0: at once)\n"
	"  --patience SECONDS  time-outs of connecting and of the handshake (default: "
	"attest-tunnel's)\n"
	"  --log-level WORD    error, warning (default), info or debug\n";

static const char *const transports[] = { [TRANSPORT_AUTO] = "",
					  [TRANSPORT_DIRECT] = "direct",
					  [TRANSPORT_WEBSOCKET] = "websocket",
					  NULL };
static const char *const levels[] = { [CONFIG_LOG_ERROR] = "error",
				      [CONFIG_LOG_WARNING] = "warning",
				      [CONFIG_LOG_INFO] = "info",
				      [CONFIG_LOG_DEBUG] = "debug",
				      NULL };

#define COUNT_MAX 1000000
#define SECONDS_MAX 3600

static const struct {
	const char *name;
	enum { TEXT, COUNT, SECONDS, TRANSPORT, LEVEL } kind;
	size_t offset; /* where it goes */
} options[] = {
	{ "--count", COUNT, offsetof(struct settings, count) },
	{ "--spread", SECONDS, offsetof(struct settings, spread) },
	{ "--patience", SECONDS, offsetof(struct settings, patience) },
	{ "--token-file", TEXT, offsetof(struct settings, token_file) },
	{ "--ca-file", TEXT, offsetof(struct settings, ca_file) },
	{ "--server-name", TEXT, offsetof(struct settings, server_name) },
	{ "--service", TEXT, offsetof(struct settings, service) },
	{ "--instance", TEXT, offsetof(struct settings, instance) },
	{ "--target", TEXT, offsetof(struct settings, target) },
	{ "--transport", TRANSPORT, offsetof(struct settings, transport) },
	{ "--log-level", LEVEL, offsetof(struct settings, log_level) },
};
#define OPTIONS (sizeof(options) / sizeof(*options))

static bool set_word(int *to, const char *value, const char *const *words)
{
	for (int i = 0; words[i]; i++) {
		if (strcmp(words[i], value) != 0 || !*value)
			continue;
		*to = i;
		return true;
	}
	return false;
}

static bool to_number(double *to, const char *value, double least, double most)
{
	char *end;

	errno = 0;
	*to = strtod(value, &end);
	return end != value && !*end && !errno && *to >= least && *to <= most;
}

static bool set(void *to, int kind, const char *value)
{
	double number;

	switch (kind) {
	case COUNT:
		if (!to_number(&number, value, 1, COUNT_MAX))
			return false;
		*(unsigned *)to = (unsigned)number;
		return true;
	case SECONDS:
		return to_number(to, value, 0, SECONDS_MAX);
	case TRANSPORT:
		return set_word(to, value, transports);
	case LEVEL:
		return set_word(to, value, levels);
	default:
		*(const char **)to = value;
		return true;
	}
}

static bool apply(struct settings *s, const char *name, const char *value)
{
	for (size_t i = 0; i < OPTIONS; i++)
		if (strcmp(options[i].name, name) == 0)
			return set((char *)s + options[i].offset, options[i].kind, value);
	return false;
}

static bool complain(const char *what, const char *value)
{
	fprintf(stderr, "bench-agents: %s %s\nTry bench-agents --help.\n", what, value);
	return false;
}

bool settings_read(struct settings *s, int argc, char **argv)
{
	*s = (struct settings){ .service = "s%",
				.instance = "bench-%",
				.target = "tcp:127.0.0.1:9",
				.transport = TRANSPORT_DIRECT,
				.log_level = CONFIG_LOG_WARNING,
				.count = 100,
				.addresses = argv };
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0) {
			fputs(help, stdout);
			exit(0);
		}
		if (argv[i][0] != '-')
			argv[s->n_addresses++] = argv[i];
		else if (i + 1 == argc || !apply(s, argv[i], argv[i + 1]))
			return complain(argv[i], i + 1 < argc ? argv[i + 1] : "");
		else
			i++;
	}
	if (!s->n_addresses || !s->token_file)
		return complain(s->n_addresses ? "--token-file" : "the relay's address",
				"is missing");
	return true;
}
