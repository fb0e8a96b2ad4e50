/*
 * qgs-bridge: the node's forwarder: guests' quote requests to the node's one QGS, their other
 * attestation streams to the boundary relay.
 *
 * Stages at start-up, in this order; a failure in one ends the program with BRIDGE_FAILED:
 *
 *   options   flags and file become one config; --check-config and --dump-config end here
 *   log       from here on everything is said through the log
 *   harden    no core dumps: requests pass through memory
 *   prepare   worker; signals (relay/mainloop); as many descriptors as we may have
 *   bridge    every listener is tried once; then those are opened that may be
 *   metrics
 *   sandbox   what is needed no more is given up: rights, files, system calls
 *   loop      one worker on this thread, until drained
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/bridge.h"
#include "qgs-bridge/admin_bridge.h"
#include "qgs-bridge/bridge.h"
#include "qgs-bridge/confine.h"
#include "qgs-bridge/doctor.h"
#include "qgs-bridge/options.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/mainloop.h"
#include "relay/notify.h"
#include "relay/outset.h"
#include "relay/why.h"
#include "relay/worker.h"

#define TICK_MS 100          /* how often it is looked whether all are gone */
#define DESCRIPTORS_SPARE 64 /* for files, watches, probes, metrics; of few, a quarter */

struct program {
	int argc;
	char **argv;
	bool has_file;
	struct mainloop loop;
	struct bridge bridge;
	struct admin_bridge admin;
	struct timer tick;
	uint64_t drained_at; /* draining: no longer than this (worker_now) */
};

static struct program program;

/* ---- stages ---- */

/* As many descriptors as we may have, and what they are for. Pipes of splices take two each. */
static void share_descriptors(struct program *p, const struct bridge_config *config)
{
	const uint64_t all = outset_descriptors();
	struct worker *w = p->loop.worker;
	uint64_t spare, needed;

	if (!all)
		return;
	if (all / 16 < w->pipes_max)
		w->pipes_max = (unsigned)(all / 16);
	spare = all / 4 < DESCRIPTORS_SPARE ? all / 4 : DESCRIPTORS_SPARE;
	spare += 2 * (uint64_t)w->pipes_max;
	p->bridge.descriptors = all - spare;
	needed = config->limits.connections + config->qgs.in_flight + spare;
	if (all < needed)
		log_warning("only %" PRIu64 " file descriptors may be open: guests will have to "
			    "wait before limits.connections (%" PRIu64 ") is reached; raise "
			    "LimitNOFILE= to %" PRIu64 " and one more for each listening socket",
			    all, config->limits.connections, needed);
}

static void say_status(char *text, size_t size)
{
	bridge_status(&program.bridge, text, size);
}

/* ---- the end ---- */

static void cut(void)
{
	timer_cancel(program.loop.worker, &program.tick);
	bridge_end(&program.bridge);
	mainloop_finish(&program.loop);
}

/* Drained, or late: what is left ends. */
static void on_tick(struct timer *t)
{
	const unsigned left = program.bridge.connections;

	if (left && worker_now(program.loop.worker) < program.drained_at) {
		timer_set(program.loop.worker, t, TICK_MS, on_tick);
		return;
	}
	if (left)
		log_warning("ending with %u connections that did not finish in time", left);
	cut();
}

static void drain(void)
{
	struct program *p = &program;
	uint64_t ms = p->bridge.config->timeouts.common.drain;

	log_info("ending: no new connections; %u have %" PRIu64 " s to finish",
		 p->bridge.connections, ms / 1000);
	p->drained_at = worker_now(p->loop.worker) + ms;
	bridge_drain(&p->bridge);
	timer_set(p->loop.worker, &p->tick, 0, on_tick);
}

/* ---- another config ---- */

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
	mainloop_tell(&program.loop);
	return good;
}

/* ---- the run ---- */

static void look(void)
{
	bridge_look(&program.bridge);
}

static const struct mainloop_ops ops = {
	.status = say_status,
	.reload = reload,
	.drain = drain,
	.cut = cut,
	.look = look,
};

/* Asked for at the admin socket. */
static void drain_asked(void)
{
	mainloop_drain(&program.loop);
}

static bool start_admin(struct program *p)
{
	p->admin = (struct admin_bridge){ .bridge = &p->bridge,
					  .drain = drain_asked,
					  .reload = reload };
	return admin_bridge_start(&p->admin, p->loop.worker->base);
}

static bool prepare(struct program *p, const struct bridge_config *config)
{
	if (!mainloop_init(&p->loop, &ops))
		return false;
	share_descriptors(p, config);
	return true;
}

static void release(struct program *p)
{
	admin_bridge_stop(&p->admin);
	bridge_deinit(&p->bridge);
	if (p->loop.worker)
		timer_cancel(p->loop.worker, &p->tick);
	mainloop_deinit(&p->loop);
}

static int run(struct program *p, const struct bridge_options *o)
{
	struct bridge_config *config = o->config;
	int status = BRIDGE_FAILED;

	log_setup((enum log_level)config->log.level, (enum log_format)config->log.format,
		  (enum log_target)config->log.target);
	outset_protect();
	if (prepare(p, config) && bridge_start(&p->bridge, p->loop.worker, config) &&
	    start_admin(p) && confine(o)) {
		inherit_close_rest();
		log_info("qgs-bridge " VERSION " ready, %zu listener%s", p->bridge.n_entrances,
			 p->bridge.n_entrances == 1 ? "" : "s");
		notify_ready();
		mainloop_run(&p->loop);
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
