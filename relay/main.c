/*
 * attest-relay: the cloud's boundary gateway.
 *
 * Stages: arguments; the config; then what is left is the daemon's, or a command's. Only this file
 * and tunnel/ know both relay/ and tunnel/.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/daemon.h"
#include "relay/doctor_relay.h"
#include "relay/enroll_command.h"
#include "relay/token_command.h"
#include "relay/version.h"
#include "tunnel/h2_door.h"
#include "tunnel/hub.h"
#include "tunnel/ws_door.h"

enum { EXIT_USAGE = 2 };

static const char usage[] =
	"Usage: attest-relay --config FILE [--takeover] [--no-sandbox] [--log-level LEVEL]\n"
	"       attest-relay --config FILE --check-config | --dump-config\n"
	"       attest-relay doctor --config FILE [--json]\n"
	"       attest-relay token new\n"
	"       attest-relay token hash < FILE\n"
	"       attest-relay enroll [--config FILE] OWNER [--label TEXT]\n"
	"       attest-relay enroll init [--config FILE]\n"
	"       attest-relay enroll list [--config FILE] [--owner NAME]\n"
	"       attest-relay enroll revoke [--config FILE] SERIAL ... | --owner NAME\n"
	"\n"
	"Joins clients in a cloud to attestation services behind NAT, and reads nothing of what\n"
	"passes.\n"
	"\n"
	"  -c, --config FILE    the configuration, attest-relay.yaml(5)\n"
	"      --check-config   say what is wrong with it and end; 0: nothing\n"
	"      --dump-config    print the values in effect, defaults included, and end\n"
	"      --takeover       take the place of a running one, if there is one, with its "
	"sockets:\n"
	"                       no client is turned away\n"
	"      --no-sandbox     keep all rights; for finding faults\n"
	"      --log-level LEVEL  error, warning, info or debug, until the next reload\n"
	"      --json           for doctor: print JSON\n"
	"  -h, --help           this text\n"
	"  -V, --version        the version\n"
	"\n"
	"doctor looks at what usually is wrong, and says what to do.\n"
	"token new prints a fresh token, once, and the line for the config's owners.\n"
	"token hash reads a token from standard input and prints that line.\n"
	"\n"
	"enroll OWNER prints a code, good once, for which attest-tunnel enroll gets a client\n"
	"certificate; enroll init makes the CA for that.\n"
	"\n"
	"      --label TEXT     for enroll OWNER: whom the code is for, in the log and the list\n"
	"      --owner NAME     for enroll: the owner\n"
	"\n"
	"See attest-relay(8).\n";

static void install(struct gateway *g)
{
	hub_install(g);
	h2_door_install(g);
	ws_door_install(g);
}

/* NULL: what is wrong has been said. */
static struct relay_config *load(const char *path)
{
	struct config_errors errors = { 0 };
	struct relay_config *config = relay_config_load(path, &errors);

	if (!config)
		config_errors_print(&errors, stderr);
	config_errors_deinit(&errors);
	return config;
}

/* What is no daemon. */
static int command(int argc, char **argv)
{
	int status;

	if (strcmp(argv[0], "doctor") == 0)
		return doctor_relay(argc, argv);
	if (strcmp(argv[0], "enroll") == 0)
		return (status = enroll_command(argc, argv)) < 0 ? EXIT_USAGE : status;
	status = token_command(argc, argv);
	if (status < 0)
		fputs(usage, stderr);
	return status < 0 ? EXIT_USAGE : status;
}

struct arguments {
	const char *path;
	bool check, dump, no_sandbox, takeover;
	const char *log_level; /* NULL: the config's */
};

/* -1, or the status to end with: it has been said why. */
static int read_arguments(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check-config", no_argument, NULL, 'k' },
		{ "dump-config", no_argument, NULL, 'd' },
		{ "no-sandbox", no_argument, NULL, 's' },
		{ "takeover", no_argument, NULL, 't' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
		switch (o) {
		case 'c':
			a->path = optarg;
			break;
		case 'k':
			a->check = true;
			break;
		case 'd':
			a->dump = true;
			break;
		case 's':
			a->no_sandbox = true;
			break;
		case 't':
			a->takeover = true;
			break;
		case 'l':
			a->log_level = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'V':
			version_print("attest-relay");
			return 0;
		default:
			fputs("Try attest-relay --help.\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (a->path && optind == argc)
		return -1;
	fprintf(stderr, "attest-relay: %s\nTry attest-relay --help.\n",
		a->path ? "too many arguments" : "--config FILE is needed");
	return EXIT_USAGE;
}

/* Until a reload. 0, or the status to end with. */
static int set_level(struct relay_config *config, const char *word)
{
	char *why = NULL;

	if (!word || relay_config_set_word(config, "log.level", word, &why) == 0)
		return 0;
	fprintf(stderr, "attest-relay: --log-level %s: %s\n", word, why ? why : "out of memory");
	free(why);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct arguments a = { 0 };
	struct relay_config *config;
	int r;

	if (argc > 1 && (strcmp(argv[1], "token") == 0 || strcmp(argv[1], "enroll") == 0 ||
			 strcmp(argv[1], "doctor") == 0))
		return command(argc - 1, argv + 1);
	r = read_arguments(argc, argv, &a);
	if (r >= 0)
		return r;
	config = load(a.path);
	if (!config)
		return 1;
	r = set_level(config, a.log_level);
	if (r)
		fputs("Try attest-relay --help.\n", stderr);
	else if (a.dump)
		relay_config_dump(config, stdout);
	else if (a.check)
		fprintf(stderr, "%s: good\n", a.path);
	else
		r = daemon_run(&(struct daemon_options){ .config = config,
							 .path = a.path,
							 .sandbox = !a.no_sandbox,
							 .takeover = a.takeover,
							 .install = install });
	relay_config_unref(config);
	return r;
}
