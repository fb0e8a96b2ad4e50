/*
 * caller: a connection from a guest: let in or turned away, sent on, and written down at its end.
 *
 * Theory of operation: who it is comes first, then the rules, then the limits; what passes goes to
 * QGS (quote, or plain) or to the relay (forward), which give it back with how it ended: one log
 * line, which is the audit record, and one count. Whoever is turned away has a line as well, and is
 * counted by reason. Lines about failures come at a bounded rate, of each VM's own, so that none
 * hides what becomes of another; processes, which may be many, and those whom no rule lets in
 * share one.
 */
#include "qgs-bridge/caller.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/forward.h"
#include "qgs-bridge/plain.h"
#include "qgs-bridge/quote.h"
#include "qgs-bridge/rules.h"
#include "qgs-bridge/vms.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/log.h"
#include "relay/worker.h"

#define TO_QGS "qgs"
#define TO_SERVICE "service:" /* a listener's forward begins with it */

static struct log_rate *rate_of(const struct caller *c)
{
	static struct log_rate shared;

	return c->vm && strncmp(c->vm->key, "pid:", 4) != 0 ? &c->vm->failures : &shared;
}

static void log_caller(const struct caller *c, const struct caller_end *e, bool refused)
{
	uint64_t ms = c->began ? worker_now(c->bridge->worker) - c->began : 0;
	char text[WHO_TEXT_MAX], peer[PEER_TEXT_MAX];
	const struct log_field fields[] = {
		{ "stream", NULL, c->id },
		{ "vm", c->who.vm, 0 },
		{ "client", peer_format(&c->who.peer, peer, sizeof(peer)), 0 },
		{ "listener", c->listener, 0 },
		{ "pod", c->who.pod, 0 },
		{ "domain", c->who.domain, 0 },
		{ "label", c->who.label, 0 },
		{ "netns", NULL, c->who.netns },
		{ "to", e->to, 0 },
		{ "via", e->via ? e->via : "", 0 },
		{ "bytes_up", NULL, e->up },
		{ "bytes_down", NULL, e->down },
		{ "waited_ms", NULL, e->waited_ms },
		{ "duration_ms", NULL, ms },
		{ "reason", reason_word(e->why), 0 },
	};
	const unsigned n = sizeof(fields) / sizeof(fields[0]);
	const char *words = e->detail && *e->detail ? e->detail : reason_explanation(e->why);

	who_format(&c->who, text, sizeof(text));
	if (refused)
		log_limited_by(rate_of(c), LOG_LEVEL_WARNING, fields, n,
			       "#%" PRIu64 " %s -> %s (%s): refused: %s: %s", c->id, text, e->to,
			       c->listener, reason_word(e->why), words);
	else if (!e->answered)
		log_limited_by(rate_of(c), LOG_LEVEL_WARNING, fields, n,
			       "#%" PRIu64 " %s -> %s (%s): %" PRIu64
			       " up, no answer after %" PRIu64 ".%03u s: %s: %s",
			       c->id, text, e->to, c->listener, e->up, ms / 1000,
			       (unsigned)(ms % 1000), reason_word(e->why), words);
	else
		log_fields(LOG_LEVEL_INFO, fields, n,
			   "#%" PRIu64 " %s -> %s (%s): %" PRIu64 " up, %" PRIu64 " down, %" PRIu64
			   ".%03u s, %s",
			   c->id, text, e->to, c->listener, e->up, e->down, ms / 1000,
			   (unsigned)(ms % 1000), reason_word(e->why));
}

/* Each place in QGS must have one left, or QGS would seem to be gone. */
static bool has_descriptors(const struct bridge *b)
{
	uint64_t used;

	if (!b->descriptors)
		return true;
	used = counter_get(&b->worker->counters.value[COUNTER_LIVE_SOCKETS]) + b->gates;
	return used + b->config->qgs.in_flight < b->descriptors;
}

const char *caller_admit(const struct bridge *b)
{
	if (b->connections >= b->config->limits.connections)
		return "limits.connections is reached";
	if (!has_descriptors(b))
		return "there are too few descriptors: raise LimitNOFILE=";
	return NULL;
}

static void count_vm(struct bridge *b, struct vm *vm, bool forwarded, const struct caller_end *e)
{
	struct vm_counts *counts = &vm->counts;

	if (forwarded && e->answered)
		counts->streams++;
	else if (e->answered)
		counts->answered++;
	else
		counts->failed++;
	counts->waited_ms += e->waited_ms;
	if (e->waited_ms > counts->waited_max_ms)
		counts->waited_max_ms = e->waited_ms;
}

void caller_over(struct caller *c, const struct caller_end *end)
{
	struct bridge *b = c->bridge;

	log_caller(c, end, false);
	(c->forwarded ? b->streams : b->requests)[end->why]++;
	count_vm(b, c->vm, c->forwarded, end);
	vm_over(&b->vms_known, c->vm);
	b->connections--;
	if (c->over)
		c->over(c->over_arg);
	free(c);
}

