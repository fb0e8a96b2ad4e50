/*
 * attest-relay: the cloud's boundary gateway.
 *
 * Stages: arguments, config, log, descriptors, TLS, listeners, workers, metrics, sandbox, audit,
 * threads, READY; then the main thread only waits for signals and scrapes. SIGTERM and SIGINT drain
 * (a second one ends at once), SIGUSR1 logs a status line.
 *
 * Only this file and tunnel/ know both relay/ and tunnel/.
 */
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <systemd/sd-daemon.h>

#include "relay/audit.h"
#include "relay/enroll_command.h"
#include "relay/gateway.h"
#include "relay/log.h"
#include "relay/metrics.h"
#include "relay/metrics_http.h"
#include "relay/registry.h"
#include "relay/sandbox.h"
#include "relay/token_command.h"
#include "relay/version.h"
#include "tunnel/h2_door.h"
#include "tunnel/hub.h"
#include "tunnel/ws_door.h"

#define DRAIN_TICK_MS 50

enum { EXIT_USAGE = 2 };

static const char usage[] =
	"Usage: attest-relay --config FILE [--check-config | --dump-config | --no-sandbox]\n"
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
	"      --no-sandbox     keep all rights; for finding faults\n"
	"  -h, --help           this text\n"
	"  -V, --version        the version\n"
	"\n"
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

struct program {
	struct gateway gateway;
	const char *path; /* the config's */
	struct event_base *base;
	struct event *drain_timer, *signals[4];
	struct metrics_http *metrics;
	uint64_t waited;
	unsigned idle; /* ticks in a row */
	bool draining;
};

/* ---- running ---- */

static void status_line(struct program *p)
{
	struct gateway *g = &p->gateway;
	uint64_t sum[COUNTERS] = { 0 };

	for (unsigned i = 0; i < g->n_workers; i++)
		for (unsigned j = 0; j < COUNTERS; j++)
			sum[j] += counter_get(&g->workers[i]->counters.value[j]);
	log_info("status: %" PRIu64 " connections, %" PRIu64 " tunnels, %zu services, %" PRIu64
		 " streams, %" PRIu64 " parked, %" PRIu64 " accepted so far%s",
		 (uint64_t)atomic_load(&g->connections), sum[COUNTER_LIVE_TUNNELS],
		 registry_services(g->registry), sum[COUNTER_LIVE_SPLICES],
		 sum[COUNTER_LIVE_PARKED], sum[COUNTER_ACCEPTED], p->draining ? ", draining" : "");
}

static void on_drain_tick(evutil_socket_t fd, short what, void *arg)
{
	struct program *p = arg;

	p->waited += DRAIN_TICK_MS;
	/* twice in a row: a client on its way between two workers may be seen by neither look */
	p->idle = gateway_is_idle(&p->gateway) ? p->idle + 1 : 0;
	if (p->idle >= 2 || p->waited >= p->gateway.config->timeouts.drain)
		event_base_loopbreak(p->base);
}

static void on_terminate(evutil_socket_t signal, short what, void *arg)
{
	struct program *p = arg;
	const struct timeval tick = { .tv_usec = DRAIN_TICK_MS * 1000 };

	if (p->draining) {
		log_info("second signal: ending at once");
		event_base_loopbreak(p->base);
		return;
	}
	p->draining = true;
	log_info("ending: no new connections; streams have %" PRIu64 " s to finish",
		 p->gateway.config->timeouts.drain / 1000);
	sd_notify(0, "STOPPING=1\nSTATUS=draining");
	gateway_drain(&p->gateway);
	event_add(p->drain_timer, &tick);
}

static void on_usr1(evutil_socket_t signal, short what, void *arg)
{
	status_line(arg);
}

static void on_hup(evutil_socket_t signal, short what, void *arg)
{
	struct program *p = arg;
	struct config_errors errors = { 0 };
	struct relay_config *config;

	audit_reopen(p->gateway.audit); /* whatever comes of the rest */
	if (p->draining) {
		log_info("reload: not while draining");
		return;
	}
	config = relay_config_load(p->path, &errors);
	for (size_t i = 0; i < errors.n; i++)
		log_error("reload: %s", errors.at[i]);
	config_errors_deinit(&errors);
	if (!config)
		log_error("reload: nothing has changed");
	else if (gateway_reload(&p->gateway, config))
		log_info("reload: done; owners, clients, certificates and revocation lists are "
			 "those of now");
	relay_config_unref(config);
}

static bool prepare(struct program *p)
{
	const struct {
		int signal;
		event_callback_fn fn;
	} signals[] = { { SIGTERM, on_terminate },
			{ SIGINT, on_terminate },
			{ SIGUSR1, on_usr1 },
			{ SIGHUP, on_hup } };

	p->base = event_base_new();
	if (!p->base)
		return false;
	p->drain_timer = event_new(p->base, -1, EV_PERSIST, on_drain_tick, p);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		p->signals[i] = evsignal_new(p->base, signals[i].signal, signals[i].fn, p);
		if (!p->signals[i] || event_add(p->signals[i], NULL) < 0)
			return false;
	}
	return p->drain_timer;
}

static bool start_audit(struct gateway *g)
{
	char *why;

	if (audit_start(&g->audit, &g->config->audit, &why) == 0)
		return true;
	log_error("%s", why ? why : "audit: out of memory");
	free(why);
	return false;
}

