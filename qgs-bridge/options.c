/*
 * options: from argv to a complete config.
 *
 * Theory of operation: two passes. The first only looks for --config, so that its place among the
 * flags does not matter; the file, or the defaults, is what the second pass changes: lists grow,
 * single values are overridden. --mode and --group are for all the sockets of --listen, wherever
 * they stand, so they come last. Then bridge_config_check says what is missing.
 *
 * What is wrong on the command line ends with BRIDGE_USAGE, what is wrong in the file with
 * BRIDGE_FAILED: so a supervisor can tell a typo in a unit from a bad config. A reload goes the
 * same way, but logs what is wrong, since nobody reads what a daemon prints.
 */
#include "qgs-bridge/options.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/bridge.h"
#include "relay/log.h"
#include "relay/version.h"

#define PROGRAM "qgs-bridge"

static const char help[] =
	"Usage: qgs-bridge --listen ADDRESS [...]\n"
	"       qgs-bridge --config FILE [...]\n"
	"       qgs-bridge doctor [--json] [...]\n"
	"\n"
	"Takes the quote requests of this node's VMs to its Quote Generation Service (QGS), whole\n"
	"and in turn; and other streams of VMs to services behind an attest-relay.\n"
	"\n"
	"  -l, --listen ADDRESS       where VMs come in for QGS: vsock:any:PORT, unix:PATH,\n"
	"                             hybrid:PATH:PORT, tcp:127.0.0.1:PORT or fd:NAME; again for\n"
	"                             more\n"
	"  -q, --qgs ADDRESS          where QGS listens, unix:PATH, vsock:CID:PORT or\n"
	"                             hybrid:PATH:PORT; default: unix:/var/run/tdx-qgs/qgs.socket\n"
	"      --mode MODE            of the Unix sockets of --listen, octal; default: 0660\n"
	"      --group GROUP          of the Unix sockets of --listen; default: the process's\n"
	"      --framing KIND         qgs (default): whole requests; none: bytes as they come\n"
	"  -c, --config FILE          qgs-bridge.yaml(5); flags add to it and override it\n"
	"      --check-config         say what is wrong with the config and end; 0: nothing\n"
	"      --dump-config          print the values in effect, defaults included, and end\n"
	"      --no-sandbox           keep all rights; for finding faults\n"
	"      --log-level LEVEL      error, warning, info (default) or debug\n"
	"      --json                 for doctor: print JSON\n"
	"  -h, --help                 this text\n"
	"  -V, --version              the version\n"
	"\n"
	"doctor looks at what usually is wrong with all of that, and says what to do.\n"
	"Exit status: 0 ended in order, 1 could not start, 2 wrong usage. See qgs-bridge(8).\n";

enum {
	OPTION_MODE = 256,
	OPTION_GROUP,
	OPTION_FRAMING,
	OPTION_CHECK,
	OPTION_DUMP,
	OPTION_NO_SANDBOX,
	OPTION_LOG_LEVEL,
};

