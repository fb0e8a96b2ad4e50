/*
 * bridge: puts the parts together: which entrances there are, when they are open, what a reload
 * changes.
 *
 * Theory of operation: entrances take connections in (caller.c), which go to QGS or to the relay.
 *
 * Entrances that lead to QGS are open while QGS is up (qgs.h) and away otherwise. Which entrances
 * there are is the config's list and that of the drop-ins; when either changes, those that are
 * equal stay as they are, with the connections in their queues.
 *
 * A reload takes effect as a whole or not at all. What is under way keeps what it was given.
 */
#include "qgs-bridge/bridge.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "qgs-bridge/entrance.h"
#include "qgs-bridge/forward.h"
#include "qgs-bridge/plain.h"
#include "qgs-bridge/qgs.h"
#include "qgs-bridge/quote.h"
#include "qgs-bridge/ticket.h"
#include "qgs-bridge/vms.h"
#include "relay/fileprint.h"
#include "relay/log.h"
#include "relay/process.h"
#include "relay/why.h"
#include "relay/worker.h"
#include "tunnel/pool.h"

static bool is_wanted_open(const struct bridge *b, const struct entrance_config *config)
{
	if (b->draining)
		return false;
	return config->forward || (b->qgs && qgs_takes_new(b->qgs));
}

static void open_or_close(struct bridge *b, struct entrance *e)
{
	if (is_wanted_open(b, entrance_config(e)))
		entrance_open(e);
	else
		entrance_close(e);
}

/* What to do about it, where that is known. */
static const char *advice(const char *detail)
{
	if (strstr(detail, strerror(EACCES)))
		return "; this process needs to be in the group of QGS' socket (and with DCAP up "
		       "to 1.25, QGS a UMask=0007)";
	return "";
}

static void on_qgs_changed(struct qgs *q)
{
	struct bridge *b = qgs_user(q);
	const char *detail = qgs_detail(q);
	char where[ADDRESS_TEXT_MAX];
	size_t len;

	address_format(&b->qgs_config->qgs.address, where, sizeof(where));
	len = strlen(where);
	if (strncmp(detail, where, len) == 0 && detail[len] == ':') /* once is enough */
		detail += len + 2;
	if (qgs_state(q) == QGS_UP && qgs_takes_new(q))
		log_info("QGS at %s is up", where);
	else if (qgs_state(q) == QGS_UP)
		log_info("QGS at %s has ended; a new one is waited for", where);
	else
		log_warning("QGS at %s is %s: %s%s; guests are turned away meanwhile", where,
			    qgs_state_word(qgs_state(q)), detail, advice(detail));
	for (size_t i = 0; i < b->n_entrances; i++)
		open_or_close(b, b->entrances[i]);
	ticket_qgs_changed(b);
}

/* The listeners that there are to be. */
struct wanted {
	const struct entrance_config **at;
	size_t n, room;
	bool failed;
};

static void want(void *user, const struct entrance_config *config)
{
	struct wanted *w = user;
	const struct entrance_config **at;

	for (size_t i = 0; i < w->n; i++) {
		if (strcmp(w->at[i]->name, config->name) != 0)
			continue;
		log_error("listener %s: there is one of this name already; the second one is left "
			  "out",
			  config->name);
		return;
	}
	if (w->n == w->room) {
		at = realloc(w->at, (w->room + 64) * sizeof(struct entrance_config *));
		if (!at) {
			w->failed = true;
			return;
		}
		w->at = at;
		w->room += 64;
	}
	w->at[w->n++] = config;
}

/* Which of the wanted is equal to this one, or SIZE_MAX. */
static size_t find_equal(const struct wanted *w, const struct entrance_config *config)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->at[i] && entrance_equal(w->at[i], config))
			return i;
	return SIZE_MAX;
}

static void keep_equal(struct bridge *b, struct wanted *w)
{
	size_t kept = 0;

	for (size_t i = 0; i < b->n_entrances; i++) {
		struct entrance *e = b->entrances[i];
		size_t at = find_equal(w, entrance_config(e));

		if (at == SIZE_MAX) {
			entrance_drain(e);
			entrance_free(e);
			continue;
		}
		entrance_adopt(e, w->at[at]);
		w->at[at] = NULL;
		b->entrances[kept++] = e;
	}
	b->n_entrances = kept;
}

static bool make_qgs(struct bridge *b)
{
	if (b->qgs)
		return true;
	b->qgs = qgs_new(b->worker, &b->config->qgs, b->config->timeouts.common.dial,
			 on_qgs_changed, b);
	if (b->qgs)
		b->qgs_config = bridge_config_ref(b->config);
	return b->qgs != NULL;
}

