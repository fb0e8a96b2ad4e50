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
 *   signals   SIGTERM and SIGINT: end in order, a second one at once (relay/ending.h); SIGHUP:
 *             reload
 *   loop      one worker on this thread, until all is over
 *
 * Two parts, either of which may be absent: the agent (services) and local (local listeners). They
 * share the worker and the way out, and end together: a signal stops both, and an agent that is
 * over by itself (--once) stops the other.
 *
 * A reload judges the command line and the file once more. All that can fail comes first: reading,
 * what local listeners need. Then the agent gets the new config, which cannot fail. The config that
 * the program began with is kept: the way out has been made of it.
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
#include "relay/why.h"
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
#include "tunnel/setup.h"
#include "tunnel/tunnel_metrics.h"

#define READY_LATE_MS 10000 /* no longer than this systemd waits for a relay */
#define END_MS 3000         /* lingering closes take 2 s at most */

struct program {
	struct worker *worker;
	const struct options *options;
	struct tunnel_config *config; /* before there is a setup; then NULL */
	struct setup *setup, *first;  /* in effect, and at the start: held */
	struct agent_spec spec;
	struct agent agent;
	struct local local;
	unsigned running; /* of the two: not yet over */
	struct ending ending;
	struct egress egress;
	struct tunnel_metrics metrics;
	struct admin_tunnel admin;
	struct netwatch *netwatch;
	struct edge signals; /* watches a signalfd */
	struct timer stop, watchdog, status, late;
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

static const struct tunnel_config *config_of(const struct program *p)
{
	return p->setup->config;
}

static bool offers(const struct program *p)
{
	return config_of(p)->n_services;
}

static bool fail(char *why)
{
	log_error("%s", why ? why : "cannot start: out of memory");
	free(why);
	return false;
}

static bool find_proxy(struct program *p)
{
	char *why = NULL;

	if (egress_init(&p->egress, p->config, &why) < 0)
		return fail(why);
	egress_log(&p->egress, &p->config->relays);
	return true;
}

/* Once: it stays, whatever a reload brings. */
static bool make_instance(struct program *p, const struct tunnel_config *config)
{
	if (*p->instance || !config->n_services)
		return true;
	if (config->instance)
		snprintf(p->instance, sizeof(p->instance), "%s", config->instance);
	return config->instance || instance_make(config, p->instance) == 0;
}

static bool make_setup(struct program *p)
{
	struct tunnel_config *config = p->config;
	char *why = NULL;

	p->config = NULL;
	p->setup = setup_new(config, p->worker, &p->egress, &why);
	if (!p->setup)
		return fail(why);
	p->first = setup_ref(p->setup);
	if (make_instance(p, config))
		return true;
	log_error("cannot make a name for this instance: libcrypto has no SHA-256; give one with "
		  "--instance");
	return false;
}

/* ---- telling systemd ---- */

static void tell_status(void)
{
	const struct program *p = &program;
	const uint64_t streams = p->agent.serve.live + p->local.live;
	const char *what = p->ending.draining ? "ending: " : "";

	if (offers(p))
		notify_status("%sconnected to %u of %u relays, %" PRIu64 " streams", what,
			      agent_up(&p->agent), p->agent.n_links, streams);
	else
		notify_status("%s%zu local listeners, %" PRIu64 " streams", what,
			      config_of(p)->n_locals, streams);
}

/* Certificate, key and CAs, for connections from now on; and now is the time for missing ones. */
static void read_again(struct program *p)
{
	char *why = NULL;

	if ((offers(p) && !setup_refresh(p->setup, &why)) ||
	    (!p->ending.draining && local_reload(&p->local, p->setup, &why) < 0))
		log_warning("new connections use what was read before: %s",
			    why ? why : "out of memory");
	free(why);
	agent_retry(&p->agent, true);
}

/* The pair may be renewed at any time. Its certificate gets its name last. */
static bool is_pair_new(struct program *p)
{
	const char *path = config_of(p)->certificate;
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
		log_info("%s is another now: reading it again", config_of(&program)->certificate);
		read_again(&program);
	}
	timer_set(program.worker, t, NOTIFY_STATUS_MS, on_status);
}

static void tell_ready(struct program *p)
{
	if (!p->ready)
		notify_ready();
	p->ready = true;
}

static void on_changed(struct agent *a)
{
	if (agent_up(a) > 0)
		tell_ready(&program);
	tell_status();
}

/* No relay has accepted it yet: it goes on trying, but who boots the machine must not wait. */
static void on_late(struct timer *t)
{
	tell_ready(&program);
	tell_status();
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
	else
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
	agent_kill(&p->agent);
	local_stop(&p->local);
	local_kill(&p->local);
}

