/*
 * tunnel_daemon: attest-tunnel as a running program: the guest owner's agent, which offers local
 * services behind a relay that it dials, and local listeners that lead to such services.
 *
 * Theory of operation: stages at start-up, in this order; a failure in one ends the program with
 * STATUS_FAILED:
 *
 *   log       from here on everything is said through the log
 *   harden    no core dumps (the token passes through memory), as many descriptors as we may have
 *   prepare   the token can be read, the CAs too; the way out; the instance's name; worker, TLS;
 *             local listeners listen
 *   sandbox   what is needed no more is given up: rights, files, system calls
 *   signals   SIGTERM and SIGINT: end in order, a second one at once (relay/ending.h); SIGHUP: try
 *             again now
 *   loop      one worker on this thread, until all is over
 *
 * Two parts, either of which may be absent: the agent (services) and local (local listeners). They
 * share the worker and the way out, and end together: a signal stops both, and an agent that is
 * over by itself (--once) stops the other.
 *
 * Longer than other files: what the two parts share, and each thing that may happen to both, is
 * here.
 */
#include "tunnel/tunnel_daemon.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/edge.h"
#include "relay/ending.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/notify.h"
#include "relay/tls.h"
#include "relay/token.h"
#include "relay/worker.h"
#include "tunnel/admin_tunnel.h"
#include "tunnel/agent.h"
#include "tunnel/confine.h"
#include "tunnel/egress.h"
#include "tunnel/hello.h"
#include "tunnel/instance.h"
#include "tunnel/local.h"
#include "tunnel/netwatch.h"
#include "tunnel/options.h"
#include "tunnel/proxy.h"
#include "tunnel/tunnel_metrics.h"

#define END_MS 3000 /* lingering closes take 2 s at most */

struct program {
	struct worker *worker;
	struct agent_spec spec;
	struct agent agent;
	struct local local;
	bool offers, listens; /* there is an agent; there is a local */
	unsigned running;     /* of the two: not yet over */
	struct ending ending;
	struct egress egress;
	struct tunnel_metrics metrics;
	struct admin_tunnel admin;
	struct netwatch *netwatch;
	struct edge signals; /* watches a signalfd */
	struct timer stop, watchdog, status;
	uint64_t waited;         /* since the agent was over */
	uint64_t watchdog_ms;    /* 0: none wanted */
	struct stat certificate; /* when it was last looked at */
	char instance[HELLO_INSTANCE_MAX];
	bool ready; /* systemd was told */
	enum agent_outcome outcome;
};

static struct program program;

/* ---- stages ---- */