/* Turned away as it came. */
static void refuse(struct bridge *b, struct caller *c, const char *to, enum reason why,
		   const char *detail)
{
	const struct caller_end end = { .to = to, .why = why, .detail = detail };

	b->refused[why]++;
	log_caller(c, &end, true);
	if (c->vm) {
		c->vm->counts.failed++;
		vm_over(&b->vms_known, c->vm);
	}
	free(c);
}

/* Where a listener leads to; NULL: nowhere for this VM. */
static const char *destination(const struct bridge *b, const struct caller_place *place,
			       const struct who *who)
{
	const char *forward = place->config->forward;

	if (!forward)
		return TO_QGS;
	if (strncmp(forward, TO_SERVICE, strlen(TO_SERVICE)) == 0)
		return forward + strlen(TO_SERVICE);
	return vms_service(b->vms, place->config->name, who, place->path, place->port);
}

/* REASON_NONE, and the VM counts one more connection; or why not. */
static enum reason judge(struct bridge *b, struct caller *c, const struct caller_place *place,
			 char detail[64])
{
	int line = 0;

	detail[0] = '\0';
	if (b->draining)
		return REASON_SHUTDOWN;
	if (!rules_allow(b->config, place->config->name, &c->who, &line)) {
		snprintf(detail, 64, line ? "denied by the rule on line %d" : "no rule allows it",
			 line);
		return REASON_FORBIDDEN;
	}
	c->vm = vm_begin(&b->vms_known, c->who.vm);
	if (!c->vm) {
		snprintf(detail, 64, "limits.vms is reached");
		return REASON_LIMIT;
	}
	if (c->vm->connections > b->config->limits.connections_per_vm) {
		snprintf(detail, 64, "limits.connections_per_vm is reached");
		return REASON_LIMIT;
	}
	return REASON_NONE;
}

static struct caller *caller_new(struct bridge *b, const struct caller_place *place, int fd,
				 const struct peer *peer)
{
	struct caller *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->bridge = b;
	c->id = ++b->next_id;
	c->began = worker_now(b->worker);
	c->forwarded = place->config->forward != NULL;
	snprintf(c->listener, sizeof(c->listener), "%s", place->config->name);
	who_of(&c->who, fd, peer, &place->who);
	return c;
}

/* Sends an admitted caller on; both consumed. */
static void send_on(struct bridge *b, struct caller *c, struct conduit *client, const char *to)
{
	b->connections++;
	if (c->forwarded)
		forward_new(b, c, client, to);
	else if (b->config->qgs.framing == FRAMING_NONE)
		plain_new(b, c, client);
	else
		quote_new(b, c, client);
}

/* client: consumed. fd: its socket, to ask the kernel about. */
static bool take_in(struct bridge *b, const struct caller_place *place, struct conduit *client,
		    int fd, const struct peer *peer, void (*over)(void *arg), void *arg)
{
	struct caller *c = client ? caller_new(b, place, fd, peer) : NULL;
	const char *to = NULL;
	enum reason why;
	char detail[64];

	if (!c) {
		conduit_close(client, REASON_NO_MEMORY);
		b->refused[REASON_NO_MEMORY]++;
		return false;
	}
	why = judge(b, c, place, detail);
	if (why == REASON_NONE) {
		to = destination(b, place, &c->who);
		if (!to) {
			why = REASON_UNKNOWN_SERVICE;
			snprintf(detail, sizeof(detail), "no entry of vms, or drop-in, is for it");
		} else if (c->forwarded && !b->pool) {
			why = REASON_DIAL_FAILED;
			snprintf(detail, sizeof(detail), "the config has no relay any more");
		}
	}
	if (why != REASON_NONE) {
		conduit_close(client, why);
		refuse(b, c, to ? to : c->forwarded ? "?" : TO_QGS, why, detail);
		return false;
	}
	c->over = over;
	c->over_arg = arg;
	send_on(b, c, client, to);
	return true;
}

bool caller_accept(struct bridge *b, const struct caller_place *place, int fd,
		   const struct peer *peer)
{
	struct conduit *client = fd_conduit_of(b->worker, fd, peer->family);

	if (!client)
		close(fd);
	return take_in(b, place, client, fd, peer, NULL, NULL);
}

bool caller_accept_conduit(struct bridge *b, const struct caller_place *place,
			   struct conduit *client, int fd, void (*over)(void *arg), void *arg)
{
	const struct sockaddr_storage from = { .ss_family = AF_UNIX };
	struct peer peer;

	peer_of(&peer, fd, &from);
	return take_in(b, place, client, fd, &peer, over, arg);
}