static void stop_parts(struct program *p)
{
	const uint64_t live = p->agent.serve.live + p->local.live;

	if (live)
		log_info("ending: open streams (%" PRIu64 ") have %" PRIu64 " s to finish", live,
			 config_of(p)->timeouts.drain / 1000);
	notify_stopping();
	agent_stop(&p->agent);
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

/* ---- another config ---- */

static void on_network_change(void *user)
{
	log_debug("the network changed");
	agent_retry(&program.agent, false);
}

static void tell_metrics(struct program *p)
{
	p->metrics.config = config_of(p);
	p->metrics.agent = offers(p) ? &p->agent : NULL;
	p->metrics.local = config_of(p)->n_locals ? &p->local : NULL;
	p->metrics.tls = offers(p) ? p->setup->carrier.tls : NULL;
	p->admin.instance = offers(p) ? p->instance : NULL;
	if (offers(p) && !p->netwatch)
		p->netwatch = netwatch_new(p->worker, on_network_change, NULL);
}

/* The command line and its file, judged again. NULL: *why, and it has been logged. */
static struct tunnel_config *judge_again(const struct program *p, char **why)
{
	struct config_errors errors = { 0 };
	struct options o = options_judge(p->options->argc, p->options->argv, &errors);

	for (size_t i = 0; i < errors.n; i++) {
		char *before = *why;

		log_error("reload: %s", errors.at[i]);
		why_say(why, "%s%s%s", before ? before : "", before ? "; " : "", errors.at[i]);
		free(before);
	}
	config_errors_deinit(&errors);
	if (!o.config && !*why)
		why_say(why, "the config cannot be read");
	return o.config;
}

/* The sandbox has only the folders that were named at the start. */
static struct setup *make_next(struct program *p, char **why)
{
	struct tunnel_config *config = judge_again(p, why);
	struct setup *next = config ? setup_new(config, p->worker, &p->egress, why) : NULL;
	const char *fixed = next ? setup_differs(p->setup, next) : NULL;

	if (fixed)
		why_say(why, "%s has changed, which needs a restart", fixed);
	else if (next && !make_instance(p, next->config))
		why_say(why, "cannot make a name for this instance");
	else if (next && local_reload(&p->local, next, why) == 0)
		return next;
	if (config) /* else it has been said already */
		log_error("reload: %s", *why ? *why : "out of memory");
	return setup_unref(next);
}

static void take_effect(struct program *p, struct setup *next)
{
	const struct log_config *log = &next->config->log;

	log_change((enum log_level)log->level, (enum log_format)log->format,
		   (enum log_target)log->target);
	agent_reload(&p->agent, next);
	setup_unref(p->setup);
	p->setup = next;
	p->certificate = (struct stat){ 0 };
	tell_metrics(p);
}

static bool reload(char **why)
{
	struct program *p = &program;
	struct setup *next;

	*why = NULL;
	if (p->ending.draining || p->spec.once) {
		why_say(why, p->spec.once ? "not with --once" : "not while it ends");
		log_info("reload: %s", *why ? *why : "");
		return false;
	}
	if (p->ready)
		notify_reloading();
	egress_hope(&p->egress);
	next = make_next(p, why);
	if (next) {
		take_effect(p, next);
		p->metrics.reloads++;
		log_info("reload: done; the config of now is in effect");
	} else {
		p->metrics.reload_failures++;
		log_error("reload: nothing has changed");
		agent_retry(&p->agent, true);
	}
	if (p->ready)
		notify_ready();
	tell_status();
	return next;
}

/* The same, asked for at the admin socket. */
static void drain(void)
{
	if (ending_asked(&program.ending))
		stop_parts(&program);
}

static void on_signal(struct edge *e, uint32_t events)
{
	struct signalfd_siginfo info;
	char *why;

	while (read(e->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo != SIGHUP) {
			terminate(&program);
			continue;
		}
		reload(&why);
		free(why);
	}
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

static void prepare_agent(struct program *p)
{
	p->spec.setup = p->setup;
	p->spec.instance = p->instance;
	p->spec.once = p->options->once;
	p->spec.changed = on_changed;
	p->spec.over = on_over;
	agent_init(&p->agent, p->worker, &p->spec);
	p->running++;
}

static bool prepare_local(struct program *p)
{
	char *why = NULL;

	if (local_init(&p->local, p->worker, p->setup, &why) < 0)
		return fail(why);
	p->local.over = on_local_over;
	p->running++;
	return true;
}

/* After all that it tells of. */
static bool prepare_admin(struct program *p)
{
	p->metrics = (struct tunnel_metrics){ .worker = p->worker,
					      .config = config_of(p),
					      .stopping = &p->ending.draining };
	p->admin =
		(struct admin_tunnel){ .metrics = &p->metrics, .drain = drain, .reload = reload };
	return admin_tunnel_start(&p->admin, p->worker->base);
}

static bool prepare(struct program *p)
{
	if (!find_proxy(p))
		return false;
	evthread_use_pthreads();
	p->worker = worker_new(0);
	if (!p->worker || !watch_signals(p)) {
		log_error("cannot start: %s", strerror(errno));
		return false;
	}
	if (!make_setup(p) || !prepare_local(p))
		return false;
	prepare_agent(p);
	return prepare_admin(p);
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
		timer_cancel(p->worker, &p->late);
	}
	if (p->signals.worker) {
		close(p->signals.fd);
		edge_forget_closing(&p->signals);
	}
	worker_free(p->worker);
	setup_unref(p->setup);
	egress_deinit(&p->egress);
	setup_unref(p->first);
	tunnel_config_free(p->config);
	libevent_global_shutdown();
}

static void log_start(const struct program *p)
{
	const struct tunnel_config *config = config_of(p);

	if (offers(p))
		log_info("attest-tunnel " VERSION " started as instance %s, services: %zu, local "
			 "listeners: %zu",
			 p->instance, config->n_services, config->n_locals);
	else
		log_info("attest-tunnel " VERSION " started, local listeners: %zu",
			 config->n_locals);
}

int tunnel_daemon_run(const struct options *o)
{
	const struct log_config *log = &o->config->log;
	struct program *p = &program;
	int status = STATUS_FAILED;

	log_setup((enum log_level)log->level, (enum log_format)log->format,
		  (enum log_target)log->target);
	harden();
	p->options = o;
	p->config = o->config;
	if (prepare(p) && confine_tunnel(o)) {
		inherit_close_rest();
		tell_metrics(p);
		start_watchdog(p);
		log_start(p);
		if (offers(p))
			timer_set(p->worker, &p->late, READY_LATE_MS, on_late);
		else /* nothing is connected to before somebody comes */
			tell_ready(p);
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
