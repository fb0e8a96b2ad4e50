/*
 * daemon: attest-relay as a running program: its stages, its signals, its end.
 *
 * Theory of operation: stages are log, descriptors, TLS, listeners, workers, metrics, sandbox,
 * audit, threads, READY; then the main thread waits for signals and requests, looks whether the
 * workers' loops turn, and tells systemd. SIGTERM and SIGINT drain (see relay/ending.h), SIGHUP
 * reloads, SIGUSR1 logs a status line.
 */
#include "relay/daemon.h"

#include <event2/event.h>
#include <event2/thread.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/admin.h"
#include "relay/admin_relay.h"
#include "relay/audit.h"
#include "relay/confine.h"
#include "relay/ending.h"
#include "relay/gateway.h"
#include "relay/handover.h"
#include "relay/history.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/notify.h"
#include "relay/outset.h"
#include "relay/problems.h"
#include "relay/refresh.h"
#include "relay/registry.h"
#include "relay/reload.h"
#include "relay/takeover.h"
#include "relay/watch.h"

#define STATUS_TEXT 1024
#define DRAIN_TICK_MS 50
#define LOOK_MS 5000 /* at the workers' loops, if systemd has no wish */

struct daemon {
	struct gateway gateway;
	const char *path; /* the config's */
	struct event_base *base;
	struct event *drain_timer, *status_timer, *look_timer, *signals[4];
	struct watch *watch;
	struct refresh *refresh;
	struct admin *admin;
	struct handover *handover;
	struct reload *reload;
	struct takeover *takeover; /* whose place this one takes, until it is ready */
	uint64_t waited;
	unsigned idle; /* ticks in a row */
	struct ending ending;
};

/* ---- running ---- */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void add_up(const struct gateway *g, uint64_t sum[COUNTERS])
{
	for (unsigned i = 0; i < g->n_workers; i++)
		for (unsigned j = 0; j < COUNTERS; j++)
			sum[j] += counter_get(&g->workers[i]->counters.value[j]);
}

/* How many there are, and the worst. */
static void add_problems(const struct gateway *g, char *text, size_t size)
{
	struct problems *p = malloc(sizeof(*p));

	if (!p)
		return;
	problems_find(g, p);
	if (p->n)
		snprintf(text, size, "; %zu problem%s: %s", p->n + p->more,
			 p->n + p->more == 1 ? "" : "s, the worst", p->at[0].what);
	free(p);
}

/* For the log and for systemctl status. */
static const char *status_text(const struct daemon *d, char *text, size_t size)
{
	const struct gateway *g = &d->gateway;
	const unsigned stuck = d->watch ? watch_stuck(d->watch) : 0;
	uint64_t sum[COUNTERS] = { 0 };
	int n;

	add_up(g, sum);
	n = snprintf(text, size,
		     "%s%" PRIu64 " connections, %" PRIu64 " tunnels, %zu services, %" PRIu64
		     " streams, %" PRIu64 " parked, %" PRIu64 " accepted so far",
		     d->ending.draining ? "draining: " : "", (uint64_t)atomic_load(&g->connections),
		     sum[COUNTER_LIVE_TUNNELS], registry_services(g->registry),
		     sum[COUNTER_LIVE_SPLICES], sum[COUNTER_LIVE_PARKED], sum[COUNTER_ACCEPTED]);
	if (n > 0 && (size_t)n < size && stuck)
		n += snprintf(text + n, size - (size_t)n, "; %u of %u workers are stuck", stuck,
			      g->n_workers);
	if (n > 0 && (size_t)n < size)
		add_problems(g, text + n, size - (size_t)n);
	return text;
}

static void tell_status(const struct daemon *d)
{
	char text[STATUS_TEXT];

	notify_status("%s", status_text(d, text, sizeof(text)));
}

static void on_status(evutil_socket_t fd, short what, void *arg)
{
	tell_status(arg);
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
	const struct daemon *d = arg;

	if (watch_look(d->watch))
		notify_watchdog();
}

static void on_drain_tick(evutil_socket_t fd, short what, void *arg)
{
	struct daemon *d = arg;

	d->waited += DRAIN_TICK_MS;
	/* twice in a row: a client on its way between two workers may be seen by neither look */
	d->idle = gateway_is_idle(&d->gateway) ? d->idle + 1 : 0;
	if (d->idle >= 2 || d->waited >= gateway_config(&d->gateway)->timeouts.drain)
		event_base_loopbreak(d->base);
}

