/*
 * options: from argv to a complete config.
 *
 * Theory of operation: two passes. The first only looks for --config, so that its place among the
 * flags does not matter; the file, or the defaults, is what the second pass changes: lists grow,
 * single values are overridden. Then tunnel_config_check says what is missing.
 *
 * What is wrong on the command line ends with STATUS_USAGE, what is wrong in the file with
 * STATUS_FAILED: so a supervisor can tell a typo in a unit from a bad config.
 */
#include "tunnel/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/version.h"
#include "tunnel/hello.h"
#include "tunnel/relay_options.h"

#define PROGRAM "attest-tunnel"

static const char help[] =
	"Usage: attest-tunnel --relay ADDRESS --token-file FILE --service NAME=ADDRESS [...]\n"
	"       attest-tunnel --relay ADDRESS --local ADDRESS=service:NAME.OWNER [...]\n"
	"       attest-tunnel --config FILE [...]\n"
	"       attest-tunnel enroll --relay ADDRESS [--folder DIR] [--code-file FILE] [...]\n"
	"       attest-tunnel doctor [--json] [...]\n"
	"\n"
	"Connects out to an attest-relay and offers local services behind it: its clients reach\n"
	"them as NAME.OWNER, with OWNER given by the token. Or gives local ports to services\n"
	"behind it. Or both.\n"
	"\n"
	"  -r, --relay ADDRESS        tcp:HOST:PORT or unix:PATH; again for more relays\n"
	"  -t, --token-file FILE      the token that the relay's operator gave out\n"
	"  -s, --service NAME=ADDRESS what to offer, tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or\n"
	"                             hybrid:PATH:PORT; again for more. ADDRESS,dial=eager:\n"
	"                             connect before the client's first byte (the service\n"
	"                             speaks first). ADDRESS,proxy_protocol=v2 (or v1):\n"
	"                             tell the service by a PROXY header who the client is.\n"
	"                             ADDRESS,allow=client:NAME (or dns:NAME, uri:URI): only\n"
	"                             for whom the relay has verified as that; again for more\n"
	"  -l, --local ADDRESS=service:NAME.OWNER  listen at ADDRESS, tcp:127.0.0.1:PORT,\n"
	"                             unix:PATH or fd:NAME (systemd's socket); what connects\n"
	"                             there reaches that service behind the relay; again for\n"
	"                             more\n"
	"      --certificate FILE     shown to the relay, instead of a token too (PEM), with its\n"
	"      --key FILE             private key; default: none is\n"
	"      --ca-file FILE         CAs that the relay's certificate is verified with (PEM);\n"
	"                             default: the system's\n"
	"      --server-name NAME     the name in that certificate; default: the relay's HOST\n"
	"      --proxy URL            go through this proxy, http://[USER@]HOST:PORT, https://,\n"
	"                             socks5:// or socks5h://; none: through none; default: what\n"
	"                             HTTPS_PROXY, ALL_PROXY and NO_PROXY say\n"
	"      --no-proxy LIST        relays it is not for, between commas, as in NO_PROXY, and\n"
	"                             instead of that: hosts, addresses, networks, or *\n"
	"      --proxy-credentials-file FILE  USER:PASSWORD for it, on one line\n"
	"      --proxy-ca-file FILE   CAs for a proxy at https:// (PEM); default: the system's\n"
	"      --transport KIND       auto (default), direct (TLS) or websocket\n"
	"      --instance NAME        this agent's name, stable over restarts; default: made from\n"
	"                             the machine's id and the services\n"
	"      --metrics ADDRESS      serve metrics for Prometheus there, tcp:HOST:PORT or\n"
	"                             unix:PATH, and health; default: nowhere\n"
	"  -c, --config FILE          attest-tunnel.yaml(5); flags add to it and override it\n"
	"      --once                 connect once; end when that fails or is over\n"
	"      --check-config         say what is wrong with the config and end; 0: nothing\n"
	"      --dump-config          print the values in effect, defaults included, and end\n"
	"      --no-sandbox           keep all rights; for finding faults\n"
	"      --log-level LEVEL      error, warning, info (default) or debug\n"
	"      --log-format FORMAT    text (default) or json\n"
	"      --json                 for doctor: print JSON\n"
	"  -h, --help                 this text\n"
	"  -V, --version              the version\n"
	"\n"
	"doctor looks at what usually is wrong with all of that, and says what to do.\n"
	"enroll gets certificate and key from the relay, for a code that its operator gave out:\n"
	"\n"
	"      --folder DIR           where they go; default: the current one\n"
	"      --code-file FILE       the code is in there; default: it is asked for\n"
	"      --force                replace a key and a certificate that are there\n"
	"      --renew                a new pair for the one that is there, without a code\n"
	"      --keep-key             with --renew: for the same key\n"
	"\n"
	"Exit status: 0 ended in order, 1 could not start or (--once) connect, 2 wrong usage,\n"
	"3 (--once) refused by the relay. See attest-tunnel(1).\n";

