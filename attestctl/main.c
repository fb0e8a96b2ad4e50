/*
 * attestctl: asks a running attest-relay, attest-tunnel or qgs-bridge, and tells it what to do, at
 * its admin socket.
 *
 * Stages:
 *   options   which socket, which filters
 *   command   one; its exit status is ours, see commands.h
 */
#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json_c_version.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attestctl/client.h"
#include "attestctl/commands.h"

static const char usage[] =
	"Usage: attestctl [--socket PATH | --relay | --tunnel | --bridge] [--json] COMMAND [...]\n"
	"\n"
	"Asks a running attest-relay, attest-tunnel or qgs-bridge, or tells it what to do.\n"
	"\n"
	"  -s, --socket PATH     its admin socket, or @NAME; default: ATTESTCTL_SOCKET, or the\n"
	"                        first that is there of those that --relay, --tunnel, --bridge "
	"name\n"
	"      --relay           /run/attest-relay/admin.sock\n"
	"      --tunnel          /run/attest-tunnel/admin.sock, or that in XDG_RUNTIME_DIR\n"
	"      --bridge          /run/qgs-bridge/admin.sock\n"
	"  -j, --json            what it answers, for programs\n"
	"      --service NAME    of streams: only to this service, NAME.OWNER\n"
	"      --owner NAME      of streams and tunnels: only this owner's; revoke: all of it\n"
	"      --client WHO      of streams: only of this address (tcp:HOST, with or without\n"
	"                        :PORT), entry of clients, or name in a certificate\n"
	"      --of-tunnel ID    of streams: only in this tunnel\n"
	"      --limit N         of streams and tunnels: at most so many\n"
	"  -h, --help            this\n"
	"  -V, --version         what it is\n"
	"\n"
	"Commands:\n";

#define RELAY_SOCKET "/run/attest-relay/admin.sock"
#define TUNNEL_SOCKET "/run/attest-tunnel/admin.sock"
#define BRIDGE_SOCKET "/run/qgs-bridge/admin.sock"

enum {
	OPT_RELAY = 256,
	OPT_TUNNEL,
	OPT_BRIDGE,
	OPT_SERVICE,
	OPT_OWNER,
	OPT_CLIENT,
	OPT_OF_TUNNEL,
	OPT_LIMIT
};

static const struct option options[] = {
	{ "socket", required_argument, NULL, 's' },
	{ "relay", no_argument, NULL, OPT_RELAY },
	{ "tunnel", no_argument, NULL, OPT_TUNNEL },
	{ "bridge", no_argument, NULL, OPT_BRIDGE },
	{ "json", no_argument, NULL, 'j' },
	{ "service", required_argument, NULL, OPT_SERVICE },
	{ "owner", required_argument, NULL, OPT_OWNER },
	{ "client", required_argument, NULL, OPT_CLIENT },
	{ "of-tunnel", required_argument, NULL, OPT_OF_TUNNEL },
	{ "limit", required_argument, NULL, OPT_LIMIT },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* A user's own attest-tunnel; "": no such folder. */
static const char *own_tunnel(char *buf, size_t size)
{
	const char *folder = getenv("XDG_RUNTIME_DIR");

	buf[0] = '\0';
	if (folder && *folder == '/')
		snprintf(buf, size, "%s/attest-tunnel/admin.sock", folder);
	return buf;
}

/* The first that is there; none: the first of all, which the error is about then. */
static const char *first_there(const char *const paths[], size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (*paths[i] && access(paths[i], F_OK) == 0)
			return paths[i];
	return paths[0];
}

static const char *default_socket(int which, char *buf, size_t size)
{
	const char *const all[] = { RELAY_SOCKET, TUNNEL_SOCKET, own_tunnel(buf, size),
				    BRIDGE_SOCKET };
	const char *environment = getenv("ATTESTCTL_SOCKET");

	if (which == OPT_RELAY)
		return RELAY_SOCKET;
	if (which == OPT_TUNNEL)
		return first_there(all + 1, 2);
	if (which == OPT_BRIDGE)
		return BRIDGE_SOCKET;
	return environment && *environment ? environment : first_there(all, 4);
}

/* False: it is none. */
static bool number(const char *text, uint64_t *to)
{
	char *end;

	errno = 0;
	*to = strtoull(text, &end, 10);
	return text[0] >= '0' && text[0] <= '9' && !*end && !errno;
}

static int run(struct ctl *c, const char *socket, const char *name)
{
	int status;

	if (strncmp(socket, "unix:", 5) == 0)
		socket += 5;
	c->client = client_new(socket);
	if (!c->client) {
		fprintf(stderr, "attestctl: out of memory\n");
		return CTL_UNREACHABLE;
	}
	status = commands_run(c, name);
	client_free(c->client);
	if (fflush(stdout) != 0) {
		fprintf(stderr, "attestctl: cannot write: %s\n", strerror(errno));
		return CTL_REFUSED;
	}
	return status;
}

/* A number at which to end, or -1. */
static int take_option(struct ctl *c, int option, const char **socket, int *which)
{
	uint64_t id;

	switch (option) {
	case 's':
		*socket = optarg;
		return -1;
	case 'j':
		c->json = true;
		return -1;
	case OPT_SERVICE:
		c->service = optarg;
		return -1;
	case OPT_OWNER:
		c->owner = optarg;
		return -1;
	case OPT_CLIENT:
		c->of_client = optarg;
		return -1;
	case OPT_OF_TUNNEL:
		c->tunnel = optarg;
		if (number(optarg, &id))
			return -1;
		break;
	case OPT_LIMIT:
		if (number(optarg, &c->limit) && c->limit)
			return -1;
		break;
	case OPT_RELAY:
	case OPT_TUNNEL:
	case OPT_BRIDGE:
		*which = option;
		return -1;
	case 'h':
		fputs(usage, stdout);
		commands_help(stdout);
		return CTL_DONE;
	case 'V':
		printf("attestctl " VERSION "\n%s\njson-c %s\n", curl_version(), json_c_version());
		return CTL_DONE;
	default: /* said by getopt */
		return CTL_USAGE;
	}
	fprintf(stderr, "attestctl: %s is not a number that can stand there\n", optarg);
	return CTL_USAGE;
}

int main(int argc, char **argv)
{
	const char *socket = NULL, *name;
	struct ctl c = { 0 };
	char own[4096];
	int option, which = 0, status;

	setlocale(LC_CTYPE, "");
	while ((option = getopt_long(argc, argv, "s:jhV", options, NULL)) != -1) {
		status = take_option(&c, option, &socket, &which);
		if (status >= 0)
			return status;
	}
	name = argv[optind];
	c.argc = name ? argc - optind - 1 : 0;
	c.argv = argv + optind + 1;
	return run(&c, socket ? socket : default_socket(which, own, sizeof(own)), name);
}
