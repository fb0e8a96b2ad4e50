/*
 * qgs-bridge: the node's forwarder: guests' quote requests to the node's one QGS, their other
 * attestation streams to the boundary relay.
 *
 * Stages at start-up, in this order; a failure in one ends the program with BRIDGE_FAILED:
 *
 *   options   flags and file become one config; --check-config and --dump-config end here
 *   log       from here on everything is said through the log
 *   harden    no core dumps: requests pass through memory
 *   prepare   worker; signals; as many descriptors as we may have. SIGTERM and SIGINT: end in
 *             order, a second one at once (relay/ending.h); SIGHUP: read the config again; SIGUSR1:
 *             a line on how things are
 *   bridge    every listener is tried once; then those are opened that may be
 *   metrics
 *   sandbox   what is needed no more is given up: rights, files, system calls
 *   loop      one worker on this thread, until drained
 */
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
#include <unistd.h>

#include "config/bridge.h"
#include "qgs-bridge/admin_bridge.h"
#include "qgs-bridge/bridge.h"
#include "qgs-bridge/confine.h"
#include "qgs-bridge/doctor.h"
#include "qgs-bridge/options.h"
#include "relay/edge.h"
#include "relay/ending.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/notify.h"
#include "relay/why.h"
#include "relay/worker.h"

#define TICK_MS 100          /* how often it is looked whether all are gone */
#define END_MS 3000          /* lingering closes take 2 s at most */
#define DESCRIPTORS_SPARE 64 /* for files, watches, probes, metrics; of few, a quarter */

struct program {
	int argc;
	char **argv;
	bool has_file;
	struct worker *worker;
	struct bridge bridge;
	struct admin_bridge admin;
	struct edge signals; /* watches a signalfd */
	struct timer tick, watchdog, status;
	uint64_t end_at; /* draining, or ending: no longer than this (worker_now) */
	uint64_t watchdog_ms;
	struct ending ending;
	bool cut; /* what is left is being closed */
};

static struct program program;

/* ---- stages ---- */

static void harden(void)
{
#ifndef __SANITIZE_ADDRESS__ /* its leak checker attaches to the process */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	signal(SIGPIPE, SIG_IGN);
}