static void harden(void)
{
	struct rlimit files;

#ifndef __SANITIZE_ADDRESS__ /* its leak checker attaches to the process */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

/* Later readings only fail a connection: the file may be being replaced just then. */
static bool check_token(const struct tunnel_config *config)
{
	char token[TOKEN_TEXT_MAX], *why = NULL;
	bool exposed;

	if (!config->token_file)
		return true;
	if (token_read_file(config->token_file, token, &exposed, &why) < 0) {
		log_error("%s", why ? why : "out of memory");
		free(why);
		return false;
	}
	token_wipe(token);
	if (exposed)
		log_warning("%s is a secret that other users of this machine can read: chmod 600 "
			    "it",
			    config->token_file);
	return true;
}

static bool find_proxy(struct program *p)
{
	const struct tunnel_config *config = p->spec.config;
	char *why = NULL;

	if (egress_init(&p->egress, config, &why) < 0) {
		log_error("%s", why ? why : "out of memory");
		free(why);
		return false;
	}
	egress_log(&p->egress, &config->relays);
	p->spec.carrier.egress = &p->egress;
	return true;
}

static bool make_instance(struct program *p)
{
	const struct tunnel_config *config = p->spec.config;

	if (config->instance)
		snprintf(p->instance, sizeof(p->instance), "%s", config->instance);
	else if (instance_make(config, p->instance) < 0) {
		log_error("cannot make a name for this instance: libcrypto has no SHA-256; give "
			  "one with --instance");
		return false;
	}
	p->spec.instance = p->instance;
	return true;
}

static struct tls_context *make_tls(const struct tunnel_config *config, enum carrier_kind kind)
{
	static const char *const alpn[CARRIER_KINDS][2] = {
		[CARRIER_DIRECT] = { HELLO_ALPN, NULL },
		[CARRIER_WEBSOCKET] = { CARRIER_ALPN_WEBSOCKET, NULL },
	};
	char *why = NULL;
	struct tls_context *t = tls_client_context_new(config->ca_file, alpn[kind], &why);

	if (t && config->certificate &&
	    tls_client_context_identify(t, config->certificate, config->key, &why) < 0)
		t = tls_context_unref(t);
	if (!t)
		log_error("%s", why ? why : "out of memory");
	free(why);
	return t;
}

/* Reads certificate, key and CAs again, for connections from now on; what is there goes on. */
static void remake_carriers(struct program *p)
{
	for (unsigned i = 0; i < CARRIER_KINDS; i++) {
		struct tls_context *t = make_tls(p->spec.config, i);

		if (!t) {
			log_warning("new connections use what was read before");
			return;
		}
		tls_context_unref(p->spec.carrier.tls[i]);
		p->spec.carrier.tls[i] = t;
	}
}

static bool make_carriers(struct program *p)
{
	const struct tunnel_config *config = p->spec.config;
	struct carrier_shared *shared = &p->spec.carrier;

	shared->worker = p->worker;
	shared->dial_ms = config->timeouts.dial;
	shared->handshake_ms = config->timeouts.handshake;
	shared->dead_ms = config->timeouts.dead;
	for (unsigned i = 0; i < CARRIER_KINDS; i++) {
		shared->tls[i] = make_tls(config, i);
		if (!shared->tls[i])
			return false;
	}
	return true;
}

/* ---- telling systemd ---- */

static void tell_status(void)
{
	const struct program *p = &program;
	const uint64_t streams = p->agent.serve.live + p->local.live;
	const char *what = p->ending.draining ? "ending: " : "";

	if (p->offers)
		notify_status("%sconnected to %u of %u relays, %" PRIu64 " streams", what,
			      agent_up(&p->agent), p->agent.n_links, streams);
	else
		notify_status("%s%zu local listeners, %" PRIu64 " streams", what,
			      p->spec.config->n_locals, streams);
}

/* For connections from now on; and now is the time for those that are missing. */
static void read_again(struct program *p)
{
	if (p->offers) {
		remake_carriers(p);
		agent_retry(&p->agent, true);
	}
	if (p->listens && !p->ending.draining)
		local_reload(&p->local);
}

/* The pair may be renewed at any time. Its certificate gets its name last. */
static bool is_pair_new(struct program *p)
{
	const char *path = p->spec.config->certificate;
	struct stat st, before = p->certificate;

	if (!path || stat(path, &st) < 0)
		return false;
	p->certificate = st;
	return before.st_ino && (st.st_ino != before.st_ino || st.st_dev != before.st_dev ||
				 st.st_mtim.tv_sec != before.st_mtim.tv_sec ||
				 st.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
}

static void on_status(struct timer *t)
{
	tell_status();
	if (is_pair_new(&program)) {
		log_info("%s is another now: reading it again", program.spec.config->certificate);
		read_again(&program);
	}
	timer_set(program.worker, t, NOTIFY_STATUS_MS, on_status);
}

static void on_changed(struct agent *a)
{
	if (agent_up(a) > 0 && !program.ready) {
		program.ready = true;
		notify_ready();
	}
	tell_status();
}

/* Without services: nothing is connected to before somebody comes. */
static void tell_listening(struct program *p)
{
	p->ready = true;
	notify_ready();
}

static void on_watchdog(struct timer *t)
{
	notify_watchdog();
	timer_set(program.worker, t, program.watchdog_ms, on_watchdog);
}

static void start_watchdog(struct program *p)
{
	p->watchdog_ms = notify_watchdog_ms();
	if (p->watchdog_ms)
		on_watchdog(&p->watchdog);
}

/* ---- events ---- */

static void on_stop_timer(struct timer *t)
{
	program.waited += TIMER_TICK_MS;
	if (program.worker->conduits == 0 || program.waited >= END_MS)
		worker_stop(program.worker);
	else
		timer_set(program.worker, t, 0, on_stop_timer);
}

/*
 * The loop goes on until all is closed: streams that lost their session are still to be told, and a
 * TLS connection's last bytes may be waiting for the network.
 */
static void part_over(struct program *p)
{
	if (--p->running == 0)
		timer_set(p->worker, &p->stop, 0, on_stop_timer);
	else if (p->offers && p->listens)
		local_stop(&p->local); /* if it was local that is over, it is being stopped */
}

static void on_over(struct agent *a, enum agent_outcome outcome)
{
	program.outcome = outcome;
	part_over(&program);
}

static void on_local_over(struct local *l)
{
	part_over(&program);
}

static void kill_parts(struct program *p)
{
	log_info("second signal: ending at once");
	if (p->offers)
		agent_kill(&p->agent);
	if (p->listens)
		local_kill(&p->local);
}

static void stop_parts(struct program *p)
{
	const uint64_t live = p->agent.serve.live + p->local.live;

	if (live)
		log_info("ending: open streams (%" PRIu64 ") have %" PRIu64 " s to finish", live,
			 p->spec.config->timeouts.drain / 1000);
	notify_stopping();
	if (p->offers)
		agent_stop(&p->agent);
	if (p->listens)
		local_stop(&p->local);
	tell_status();
}

static void terminate(struct program *p)
{
	switch (ending_signalled(&p->ending, worker_now(p->worker))) {
	case ENDING_BEGIN:
		stop_parts(p);
		break;
	case ENDING_SAME:
		log_info(ENDING_SAME_TEXT);
		break;
	case ENDING_NOW:
		kill_parts(p);
	}
}

static void on_hangup(struct program *p)
{
	egress_hope(&p->egress);
	if (p->offers)
		log_info("SIGHUP: reading certificate, key and CAs again, and trying to connect "
			 "now where a connection is missing");
	if (p->listens && !p->ending.draining)
		log_info("SIGHUP: reading the certificate and the CAs for local listeners again");
	read_again(p);
}

/* The same, asked for at the admin socket. */
static void drain(void)
{
	if (ending_asked(&program.ending))
		stop_parts(&program);
}

static void hang_up(void)
{
	on_hangup(&program);
}

static void on_signal(struct edge *e, uint32_t events)
{
	struct signalfd_siginfo info;

	while (read(e->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			on_hangup(&program);
		else
			terminate(&program);
	}
}

static void on_network_change(void *user)
{
	log_debug("the network changed");
	agent_retry(&program.agent, false);
}

static bool watch_signals(struct program *p)
{
	sigset_t wanted;
	int fd;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGHUP);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return false;
	if (edge_watch(p->worker, &p->signals, fd, EPOLLIN, on_signal) == 0)
		return true;
	close(fd);
	return false;
}

/* ---- the run ---- */

static bool prepare_agent(struct program *p)
{
	if (!make_carriers(p))
		return false;
	p->spec.changed = on_changed;
	p->spec.over = on_over;
	if (agent_init(&p->agent, &p->spec) < 0) {
		log_error("cannot start: %s", strerror(errno));
		return false;
	}
	p->running++;
	return true;
}

static bool prepare_local(struct program *p)
{
	char *why = NULL;

	if (local_init(&p->local, p->worker, p->spec.config, &p->egress, &why) < 0) {
		log_error("%s", why ? why : "cannot start: out of memory");
		free(why);
		return false;
	}
	p->local.over = on_local_over;
	p->running++;
	return true;
}

/* After all that it tells of. */
static bool prepare_admin(struct program *p)
{
	p->metrics = (struct tunnel_metrics){ .worker = p->worker,
					      .config = p->spec.config,
					      .agent = p->offers ? &p->agent : NULL,
					      .local = p->listens ? &p->local : NULL,
					      .tls = p->offers ? p->spec.carrier.tls : NULL,
					      .stopping = &p->ending.draining };
	p->admin = (struct admin_tunnel){ .metrics = &p->metrics,
					  .instance = p->offers ? p->instance : NULL,
					  .drain = drain,
					  .reload = hang_up };
	return admin_tunnel_start(&p->admin, p->worker->base);
}

static bool prepare(struct program *p)
{
	p->offers = p->spec.config->n_services;
	p->listens = p->spec.config->n_locals;
	if (!find_proxy(p) || (p->offers && (!check_token(p->spec.config) || !make_instance(p))))
		return false;
	evthread_use_pthreads();
	p->worker = worker_new(0);
	if (!p->worker) {
		log_error("cannot start: %s", strerror(errno));
		return false;
	}
	if (!watch_signals(p)) {
		log_error("cannot start: %s", strerror(errno));
		return false;
	}
	return (!p->listens || prepare_local(p)) && (!p->offers || prepare_agent(p)) &&
	       prepare_admin(p);
}

static void release(struct program *p)
{
	netwatch_free(p->netwatch);
	admin_tunnel_stop(&p->admin);
	if (p->worker) {
		if (p->agent.worker)
			agent_deinit(&p->agent);
		local_deinit(&p->local);
		proxy_end_joints(&p->egress.proxy);
		timer_cancel(p->worker, &p->stop);
		timer_cancel(p->worker, &p->watchdog);
		timer_cancel(p->worker, &p->status);
	}
	if (p->signals.worker) {
		close(p->signals.fd);
		edge_forget_closing(&p->signals);
	}
	for (unsigned i = 0; i < CARRIER_KINDS; i++)
		tls_context_unref(p->spec.carrier.tls[i]);
	egress_deinit(&p->egress);
	worker_free(p->worker);
	libevent_global_shutdown();
}

static void log_start(const struct program *p)
{
	const struct tunnel_config *config = p->spec.config;

	if (p->offers)
		log_info("attest-tunnel " VERSION " started as instance %s, services: %zu, local "
			 "listeners: %zu",
			 p->instance, config->n_services, config->n_locals);
	else
		log_info("attest-tunnel " VERSION " started, local listeners: %zu",
			 config->n_locals);
}

int tunnel_daemon_run(const struct options *o)
{
	const struct tunnel_config *config = o->config;
	struct program *p = &program;
	int status = STATUS_FAILED;

	log_setup((enum log_level)config->log.level, (enum log_format)config->log.format,
		  (enum log_target)config->log.target);
	harden();
	p->spec.config = config;
	p->spec.once = o->once;
	if (prepare(p) && confine_tunnel(o)) {
		inherit_close_rest();
		if (p->offers)
			p->netwatch = netwatch_new(p->worker, on_network_change, NULL);
		start_watchdog(p);
		log_start(p);
		if (!p->offers)
			tell_listening(p);
		on_status(&p->status);
		worker_run(p->worker);
		status = p->outcome == AGENT_ORDERLY   ? STATUS_ORDERLY
			 : p->outcome == AGENT_REFUSED ? STATUS_REFUSED
						       : STATUS_FAILED;
		log_info("ended");
	}
	release(p);
	return status;
}