/* Makes the entrances that are to be there and lets go of those that are not. */
static bool settle_entrances(struct bridge *b)
{
	struct wanted w = { 0 };
	struct entrance **list;

	for (size_t i = 0; i < b->config->n_listeners; i++)
		want(&w, &b->config->listeners[i]);
	vms_listeners(b->vms, want, &w);
	keep_equal(b, &w);
	list = realloc(b->entrances, (b->n_entrances + w.n + 1) * sizeof(struct entrance *));
	if (list)
		b->entrances = list;
	w.failed |= !list;
	for (size_t i = 0; i < w.n && !w.failed; i++) {
		struct entrance *e;

		if (!w.at[i])
			continue;
		e = entrance_new(b, w.at[i]);
		w.failed = !e || (!w.at[i]->forward && !make_qgs(b));
		if (e)
			b->entrances[b->n_entrances++] = e;
	}
	free(w.at);
	if (w.failed)
		log_error("not all listeners could be made: out of memory");
	return !w.failed;
}

static void open_all(struct bridge *b)
{
	for (size_t i = 0; i < b->n_entrances; i++)
		open_or_close(b, b->entrances[i]);
}

static void on_vms_changed(void *user)
{
	struct bridge *b = user;

	if (b->draining)
		return;
	settle_entrances(b);
	open_all(b);
}

/* ---- life ---- */

static void apply_limits(struct bridge *b)
{
	const struct bridge_limits *limits = &b->config->limits;
	const struct fair_limits fair = {
		.running = (unsigned)b->config->qgs.in_flight,
		.running_per_line = (unsigned)b->config->qgs.in_flight_per_vm,
		.per_line = (unsigned)limits->queue_per_vm,
		.rate = (unsigned)limits->rate_per_vm,
		.burst = (unsigned)limits->burst_per_vm,
	};

	fair_limit(&b->fair, &fair);
	vm_table_limit(&b->vms_known, (unsigned)limits->vms, (unsigned)limits->vm_labels);
	b->splice.idle_ms = b->config->timeouts.common.idle;
	b->splice.half_closed_ms = b->config->timeouts.common.half_closed;
}

static void hold_config(void *owner)
{
	bridge_config_ref(owner);
}

static void release_config(void *owner)
{
	bridge_config_unref(owner);
}

static struct pool_config pool_config_of(struct bridge_config *config)
{
	const struct leg_config *relay = &config->relay;
	const struct timeouts_config *times = &config->timeouts.common;

	return (struct pool_config){
		.addresses = &relay->addresses,
		.server_name = relay->server_name,
		.ca_file = relay->ca_file,
		.certificate = relay->certificate,
		.key = relay->key,
		.connections = relay->connections,
		.streams = relay->streams,
		.limits = "relay.connections, relay.streams",
		.stream_window = relay->stream_window,
		.session_window = relay->session_window,
		.dial_ms = times->dial,
		.handshake_ms = times->handshake,
		.ping_ms = times->ping,
		.dead_ms = times->dead,
		.pickup_ms = times->pickup,
		.hold = hold_config,
		.release = release_config,
		.owner = config,
	};
}

static struct pool *make_pool(struct worker *w, struct bridge_config *config, char **why)
{
	const struct pool_config how = pool_config_of(config);

	return pool_new(w, &how, why);
}

/* 0: one of them is not there. */
static uint64_t look_at_files(const struct bridge_config *config)
{
	const struct leg_config *relay = &config->relay;
	const char *const paths[] = { relay->certificate, relay->key, relay->ca_file };

	return fileprint_of(paths, sizeof(paths) / sizeof(paths[0]));
}

static ino_t own_netns(void)
{
	struct stat st;

	return stat("/proc/self/ns/net", &st) == 0 ? st.st_ino : 0;
}

static bool try_entrances(struct bridge *b)
{
	bool good = true;

	for (size_t i = 0; i < b->n_entrances; i++) {
		char *why = NULL;

		if (entrance_try(b->entrances[i], &why) < 0) {
			log_error("listener %s: %s", entrance_config(b->entrances[i])->name,
				  why ? why : "out of memory");
			good = false;
		}
		free(why);
	}
	return good;
}

/* Seconds since 1970. */
static uint64_t now(void)
{
	return (uint64_t)time(NULL);
}

bool bridge_start(struct bridge *b, struct worker *w, struct bridge_config *config)
{
	const struct bridge_limits *limits = &config->limits;
	const struct fair_limits none = { 0 };
	char *why = NULL;

	b->worker = w;
	b->config = bridge_config_ref(config);
	b->netns = own_netns();
	b->reloaded_at = now();
	process_open();
	fair_init(&b->fair, &none);
	if (vm_table_init(&b->vms_known, (unsigned)limits->vms, (unsigned)limits->vm_labels) < 0) {
		log_error("cannot start: no memory, or no randomness to be had");
		return false;
	}
	apply_limits(b);
	b->vms = vms_new(w, config, on_vms_changed, b);
	if (!b->vms) {
		log_error("cannot start: %s cannot be watched: %s%s",
			  config->vms_dir ? config->vms_dir : "a folder", strerror(errno),
			  errno == EMFILE ? " (fs.inotify.max_user_instances)" : "");
		return false;
	}
	b->files = look_at_files(config);
	if (config->relay.addresses.n) {
		b->pool = make_pool(w, config, &why);
		if (!b->pool)
			log_error("%s", why ? why : "out of memory");
		free(why);
		if (!b->pool)
			return false;
	}
	if (!settle_entrances(b) || !try_entrances(b))
		return false;
	open_all(b);
	return true;
}

