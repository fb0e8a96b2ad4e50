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
 *   loop      one worker on this thread, until all is over; signals (relay/mainloop)
 *
 * Two parts, either of which may be absent: the agent (services) and local (local listeners). They
 * share the worker and the way out, and end together: a signal stops both, and an agent that is
 * over by itself (--once) stops the other.
 *
 * A reload judges the command line and the file once more. All that can fail comes first: reading,
 * what local listeners need. Then the agent gets the new config, which cannot fail. The config that
 * the program began with is kept: the way out has been made of it.
 */
#include "tunnel/tunnel_daemon.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/mainloop.h"
#include "relay/notify.h"
#include "relay/outset.h"
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

struct program {
	struct mainloop loop;
	const struct options *options;
	struct tunnel_config *config; /* before there is a setup; then NULL */
	struct setup *setup, *first;  /* in effect, and at the start: held */
	struct agent_spec spec;
	struct agent agent;
	struct local local;
	unsigned running; /* of the two: not yet over */
	struct egress egress;
	struct tunnel_metrics metrics;
	struct admin_tunnel admin;
	struct netwatch *netwatch;
	struct timer late;
	char instance[HELLO_INSTANCE_MAX];
	bool ready; /* systemd was told */
	enum agent_outcome outcome;
};

static struct program program;

/* ---- stages ---- */

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
	p->setup = setup_new(config, p->loop.worker, &p->egress, &why);
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

static void say_status(char *text, size_t size)
{
	const struct program *p = &program;
	const uint64_t streams = p->agent.serve.live + p->local.live;

	if (offers(p))
		snprintf(text, size, "connected to %u of %u relays, %" PRIu64 " streams",
			 agent_up(&p->agent), p->agent.n_links, streams);
	else
		snprintf(text, size, "%zu local listeners, %" PRIu64 " streams",
			 config_of(p)->n_locals, streams);
}

/* Certificate, key and CAs, for connections from now on; and now is the time for missing ones. */
static void read_again(struct program *p)
{
	char *why = NULL;

	if ((offers(p) && !setup_refresh(p->setup, &why)) ||
	    (!p->local.stopping && local_reload(&p->local, p->setup, &why) < 0))
		log_warning("new connections use what was read before: %s",
			    why ? why : "out of memory");
	free(why);
	agent_retry(&p->agent, true);
}

/* Each may be renewed at any time: the files of a pair one after the other, in any order. */
static void look(void)
{
	if (!setup_files_changed(program.setup))
		return;
	log_info("certificate, key or CAs are others now: reading them again");
	read_again(&program);
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
	mainloop_tell(&program.loop);
}

/* No relay has accepted it yet: it goes on trying, but who boots the machine must not wait. */
static void on_late(struct timer *t)
{
	tell_ready(&program);
	mainloop_tell(&program.loop);
}

/* ---- events ---- */

static void part_over(struct program *p)
{
	if (--p->running == 0)
		mainloop_finish(&p->loop);
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

static void cut(void)
{
	agent_kill(&program.agent);
	local_stop(&program.local);
	local_kill(&program.local);
}

static void drain(void)
{
	struct program *p = &program;
	const uint64_t live = p->agent.serve.live + p->local.live;

	if (live)
		log_info("ending: open streams (%" PRIu64 ") have %" PRIu64 " s to finish", live,
			 config_of(p)->timeouts.drain / 1000);
	agent_stop(&p->agent);
	local_stop(&p->local);
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
		p->netwatch = netwatch_new(p->loop.worker, on_network_change, NULL);
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
	struct setup *next = config ? setup_new(config, p->loop.worker, &p->egress, why) : NULL;
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
	tell_metrics(p);
}

static bool reload(char **why)
{
	struct program *p = &program;
	struct setup *next;

	*why = NULL;
	if (p->loop.ending.draining || p->spec.once) {
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
	mainloop_tell(&program.loop);
	return next;
}

static const struct mainloop_ops ops = {
	.status = say_status,
	.look = look,
	.reload = reload,
	.drain = drain,
	.cut = cut,
};

/* Asked for at the admin socket. */
static void drain_asked(void)
{
	mainloop_drain(&program.loop);
}

/* ---- the run ---- */

static void prepare_agent(struct program *p)
{
	p->spec.setup = p->setup;
	p->spec.instance = p->instance;
	p->spec.once = p->options->once;
	p->spec.changed = on_changed;
	p->spec.over = on_over;
	agent_init(&p->agent, p->loop.worker, &p->spec);
	p->running++;
}

static bool prepare_local(struct program *p)
{
	char *why = NULL;

	if (local_init(&p->local, p->loop.worker, p->setup, &why) < 0)
		return fail(why);
	p->local.over = on_local_over;
	p->running++;
	return true;
}

/* After all that it tells of. */
static bool prepare_admin(struct program *p)
{
	p->metrics = (struct tunnel_metrics){ .worker = p->loop.worker,
					      .config = config_of(p),
					      .stopping = &p->loop.ending.draining };
	p->admin = (struct admin_tunnel){ .metrics = &p->metrics,
					  .drain = drain_asked,
					  .reload = reload };
	return admin_tunnel_start(&p->admin, p->loop.worker->base);
}

static bool prepare(struct program *p)
{
	if (!find_proxy(p))
		return false;
	if (!mainloop_init(&p->loop, &ops) || !make_setup(p) || !prepare_local(p))
		return false;
	prepare_agent(p);
	return prepare_admin(p);
}

static void release(struct program *p)
{
	netwatch_free(p->netwatch);
	admin_tunnel_stop(&p->admin);
	if (p->loop.worker) {
		if (p->agent.worker)
			agent_deinit(&p->agent);
		local_deinit(&p->local);
		proxy_end_joints(&p->egress.proxy);
		timer_cancel(p->loop.worker, &p->late);
	}
	mainloop_deinit(&p->loop);
	setup_unref(p->setup);
	egress_deinit(&p->egress);
	setup_unref(p->first);
	tunnel_config_free(p->config);
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
	outset_protect();
	outset_descriptors();
	p->options = o;
	p->config = o->config;
	if (prepare(p) && confine_tunnel(o)) {
		inherit_close_rest();
		tell_metrics(p);
		log_start(p);
		if (offers(p))
			timer_set(p->loop.worker, &p->late, READY_LATE_MS, on_late);
		else /* nothing is connected to before somebody comes */
			tell_ready(p);
		mainloop_run(&p->loop);
		status = p->outcome == AGENT_ORDERLY   ? STATUS_ORDERLY
			 : p->outcome == AGENT_REFUSED ? STATUS_REFUSED
						       : STATUS_FAILED;
		log_info("ended");
	}
	release(p);
	return status;
}