static const struct option long_options[] = {
	{ "listen", required_argument, NULL, 'l' },
	{ "qgs", required_argument, NULL, 'q' },
	{ "mode", required_argument, NULL, OPTION_MODE },
	{ "group", required_argument, NULL, OPTION_GROUP },
	{ "framing", required_argument, NULL, OPTION_FRAMING },
	{ "config", required_argument, NULL, 'c' },
	{ "check-config", no_argument, NULL, OPTION_CHECK },
	{ "dump-config", no_argument, NULL, OPTION_DUMP },
	{ "no-sandbox", no_argument, NULL, OPTION_NO_SANDBOX },
	{ "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};
static const char short_options[] = "l:q:c:hV";

/* One of the words of the setting that the flag stands for. */
static void set_word(struct bridge_config *c, const char *key, const char *flag, const char *text,
		     struct config_errors *e)
{
	char *why = NULL;

	if (bridge_config_set_word(c, key, text, &why) == 0)
		return;
	config_errors_add(e, PROGRAM ": --%s %s: %s", flag, text, why);
	free(why);
}

/* By one of the config's functions, which know what may be there. NULL is no flag. */
static void set(struct bridge_config *c,
		int (*how)(struct bridge_config *c, const char *text, char **why), const char *flag,
		const char *text, struct config_errors *e)
{
	char *why = NULL;

	if (!text || how(c, text, &why) == 0)
		return;
	config_errors_add(e, PROGRAM ": --%s %s", flag, why);
	free(why);
}

/* The second pass: the flags onto the config. */
static void apply(struct bridge_options *o, int argc, char **argv, struct config_errors *e)
{
	const char *mode = NULL, *group = NULL;
	struct bridge_config *c = o->config;
	int option;

	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		if (option == 'l')
			set(c, bridge_config_add_listener, "listen", optarg, e);
		else if (option == 'q')
			set(c, bridge_config_set_qgs, "qgs", optarg, e);
		else if (option == OPTION_MODE)
			mode = optarg;
		else if (option == OPTION_GROUP)
			group = optarg;
		else if (option == OPTION_FRAMING)
			set_word(c, "qgs.framing", "framing", optarg, e);
		else if (option == OPTION_LOG_LEVEL)
			set_word(c, "log.level", "log-level", optarg, e);
		else if (option == OPTION_CHECK)
			o->action = BRIDGE_CHECK;
		else if (option == OPTION_DUMP)
			o->action = BRIDGE_DUMP;
		else if (option == OPTION_NO_SANDBOX)
			o->no_sandbox = true;
	}
	set(c, bridge_config_set_mode, "mode", mode, e);
	set(c, bridge_config_set_group, "group", group, e);
}

/* Fills o->config from o->path and the flags. NULL: e has an entry, o->status says of what. */
static void read_all(struct bridge_options *o, int argc, char **argv, struct config_errors *e)
{
	size_t before = e->n;

	o->status = BRIDGE_FAILED;
	o->config = o->path ? bridge_config_load(o->path, e) : bridge_config_new();
	if (!o->config)
		return;
	apply(o, argc, argv, e);
	if (e->n > before)
		o->status = BRIDGE_USAGE;
	else if (bridge_config_check(o->config, o->path ? o->path : PROGRAM, e) < 0)
		o->status = o->path ? BRIDGE_FAILED : BRIDGE_USAGE;
	else
		return;
	o->config = bridge_config_unref(o->config);
}

/* ---- the first pass ---- */

static void explain_argument(const char *text)
{
	struct address a;

	fprintf(stderr, PROGRAM ": unexpected argument \"%s\"", text);
	if (address_parse(&a, text, NULL) == 0) {
		fprintf(stderr, "; did you mean --listen %s?", text);
		address_deinit(&a);
	}
	fputs("\nTry " PROGRAM " --help.\n", stderr);
}

/* Finds --config, and what ends the program right away: false, and *status is how. */
static bool first_pass(int argc, char **argv, const char **path, int *status)
{
	int option;

	*status = BRIDGE_ORDERLY;
	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		switch (option) {
		case 'c':
			*path = optarg;
			break;
		case 'h':
			fputs(help, stdout);
			return false;
		case 'V':
			version_print(PROGRAM);
			return false;
		case '?': /* getopt has said what is wrong */
			fputs("Try " PROGRAM " --help.\n", stderr);
			*status = BRIDGE_USAGE;
			return false;
		default:
			break;
		}
	}
	if (optind == argc)
		return true;
	explain_argument(argv[optind]);
	*status = BRIDGE_USAGE;
	return false;
}

struct bridge_options bridge_options_judge(int argc, char **argv, struct config_errors *errors)
{
	struct bridge_options o = { .action = BRIDGE_RUN };

	if (!first_pass(argc, argv, &o.path, &o.status)) {
		o.action = BRIDGE_DONE;
		return o;
	}
	read_all(&o, argc, argv, errors);
	if (o.config)
		o.status = BRIDGE_ORDERLY;
	else
		o.action = BRIDGE_DONE;
	return o;
}

struct bridge_options bridge_options_read(int argc, char **argv)
{
	struct config_errors e = { 0 };
	struct bridge_options o = bridge_options_judge(argc, argv, &e);

	config_errors_print(&e, stderr);
	if (e.n && o.status == BRIDGE_USAGE)
		fputs("Try " PROGRAM " --help.\n", stderr);
	config_errors_deinit(&e);
	return o;
}

struct bridge_config *bridge_options_reload(int argc, char **argv, char **why)
{
	struct bridge_options o = { .action = BRIDGE_RUN };
	struct config_errors e = { 0 };

	*why = NULL;
	if (!first_pass(argc, argv, &o.path, &o.status))
		return NULL;
	read_all(&o, argc, argv, &e);
	for (size_t i = 0; i < e.n; i++)
		log_error("%s", e.at[i]);
	if (e.more)
		log_error("and %zu more", e.more);
	*why = o.config ? NULL : config_errors_join(&e);
	config_errors_deinit(&e);
	return o.config;
}