enum {
	OPTION_CERTIFICATE = RELAY_OPTIONS_END,
	OPTION_KEY,
	OPTION_TRANSPORT,
	OPTION_INSTANCE,
	OPTION_METRICS,
	OPTION_ONCE,
	OPTION_CHECK,
	OPTION_DUMP,
	OPTION_NO_SANDBOX,
	OPTION_LOG_LEVEL,
	OPTION_LOG_FORMAT,
};

static const struct option long_options[] = {
	RELAY_OPTIONS_LONG,
	{ "token-file", required_argument, NULL, 't' },
	{ "service", required_argument, NULL, 's' },
	{ "local", required_argument, NULL, 'l' },
	{ "certificate", required_argument, NULL, OPTION_CERTIFICATE },
	{ "key", required_argument, NULL, OPTION_KEY },
	{ "transport", required_argument, NULL, OPTION_TRANSPORT },
	{ "instance", required_argument, NULL, OPTION_INSTANCE },
	{ "metrics", required_argument, NULL, OPTION_METRICS },
	{ "config", required_argument, NULL, 'c' },
	{ "once", no_argument, NULL, OPTION_ONCE },
	{ "check-config", no_argument, NULL, OPTION_CHECK },
	{ "dump-config", no_argument, NULL, OPTION_DUMP },
	{ "no-sandbox", no_argument, NULL, OPTION_NO_SANDBOX },
	{ "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
	{ "log-format", required_argument, NULL, OPTION_LOG_FORMAT },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};
static const char short_options[] = "r:t:s:l:c:hV";

static void set_text(char **to, const char *text)
{
	free(*to);
	*to = xstrdup(text);
}

/* One of the words of the setting that the flag stands for. */
static bool set_word(struct tunnel_config *c, const char *key, const char *flag, const char *text)
{
	char *why = NULL;

	if (tunnel_config_set_word(c, key, text, &why) == 0)
		return true;
	relay_options_complain("--%s %s: %s", flag, text, why);
	free(why);
	return false;
}

static bool set_metrics(struct tunnel_config *c, const char *text)
{
	struct address a = { 0 };

	if (!relay_options_address(&a, "metrics", text))
		return false;
	address_deinit(&c->metrics);
	c->metrics = a;
	return true;
}

static bool add_service(struct tunnel_config *c, const char *text)
{
	char *why = NULL;

	if (tunnel_config_add_service(c, text, &why) == 0)
		return true;
	relay_options_complain("--service %s", why ? why : text);
	free(why);
	return false;
}

static bool add_local(struct tunnel_config *c, const char *text)
{
	char *why = NULL;

	if (tunnel_config_add_local(c, text, &why) == 0)
		return true;
	relay_options_complain("--local %s", why ? why : text);
	free(why);
	return false;
}

static bool set_instance(struct tunnel_config *c, const char *text)
{
	if (!hello_is_instance(text))
		return relay_options_complain(
			"--instance %s: expected 1 to 64 of A-Z a-z 0-9 . _ -", text);
	set_text(&c->instance, text);
	return true;
}

/* Where an option's text goes as it is; NULL: there is more to it. */
static char **text_of(struct tunnel_config *c, int option)
{
	switch (option) {
	case 't':
		return &c->token_file;
	case OPTION_CERTIFICATE:
		return &c->certificate;
	case OPTION_KEY:
		return &c->key;
	default:
		return NULL;
	}
}

/* False: what is wrong has been said. */
static bool apply(struct options *o, int option, const char *value)
{
	struct tunnel_config *c = o->config;

	if (relay_options_has(option))
		return relay_options_apply(c, option, value);
	if (text_of(c, option)) {
		set_text(text_of(c, option), value);
		return true;
	}
	switch (option) {
	case 's':
		return add_service(c, value);
	case 'l':
		return add_local(c, value);
	case OPTION_TRANSPORT:
		return set_word(c, "transport", "transport", value);
	case OPTION_METRICS:
		return set_metrics(c, value);
	case OPTION_INSTANCE:
		return set_instance(c, value);
	case OPTION_LOG_LEVEL:
		return set_word(c, "log.level", "log-level", value);
	case OPTION_LOG_FORMAT:
		return set_word(c, "log.format", "log-format", value);
	case OPTION_ONCE:
		o->once = true;
		return true;
	case OPTION_CHECK:
		o->action = OPTIONS_CHECK;
		return true;
	case OPTION_DUMP:
		o->action = OPTIONS_DUMP;
		return true;
	case OPTION_NO_SANDBOX:
		o->no_sandbox = true;
		return true;
	default: /* --config: done in the first pass */
		return true;
	}
}

static struct options end(struct options o, int status)
{
	o.config = tunnel_config_free(o.config);
	o.action = OPTIONS_DONE;
	o.status = status;
	return o;
}

static struct options end_usage(struct options o)
{
	fputs("Try " PROGRAM " --help.\n", stderr);
	return end(o, STATUS_USAGE);
}

/* Finds --config, and what ends the program right away. False: o is the result. */
static bool first_pass(int argc, char **argv, const char **path, struct options *o)
{
	int option;

	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		switch (option) {
		case 'c':
			*path = optarg;
			break;
		case 'h':
			fputs(help, stdout);
			*o = end(*o, STATUS_ORDERLY);
			return false;
		case 'V':
			version_print(PROGRAM);
			*o = end(*o, STATUS_ORDERLY);
			return false;
		case '?':
			*o = end_usage(*o);
			return false;
		default:
			break;
		}
	}
	if (optind == argc)
		return true;
	relay_options_complain("unexpected argument \"%s\"", argv[optind]);
	*o = end_usage(*o);
	return false;
}