static bool start_metrics(struct program *p)
{
	char *why = NULL;

	if (p->gateway.config->metrics.kind == ADDRESS_NONE)
		return true;
	p->metrics = metrics_start(p->base, &p->gateway, &why);
	if (!p->metrics)
		log_error("metrics: %s", why ? why : "out of memory");
	free(why);
	return p->metrics;
}

static void add_folder_of(struct sandbox_spec *s, const char *path)
{
	char *folder = strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;

	if (slash)
		slash[slash == folder] = '\0';
	if (folder)
		sandbox_folder(s, slash ? folder : ".", SANDBOX_WRITE);
	free(folder);
}

/* After a SIGHUP the file is made again; where a link leads to, too. NULL: there is none. */
static void add_audit_folders(struct sandbox_spec *s, const char *file)
{
	char *real = file ? realpath(file, NULL) : NULL;

	if (file)
		add_folder_of(s, file);
	if (real)
		add_folder_of(s, real);
	free(real);
}

/* What it will still need: files that are read again, sockets to be removed or connected to. */
static void fill_sandbox(struct sandbox_spec *s, const struct relay_config *config,
			 const char *path)
{
	sandbox_file(s, path);
	sandbox_file(s, config->tls.certificate);
	sandbox_file(s, config->tls.key);
	if (config->enrolment.ca) {
		sandbox_file(s, config->enrolment.ca);
		sandbox_file(s, config->enrolment.key);
		sandbox_folder(s, config->enrolment.folder, SANDBOX_READ | SANDBOX_WRITE);
	}
	sandbox_listener(s, &config->metrics);
	for (size_t i = 0; i < config->n_listeners; i++) {
		sandbox_listener(s, &config->listeners[i].address);
		sandbox_file(s, config->listeners[i].client_ca);
		sandbox_file(s, config->listeners[i].client_crl);
	}
	for (size_t i = 0; i < config->n_services; i++)
		for (size_t j = 0; j < config->services[i].targets.n; j++)
			sandbox_target(s, &config->services[i].targets.at[j]);
	add_audit_folders(s, config->audit.file);
}

/* path: NULL, there is to be none. */
static bool enter_sandbox(const struct relay_config *config, const char *path)
{
	struct sandbox_spec s = { .program = SANDBOX_RELAY };
	bool good;

	if (!path) {
		sandbox_stay_out();
		return true;
	}
	fill_sandbox(&s, config, path);
	good = sandbox_enter(&s);
	sandbox_spec_deinit(&s);
	return good;
}

static int run(const struct relay_config *config, const char *path, bool sandbox)
{
	struct program p = { .gateway.config = config, .path = path };
	bool good;

	log_setup((enum log_level)config->log.level, (enum log_format)config->log.format,
		  (enum log_target)config->log.target);
	signal(SIGPIPE, SIG_IGN);
#ifndef __SANITIZE_ADDRESS__ /* its leak checker attaches to the process */
	prctl(PR_SET_DUMPABLE, 0); /* no core: it would hold the TLS key and agents' tokens */
#endif
	evthread_use_pthreads();
	hub_install(&p.gateway);
	h2_door_install(&p.gateway);
	ws_door_install(&p.gateway);
	good = prepare(&p) && gateway_prepare(&p.gateway) && start_metrics(&p) &&
	       enter_sandbox(config, sandbox ? path : NULL) && start_audit(&p.gateway) &&
	       gateway_start(&p.gateway);
	if (good) {
		log_info("attest-relay " VERSION " ready, %u workers", p.gateway.n_workers);
		sd_notify(0, "READY=1\nSTATUS=relaying");
		event_base_dispatch(p.base);
	}
	gateway_end(&p.gateway);
	metrics_http_stop(p.metrics);
	audit_stop(p.gateway.audit);
	gateway_deinit(&p.gateway);
	for (size_t i = 0; i < sizeof(p.signals) / sizeof(p.signals[0]); i++)
		if (p.signals[i])
			event_free(p.signals[i]);
	if (p.drain_timer)
		event_free(p.drain_timer);
	if (p.base)
		event_base_free(p.base);
	libevent_global_shutdown();
	if (good)
		log_info("ended");
	return good ? 0 : 1;
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

	if (strcmp(argv[0], "enroll") == 0)
		return (status = enroll_command(argc, argv)) < 0 ? EXIT_USAGE : status;
	status = token_command(argc, argv);
	if (status < 0)
		fputs(usage, stderr);
	return status < 0 ? EXIT_USAGE : status;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check-config", no_argument, NULL, 'k' },
		{ "dump-config", no_argument, NULL, 'd' },
		{ "no-sandbox", no_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	const char *path = NULL;
	bool check = false, dump = false, sandbox = true;
	struct relay_config *config;
	int o, r = 0;

	if (argc > 1 && (strcmp(argv[1], "token") == 0 || strcmp(argv[1], "enroll") == 0))
		return command(argc - 1, argv + 1);
	while ((o = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
		switch (o) {
		case 'c':
			path = optarg;
			break;
		case 'k':
			check = true;
			break;
		case 'd':
			dump = true;
			break;
		case 's':
			sandbox = false;
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
	if (!path || optind < argc) {
		fprintf(stderr, "attest-relay: %s\nTry attest-relay --help.\n",
			path ? "too many arguments" : "--config FILE is needed");
		return EXIT_USAGE;
	}
	config = load(path);
	if (!config)
		return 1;
	if (dump)
		relay_config_dump(config, stdout);
	else if (check)
		fprintf(stderr, "%s: good\n", path);
	else
		r = run(config, path, sandbox);
	relay_config_unref(config);
	return r;
}