static void drain(struct daemon *d)
{
	const struct timeval tick = { .tv_usec = DRAIN_TICK_MS * 1000 };

	log_info("ending: no new connections; streams have %" PRIu64 " s to finish",
		 gateway_config(&d->gateway)->timeouts.drain / 1000);
	reload_cancel(d->reload, "not while draining");
	handover_leave(d->handover);
	gateway_drain(&d->gateway);
	tell_status(d);
	event_add(d->drain_timer, &tick);
}

static void on_terminate(evutil_socket_t signal, short what, void *arg)
{
	struct daemon *d = arg;

	switch (ending_signalled(&d->ending, now_ms())) {
	case ENDING_BEGIN:
		notify_stopping();
		drain(d);
		break;
	case ENDING_SAME:
		log_info(ENDING_SAME_TEXT);
		break;
	case ENDING_NOW:
		log_info("second signal: ending at once");
		event_base_loopbreak(d->base);
	}
}

static void on_usr1(evutil_socket_t signal, short what, void *arg)
{
	char text[STATUS_TEXT];

	log_info("status: %s", status_text(arg, text, sizeof(text)));
}

void daemon_reload(struct daemon *d, void (*told)(void *user, bool good, const char *why),
		   void *user)
{
	reload_ask(d->reload, told, user);
}

static void on_hup(evutil_socket_t signal, short what, void *arg)
{
	const struct daemon *d = arg;

	reload_ask(d->reload, NULL, NULL);
}

struct gateway *daemon_gateway(struct daemon *d)
{
	return &d->gateway;
}

const char *daemon_path(const struct daemon *d)
{
	return d->path;
}

void daemon_drain(struct daemon *d)
{
	if (!ending_asked(&d->ending))
		return;
	/* others are to have whoever comes now: in systemd's hands they would wait for nobody */
	handover_forget(d->handover);
	notify_stopping();
	drain(d);
}

bool daemon_is_draining(const struct daemon *d)
{
	return d->ending.draining;
}

unsigned daemon_stuck_workers(const struct daemon *d)
{
	return d->watch ? watch_stuck(d->watch) : 0;
}

void daemon_hand_over(struct daemon *d, int fd)
{
	handover_asked(d->handover, fd);
}

static bool prepare(struct daemon *d)
{
	const struct {
		int signal;
		event_callback_fn fn;
	} signals[] = { { SIGTERM, on_terminate },
			{ SIGINT, on_terminate },
			{ SIGUSR1, on_usr1 },
			{ SIGHUP, on_hup } };

	d->base = event_base_new();
	if (!d->base)
		return false;
	d->drain_timer = event_new(d->base, -1, EV_PERSIST, on_drain_tick, d);
	d->status_timer = event_new(d->base, -1, EV_PERSIST, on_status, d);
	d->look_timer = event_new(d->base, -1, EV_PERSIST, on_look, d);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		d->signals[i] = evsignal_new(d->base, signals[i].signal, signals[i].fn, d);
		if (!d->signals[i] || event_add(d->signals[i], NULL) < 0)
			return false;
	}
	return d->drain_timer && d->status_timer && d->look_timer;
}

static void every(struct event *timer, uint64_t ms)
{
	event_add(timer, &(struct timeval){ .tv_sec = (time_t)(ms / 1000),
					    .tv_usec = (suseconds_t)(ms % 1000 * 1000) });
}

/* The workers run. False: out of memory. */
static bool start_watching(struct daemon *d)
{
	const uint64_t wish = notify_watchdog_ms();

	d->watch = watch_new(d->gateway.workers, d->gateway.n_workers);
	if (!d->watch)
		return false;
	every(d->look_timer, wish ? wish : LOOK_MS);
	every(d->status_timer, NOTIFY_STATUS_MS);
	return true;
}

/* Another process serves now. If it is of another unit, this unit is stopping. */
static void on_succeeded(void *user, bool same_unit)
{
	struct daemon *d = user;

	if (!same_unit)
		notify_stopping();
	if (ending_asked(&d->ending))
		drain(d);
}