static bool check(const struct tunnel_config *c, const char *name, struct config_errors *e)
{
	tunnel_config_check(c, name, e);
	if (c->n_services > HELLO_SERVICES_MAX)
		config_errors_add(e,
				  "%s: %zu services; expected at most %d for one agent: start "
				  "a second one for the others",
				  name, c->n_services, HELLO_SERVICES_MAX);
	if (c->instance && !hello_is_instance(c->instance))
		config_errors_add(e, "%s: instance: %s; expected 1 to 64 of A-Z a-z 0-9 . _ -",
				  name, c->instance);
	return e->n == 0;
}

struct options options_judge(int argc, char **argv, struct config_errors *errors)
{
	struct options o = { .action = OPTIONS_RUN, .argc = argc, .argv = argv };
	const char *path = NULL;
	bool good = true;
	int option;

	if (!first_pass(argc, argv, &path, &o))
		return o;
	o.path = path;
	o.config = path ? tunnel_config_load(path, errors) : tunnel_config_new();
	if (!o.config)
		return end(o, STATUS_FAILED);
	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1)
		good = apply(&o, option, optarg) && good;
	if (!good)
		return end_usage(o);
	if (o.once && o.config->n_locals && !o.config->n_services) {
		relay_options_complain(
			"--once: it is the connections of services that are made once, and there "
			"is no service; expected --service NAME=ADDRESS, or no --once");
		return end_usage(o);
	}
	if (!check(o.config, path ? path : PROGRAM, errors))
		return end(o, path ? STATUS_FAILED : STATUS_USAGE);
	return o;
}

struct options options_read(int argc, char **argv)
{
	struct config_errors errors = { 0 };
	struct options o = options_judge(argc, argv, &errors);

	config_errors_print(&errors, stderr);
	if (errors.n && o.status == STATUS_USAGE)
		fputs("Try " PROGRAM " --help.\n", stderr);
	config_errors_deinit(&errors);
	return o;
}