/* As many descriptors as we may have, and what they are for. Pipes of splices take two each. */
static void share_descriptors(struct program *p, const struct bridge_config *config)
{
	struct rlimit files;
	uint64_t all, spare, needed;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	if (files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	all = files.rlim_cur;
	if (all / 16 < p->worker->pipes_max)
		p->worker->pipes_max = (unsigned)(all / 16);
	spare = all / 4 < DESCRIPTORS_SPARE ? all / 4 : DESCRIPTORS_SPARE;
	spare += 2 * (uint64_t)p->worker->pipes_max;
	p->bridge.descriptors = all - spare;
	needed = config->limits.connections + config->qgs.in_flight + spare;
	if (all < needed)
		log_warning("only %" PRIu64 " file descriptors may be open: guests will have to "
			    "wait before limits.connections (%" PRIu64 ") is reached; raise "
			    "LimitNOFILE= to %" PRIu64 " and one more for each listening socket",
			    all, config->limits.connections, needed);
}

/* ---- telling systemd ---- */

static void tell_status(void)
{
	char text[256];

	notify_status("%s%s", program.ending.draining ? "ending: " : "",
		      bridge_status(&program.bridge, text, sizeof(text)));
}

static void on_status(struct timer *t)
{
	tell_status();
	timer_set(program.worker, t, NOTIFY_STATUS_MS, on_status);
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

/* ---- the end ---- */

static void end_now(struct program *p)
{
	p->cut = true;
	p->end_at = worker_now(p->worker) + END_MS;
	bridge_end(&p->bridge);
}

/* Drained: what is left ends. Ended: the loop goes on until the last conduits are closed. */
static void on_tick(struct timer *t)
{
	struct program *p = &program;
	bool late = worker_now(p->worker) >= p->end_at;

	if (p->cut) {
		if (p->worker->conduits == 0 || late) {
			worker_stop(p->worker);
			return;
		}
	} else if (p->bridge.connections == 0 || late) {
		if (p->bridge.connections)
			log_warning("ending with %u connections that did not finish in time",
				    p->bridge.connections);
		end_now(p);
	}
	timer_set(p->worker, t, TICK_MS, on_tick);
}

static void drain(struct program *p)
{
	uint64_t drain = p->bridge.config->timeouts.common.drain;

	log_info("ending: no new connections; %u have %" PRIu64 " s to finish",
		 p->bridge.connections, drain / 1000);
	notify_stopping();
	p->end_at = worker_now(p->worker) + drain;
	bridge_drain(&p->bridge);
	tell_status();
	timer_set(p->worker, &p->tick, 0, on_tick);
}

static void terminate(void)
{
	struct program *p = &program;

	if (p->cut)
		return;
	switch (ending_signalled(&p->ending, worker_now(p->worker))) {
	case ENDING_BEGIN:
		drain(p);
		break;
	case ENDING_SAME:
		log_info(ENDING_SAME_TEXT);
		break;
	case ENDING_NOW:
		log_info("second signal: ending at once");
		end_now(p);
	}
}

/* ---- signals ---- */

/* False, and *why: allocated; NULL: out of memory. It has been logged. */
static bool reload(char **why)
{
	struct program *p = &program;
	struct bridge_config *config;
	bool good;

	*why = NULL;
	if (p->bridge.draining || !p->has_file) {
		why_say(why, "%s",
			p->has_file ? "the program is ending"
				    : "there is no config file to read again");
		log_info("reload: %s", *why ? *why : "out of memory");
		return false;
	}
	notify_reloading();
	config = bridge_options_reload(p->argc, p->argv, why);
	good = config && bridge_reload(&p->bridge, config, why);
	if (good) {
		log_set_level((enum log_level)config->log.level);
		log_info("the config was read again");
		confine_check(config);
	} else {
		p->bridge.reload_failures++;
		log_error("SIGHUP: the config is as it was before: the new one cannot be used");
	}
	bridge_config_unref(config);
	notify_ready();
	tell_status();
	return good;
}

static void on_signal(struct edge *e, uint32_t events)
{
	struct signalfd_siginfo info;
	char text[256], *why;

	while (read(e->fd, &info, sizeof(info)) == sizeof(info)) {
		switch (info.ssi_signo) {
		case SIGHUP:
			reload(&why);
			free(why);
			break;
		case SIGUSR1:
			log_info("status: %s", bridge_status(&program.bridge, text, sizeof(text)));
			break;
		default:
			terminate();
		}
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
	sigaddset(&wanted, SIGUSR1);
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

/* Asked for at the admin socket. */
static void drain_asked(void)
{
	if (ending_asked(&program.ending))
		drain(&program);
}

static bool start_admin(struct program *p)
{
	p->admin = (struct admin_bridge){ .bridge = &p->bridge,
					  .drain = drain_asked,
					  .reload = reload };
	return admin_bridge_start(&p->admin, p->worker->base);
}

static bool prepare(struct program *p, const struct bridge_config *config)
{
	evthread_use_pthreads();
	p->worker = worker_new(0);
	if (p->worker && watch_signals(p)) {
		share_descriptors(p, config);
		return true;
	}
	log_error("cannot start: %s", strerror(errno));
	return false;
}

static void release(struct program *p)
{
	admin_bridge_stop(&p->admin);
	bridge_deinit(&p->bridge);
	if (p->worker) {
		timer_cancel(p->worker, &p->tick);
		timer_cancel(p->worker, &p->watchdog);
		timer_cancel(p->worker, &p->status);
	}
	if (p->signals.worker) {
		close(p->signals.fd);
		edge_forget_closing(&p->signals);
	}
	worker_free(p->worker);
	libevent_global_shutdown();
}

static int run(struct program *p, const struct bridge_options *o)
{
	struct bridge_config *config = o->config;
	int status = BRIDGE_FAILED;

	log_setup((enum log_level)config->log.level, (enum log_format)config->log.format,
		  (enum log_target)config->log.target);
	harden();
	if (prepare(p, config) && bridge_start(&p->bridge, p->worker, config) && start_admin(p) &&
	    confine(o)) {
		inherit_close_rest();
		start_watchdog(p);
		log_info("qgs-bridge " VERSION " ready, %zu listener%s", p->bridge.n_entrances,
			 p->bridge.n_entrances == 1 ? "" : "s");
		notify_ready();
		on_status(&p->status);
		worker_run(p->worker);
		status = BRIDGE_ORDERLY;
		log_info("ended");
	}
	release(p);
	return status;
}

int main(int argc, char **argv)
{
	struct bridge_options o;
	int status = BRIDGE_ORDERLY;

	if (argc > 1 && strcmp(argv[1], "doctor") == 0)
		return doctor_bridge(argc - 1, argv + 1);
	o = bridge_options_read(argc, argv);
	switch (o.action) {
	case BRIDGE_DONE:
		return o.status;
	case BRIDGE_CHECK:
		fprintf(stderr, "qgs-bridge: the config is good\n");
		break;
	case BRIDGE_DUMP:
		bridge_config_dump(o.config, stdout);
		break;
	case BRIDGE_RUN:
		program.argc = argc;
		program.argv = argv;
		program.has_file = o.path;
		status = run(&program, &o);
		break;
	}
	bridge_config_unref(o.config);
	return status;
}