static bool same_texts(const struct strings *a, const struct strings *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->at[i], b->at[i]) != 0)
			return false;
	return true;
}

/* As far as qgs.c looks at it; the rest is read anew for each request. */
static bool same_qgs(const struct bridge_config *a, const struct bridge_config *b)
{
	return address_equal(&a->qgs.address, &b->qgs.address) &&
	       a->qgs.framing == b->qgs.framing && a->qgs.stuck_count == b->qgs.stuck_count &&
	       a->qgs.stuck_after == b->qgs.stuck_after &&
	       a->timeouts.common.dial == b->timeouts.common.dial &&
	       same_texts(&a->qgs.stuck_command, &b->qgs.stuck_command);
}

static void let_qgs_go(struct bridge *b)
{
	qgs_free(b->qgs);
	b->qgs = NULL;
	bridge_config_unref(b->qgs_config);
	b->qgs_config = NULL;
}

/* The pool that is to be: NULL in *pool if there is none. False: it cannot be made. */
static bool settle_pool(struct bridge *b, struct bridge_config *config, char **why)
{
	bool good = true;

	if (b->pool && config->relay.addresses.n) {
		const struct pool_config how = pool_config_of(config);

		good = pool_reload(b->pool, &how, why) == 0;
	} else if (config->relay.addresses.n) {
		b->pool = make_pool(b->worker, config, why);
		good = b->pool;
	} /* else: a pool that nobody uses any more costs nothing, and its streams go on */
	return good;
}

bool bridge_reload(struct bridge *b, struct bridge_config *config, char **why)
{
	struct bridge_config *old = b->config;
	struct vms *vms = vms_new(b->worker, config, on_vms_changed, b), *old_vms = b->vms;
	const uint64_t files = look_at_files(config);

	*why = NULL;
	if (!vms)
		why_say(why, "%s cannot be watched: %s",
			config->vms_dir ? config->vms_dir : "a folder", strerror(errno));
	if (!vms || !settle_pool(b, config, why)) {
		log_error("the new config is not used: %s", *why ? *why : "out of memory");
		vms_free(vms);
		return false;
	}
	b->config = bridge_config_ref(config);
	b->files = files;
	b->vms = vms;
	vms_inherit(vms, old_vms);
	if (b->qgs && !same_qgs(b->qgs_config, config)) {
		let_qgs_go(b);
		make_qgs(b); /* requests that wait go there */
	}
	apply_limits(b);
	settle_entrances(b);
	open_all(b);
	vms_free(old_vms);
	bridge_config_unref(old);
	if (b->qgs)
		ticket_schedule(b);
	b->reloads++;
	b->reloaded_at = now();
	return true;
}

void bridge_look(struct bridge *b)
{
	const uint64_t now = b->pool && !b->draining ? look_at_files(b->config) : 0;
	char *why = NULL;

	if (!now || now == b->files)
		return;
	b->files = now;
	log_info("the node's certificate, its key or the CAs are others now: reading them again");
	if (!settle_pool(b, b->config, &why))
		log_warning("new sessions with the relay use what was read before: %s",
			    why ? why : "out of memory");
	free(why);
}

void bridge_drain(struct bridge *b)
{
	for (size_t i = 0; i < b->n_entrances; i++)
		entrance_drain(b->entrances[i]);
	b->draining = true;
	for (size_t i = 0; i < b->n_entrances; i++)
		entrance_free(b->entrances[i]);
	b->n_entrances = 0;
}

void bridge_end(struct bridge *b)
{
	bridge_drain(b);
	b->ending = true;
	quote_end_all(b, REASON_SHUTDOWN);
	plain_end_all(b, REASON_SHUTDOWN);
	forward_end_all(b, REASON_SHUTDOWN);
	if (b->pool)
		pool_end(b->pool);
	let_qgs_go(b);
}

void bridge_deinit(struct bridge *b)
{
	process_close();
	b->pool = pool_free(b->pool);
	b->vms = vms_free(b->vms);
	let_qgs_go(b);
	for (size_t i = 0; i < b->n_entrances; i++)
		entrance_free(b->entrances[i]);
	free(b->entrances);
	vm_table_deinit(&b->vms_known);
	bridge_config_unref(b->config);
	*b = (struct bridge){ 0 };
}

const char *bridge_status(const struct bridge *b, char *buf, size_t size)
{
	unsigned sockets = 0, streams = b->pool ? pool_counts(b->pool).streams : 0;

	for (size_t i = 0; i < b->n_entrances; i++)
		sockets += entrance_sockets(b->entrances[i]);
	snprintf(buf, size,
		 "%s%s; %u sockets open, %u connections, %u requests in QGS, %u waiting, %u "
		 "streams forwarded, %" PRIu64 " callers so far",
		 b->qgs ? "QGS " : "no QGS wanted", b->qgs ? qgs_state_word(qgs_state(b->qgs)) : "",
		 sockets, b->connections, b->fair.running, b->fair.waiting, streams, b->next_id);
	return buf;
}