/* Before anything listens. False: what is wrong has been logged. */
static bool find_predecessor(struct daemon *d)
{
	const struct address *admin = &d->gateway.config->admin.address;
	char *why = NULL;

	if (admin->kind != ADDRESS_UNIX) {
		log_info("takeover: the config says no admin socket (admin), where a running "
			 "attest-relay could be asked; starting as ever");
		return true;
	}
	switch (takeover_ask(admin, &d->takeover, &why)) {
	case TAKEOVER_NOBODY:
		log_info("takeover: nobody serves the admin socket; starting as ever");
		return true;
	case TAKEOVER_GIVEN:
		return true;
	case TAKEOVER_FAILED:
		break;
	}
	log_error("%s", why ? why : "takeover: out of memory");
	free(why);
	return false;
}

/* All is served. False: the running one stays, and it has been logged why. */
static bool succeed(struct daemon *d)
{
	char *why = NULL;
	bool good = true;

	if (d->takeover)
		good = takeover_ready(d->takeover, &why);
	d->takeover = takeover_free(d->takeover);
	if (!good) {
		log_error("%s", why ? why : "takeover: out of memory");
		free(why);
		return false;
	}
	inherit_own();
	inherit_close_rest();
	d->handover = handover_new(d->base, &d->gateway, d->admin, on_succeeded, d);
	return d->handover;
}

static void on_reloaded(void *user)
{
	tell_status(user);
}

/* False: out of memory. */
static bool make_reload(struct daemon *d)
{
	d->reload = reload_new(&(struct reload_spec){ .base = d->base,
						      .gateway = &d->gateway,
						      .handover = d->handover,
						      .path = d->path,
						      .over = on_reloaded,
						      .user = d });
	return d->reload;
}

static void ready(struct daemon *d)
{
	log_info("attest-relay " VERSION " ready, %u workers", d->gateway.n_workers);
	handover_store(d->handover);
	notify_ready();
	tell_status(d);
}

static void release(struct daemon *d)
{
	refresh_stop(d->refresh);
	takeover_free(d->takeover);
	reload_free(d->reload);
	handover_free(d->handover);
	admin_relay_stop(&d->gateway);
	history_free(d->gateway.history);
	audit_stop(d->gateway.audit);
	gateway_deinit(&d->gateway);
	watch_free(d->watch); /* its letters are gone with the workers */
	for (size_t i = 0; i < sizeof(d->signals) / sizeof(d->signals[0]); i++)
		if (d->signals[i])
			event_free(d->signals[i]);
	if (d->drain_timer)
		event_free(d->drain_timer);
	if (d->status_timer)
		event_free(d->status_timer);
	if (d->look_timer)
		event_free(d->look_timer);
	if (d->base)
		event_base_free(d->base);
	libevent_global_shutdown();
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

/* Its HTTP listeners. False: what is wrong has been logged. */
static bool start_admin(struct daemon *d)
{
	char *why;

	d->admin = admin_relay_start(d->base, d, &why);
	if (!d->admin)
		log_error("%s", why ? why : "admin: out of memory");
	free(why);
	return d->admin;
}

/* Fed from the workers' counters, so they are there. False: out of memory. */
static bool start_history(struct daemon *d)
{
	d->gateway.history = history_new();
	return d->gateway.history && history_begin(d->gateway.history, d->base, &d->gateway) == 0;
}

int daemon_run(const struct daemon_options *o)
{
	const struct relay_config *config = o->config;
	struct daemon d = { .gateway.config = config, .path = o->path };
	bool good;

	log_setup((enum log_level)config->log.level, (enum log_format)config->log.format,
		  (enum log_target)config->log.target);
	outset_protect();
	evthread_use_pthreads();
	o->install(&d.gateway);
	inherit_from_systemd();
	good = prepare(&d) && (!o->takeover || find_predecessor(&d)) &&
	       gateway_prepare(&d.gateway) && start_admin(&d) &&
	       confine_relay(config, o->sandbox ? o->path : NULL) && start_audit(&d.gateway) &&
	       gateway_start(&d.gateway) && start_history(&d) && start_watching(&d) &&
	       (d.refresh = refresh_start(d.base, &d.gateway)) && succeed(&d) &&
	       make_reload(&d);
	if (good) {
		ready(&d);
		event_base_dispatch(d.base);
	}
	if (!gateway_end(&d.gateway)) {
		audit_stop(d.gateway.audit); /* what waits there is written */
		_exit(1);		     /* nothing else may be taken from under who hangs */
	}
	release(&d);
	if (good)
		log_info("ended");
	return good ? 0 : 1;
}
