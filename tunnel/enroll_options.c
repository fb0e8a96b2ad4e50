/*
 * enroll_options: the command line of attest-tunnel enroll.
 *
 * Theory of operation: as options.c: two passes, of which the first looks for --config only. What
 * the two have in common is relay_options.c, and the config they fill; the code is in none of it.
 */
#include "tunnel/enroll_options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "tunnel/options.h"
#include "tunnel/relay_options.h"

#define PROGRAM "attest-tunnel"

static const char help[] =
	"Usage: attest-tunnel enroll --relay ADDRESS [...]\n"
	"\n"
	"Gets a client certificate from a relay, for a code that its operator made by\n"
	"attest-relay enroll. The code is typed when asked for, or read from standard input; it "
	"is\n"
	"good once. Key and certificate are key.pem and certificate.pem in the folder.\n"
	"\n"
	"      --folder DIR           where they go; default: the current one\n"
	"      --code-file FILE       the code is in there\n"
	"      --force                replace a key and a certificate that are there\n"
	"      --renew                a new pair for the one that is there, without a code, if "
	"less\n"
	"                             than a third of its time is left, or with --force\n"
	"      --keep-key             with --renew: for the same key\n"
	"  -r, --relay ADDRESS        tcp:HOST:PORT or unix:PATH; again for more, tried in turn\n"
	"  -c, --config FILE          attest-tunnel.yaml(5), for relays and the way to them\n"
	"      --ca-file FILE, --server-name NAME, --proxy URL, --no-proxy LIST,\n"
	"      --proxy-credentials-file FILE, --proxy-ca-file FILE   as without enroll\n"
	"  -h, --help                 this text\n"
	"\n"
	"Exit status: 0 done, 1 failed, 2 wrong usage, 3 the relay refused. See "
	"attest-tunnel(1).\n";

int enroll_options_complain(int status, const char *fmt, ...)
{
	va_list args;

	fputs(PROGRAM ": ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

/* Takes over an allocated line. */
int enroll_options_complain_why(int status, char *why)
{
	enroll_options_complain(status, "%s", why ? why : "out of memory");
	free(why);
	return status;
}

enum {
	OPTION_FOLDER = RELAY_OPTIONS_END,
	OPTION_CODE_FILE,
	OPTION_FORCE,
	OPTION_RENEW,
	OPTION_KEEP_KEY
};

static const struct option long_options[] = {
	RELAY_OPTIONS_LONG,
	{ "config", required_argument, NULL, 'c' },
	{ "folder", required_argument, NULL, OPTION_FOLDER },
	{ "code-file", required_argument, NULL, OPTION_CODE_FILE },
	{ "force", no_argument, NULL, OPTION_FORCE },
	{ "renew", no_argument, NULL, OPTION_RENEW },
	{ "keep-key", no_argument, NULL, OPTION_KEEP_KEY },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};
static const char short_options[] = "r:c:h";

static bool apply(struct enroll_options *o, int option, const char *value)
{
	switch (option) {
	case OPTION_FOLDER:
		o->folder = value;
		return true;
	case OPTION_CODE_FILE:
		o->code_file = value;
		return true;
	case OPTION_FORCE:
		o->force = true;
		return true;
	case OPTION_RENEW:
		o->renew = true;
		return true;
	case OPTION_KEEP_KEY:
		o->keep_key = true;
		return true;
	default: /* --config: done in the first pass */
		return !relay_options_has(option) || relay_options_apply(o->config, option, value);
	}
}

/* The file, or the defaults; NULL: *status, and what is wrong has been said. */
static struct tunnel_config *load(int argc, char **argv, int *status)
{
	struct config_errors errors = { 0 };
	struct tunnel_config *config;
	const char *path = NULL;
	int option;

	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		if (option == 'c')
			path = optarg;
		*status = option == 'h' ? STATUS_ORDERLY : STATUS_USAGE;
		if (option == 'h')
			fputs(help, stdout);
		if (option == '?')
			fputs("Try " PROGRAM " enroll --help.\n", stderr);
		if (option == 'h' || option == '?')
			return NULL;
	}
	*status = STATUS_USAGE;
	if (optind < argc) {
		/* which is not quoted: it may be one */
		enroll_options_complain(
			0, "unexpected argument; a code is never one, for others could read it");
		return NULL;
	}
	*status = STATUS_FAILED;
	config = path ? tunnel_config_load(path, &errors) : tunnel_config_new();
	config_errors_print(&errors, stderr);
	config_errors_deinit(&errors);
	return config;
}

/* What a run needs. */
static bool check(const struct enroll_options *o)
{
	const struct tunnel_config *c = o->config;

	if ((o->keep_key && !o->renew) || (o->renew && o->code_file)) {
		enroll_options_complain(0, o->renew ? "--renew takes no code"
						    : "--keep-key is for --renew");
		return false;
	}
	if (!c->relays.n)
		enroll_options_complain(0, "--relay ADDRESS is needed");
	for (size_t i = 0; i < c->relays.n; i++) {
		if (c->relays.at[i].kind == ADDRESS_TCP || c->server_name)
			continue;
		enroll_options_complain(
			0, "a relay at a Unix socket has no host name: --server-name is needed");
		return false;
	}
	return c->relays.n;
}

bool enroll_options_read(struct enroll_options *o, int argc, char **argv, int *status)
{
	bool good = true;
	int option;

	*o = (struct enroll_options){ .folder = NULL };
	o->config = load(argc, argv, status);
	if (!o->config)
		return false;
	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1)
		good = apply(o, option, optarg) && good;
	if (good && check(o))
		return true;
	fputs("Try " PROGRAM " enroll --help.\n", stderr);
	tunnel_config_free(o->config);
	*status = STATUS_USAGE;
	return false;
}
