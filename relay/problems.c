/*
 * problems: what an operator should look at now.
 *
 * Theory of operation: nothing is kept; each call looks at the relay as it is. A kind of problem
 * that many things may have at once names the first of them and counts the others, so one outage
 * does not push everything else out of a bounded list. The list is sorted when it is whole.
 */
#include "relay/problems.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "relay/admin_relay.h"
#include "relay/audit.h"
#include "relay/gateway.h"
#include "relay/history.h"
#include "relay/named.h"
#include "relay/quota.h"
#include "relay/reach.h"
#include "relay/registry.h"
#include "relay/settings.h"
#include "relay/tls.h"

#define NAMED_MAX 8             /* of one kind; the others are counted */
#define NEARLY_PERCENT 80       /* of a limit */
#define FEW 10                  /* so many or less of something are no crowd */
#define DAY_S ((uint64_t)86400) /* a certificate's last days: */
#define ENDS_SOON_S (14 * DAY_S)
#define ENDS_NOW_S (2 * DAY_S)
#define HOUR_SLOTS (HISTORY_SAMPLES - 1)

const char *problem_severity_word(enum problem_severity s)
{
	static const char *const word[PROBLEM_SEVERITIES] = { "critical", "warning", "notice" };

	return word[s];
}

static void add(struct problems *out, enum problem_severity severity, const char *code,
		const char *advice, const char *what, ...) __attribute__((format(printf, 5, 6)));

static void add(struct problems *out, enum problem_severity severity, const char *code,
		const char *advice, const char *what, ...)
{
	struct problem *p = &out->at[out->n];
	va_list ap;

	if (out->n == PROBLEMS_MAX) {
		out->more++;
		return;
	}
	out->n++;
	p->severity = severity;
	p->code = code;
	snprintf(p->advice, sizeof(p->advice), "%s", advice);
	va_start(ap, what);
	vsnprintf(p->what, sizeof(p->what), what, ap);
	va_end(ap);
}

/* ---- services ---- */

static void say_down(struct problems *out, const char *name, const struct reach *r)
{
	if (!r->by_tunnel)
		add(out, PROBLEM_CRITICAL, "service-down",
		    "See whether what the targets are runs, and the log for why dialling failed.",
		    "%s: none of its %zu targets answers.", name, r->targets);
	else if (r->targets)
		add(out, PROBLEM_CRITICAL, "service-down",
		    "See whether its owner's attest-tunnel runs, and what the targets are.",
		    "%s: no tunnel, and none of its other %zu targets answers.", name, r->targets);
	else
		add(out, PROBLEM_CRITICAL, "service-down",
		    "See whether its owner's attest-tunnel runs, and what its log says.",
		    "%s: no tunnel offers it.", name);
}

/* Its agents may still come: clients wait for them. */
static bool is_awaited(struct named_service *s, const struct reach *r)
{
	s->met = s->met || r->tunnels;
	return r->by_tunnel && named_is_awaited(s, settings_now());
}

static void find_services(const struct gateway *g, struct problems *out)
{
	struct named *named = g->settings->named;
	size_t down = 0, partly = 0, awaited = 0;
	struct reach r;

	for (size_t i = 0; i < named->n; i++) {
		const char *name = named->at[i].name;
		bool early;

		if (!reach_of(g, name, &r))
			continue;
		early = is_awaited(&named->at[i], &r);
		if (!reach_is_good(&r) && early && ++awaited <= NAMED_MAX)
			add(out, PROBLEM_NOTICE, "service-awaited",
			    "Agents come by themselves, within half a minute of a start.",
			    "%s: no tunnel offers it yet.", name);
		if (!early && !reach_is_good(&r) && ++down <= NAMED_MAX)
			say_down(out, name, &r);
		if (reach_is_good(&r) && r.live < r.targets && ++partly <= NAMED_MAX)
			add(out, PROBLEM_NOTICE, "target-down",
			    "Clients are served by the others. The log says why it failed.",
			    "%s: %zu of its %zu targets that are addresses do not answer.", name,
			    r.targets - r.live, r.targets);
	}
	if (awaited > NAMED_MAX)
		add(out, PROBLEM_NOTICE, "service-awaited",
		    "The table of services begins with all of them.",
		    "%zu further services have no tunnel yet.", awaited - NAMED_MAX);
	if (down > NAMED_MAX)
		add(out, PROBLEM_CRITICAL, "service-down",
		    "The table of services begins with all of them.",
		    "%zu further services cannot be reached.", down - NAMED_MAX);
	if (partly > NAMED_MAX)
		add(out, PROBLEM_NOTICE, "target-down", "The table of services has them all.",
		    "Targets of %zu further services do not answer.", partly - NAMED_MAX);
}

/* ---- limits ---- */

struct full {
	struct problems *out;
	size_t n; /* so far, said or not */
};

/* name: whose it is; "": everybody's, which is worse. */
static void look_at_limit(struct full *f, const char *name, const char *what, uint64_t used,
			  uint64_t most)
{
	bool reached = used >= most;

	/* who may have two has two, if all is well */
	if (!used || (*name && most < FEW && !reached))
		return;
	if (used < most / 100 * NEARLY_PERCENT + most % 100 * NEARLY_PERCENT / 100)
		return;
	if (++f->n > NAMED_MAX)
		return;
	add(f->out,
	    *name && (most < FEW || !reached) ? PROBLEM_NOTICE
	    : *name || !reached               ? PROBLEM_WARNING
					      : PROBLEM_CRITICAL,
	    reached ? "limit-reached" : "limit-near",
	    "What is over it is refused. See who uses it, or raise the setting.",
	    "%s%s%s: %" PRIu64 " of %" PRIu64 " in use.", name, *name ? ", " : "", what, used,
	    most);
}

static void look_at_tenant(struct full *f, const struct quota_entry *e, bool owner)
{
	static const struct {
		enum quota_kind kind;
		const char *word;
	} row[] = { { QUOTA_TUNNELS, "tunnels" },
		    { QUOTA_STREAMS, "streams" },
		    { QUOTA_PARKED, "parked" } };
	char name[PROBLEM_TEXT / 2];

	snprintf(name, sizeof(name), "%s %s", owner ? "owner" : "client", e->name);
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		look_at_limit(f, name, row[i].word, quota_used(&e->quota, row[i].kind),
			      quota_most(&e->quota, row[i].kind));
	look_at_limit(f, name, "memory", counter_get(&e->quota.memory),
		      counter_get(&e->quota.limits->memory));
}

static void find_limits(const struct gateway *g, struct problems *out)
{
	const struct relay_limits *l = &g->settings->config->limits;
	const struct tenants *t = &g->tenants;
	struct full f = { .out = out };

	look_at_limit(&f, "", "limits.connections", atomic_load(&g->connections),
		      g->connections_max);
	look_at_limit(&f, "", "limits.handshakes", quota_used(&t->all, QUOTA_HANDSHAKES),
		      l->handshakes);
	look_at_limit(&f, "", "limits.tunnels", registry_tunnels(g->registry), l->tunnels);
	look_at_limit(&f, "", "limits.parked", quota_used(&t->all, QUOTA_PARKED), l->parked);
	look_at_limit(&f, "", "limits.memory", counter_get(&t->all.memory),
		      counter_get(&t->all.limits->memory));
	for (size_t i = 0; i < t->n_held; i++)
		look_at_tenant(&f, t->held[i], t->held[i]->in == t->owners);
	if (f.n > NAMED_MAX)
		add(out, PROBLEM_WARNING, "limit-near", "The table of owners has theirs.",
		    "%zu further limits are reached or nearly so.", f.n - NAMED_MAX);
}

/* ---- the rest ---- */

/* All listeners have the same one. */
static void find_certificate(const struct gateway *g, struct problems *out)
{
	static const char advice[] = "Replace the file: it is read in seconds, and streams go on.";
	uint64_t now = settings_now(), end = UINT64_MAX;

	for (size_t i = 0; end == UINT64_MAX && i < gateway_config(g)->n_listeners; i++)
		if (settings_tls(g->settings, i))
			end = tls_context_expires(settings_tls(g->settings, i));
	if (end <= now)
		add(out, PROBLEM_CRITICAL, "certificate-ended", advice,
		    "The relay's certificate (tls.certificate) has ended.");
	else if (end - now < ENDS_SOON_S)
		add(out, end - now < ENDS_NOW_S ? PROBLEM_CRITICAL : PROBLEM_WARNING,
		    "certificate-ends", advice,
		    "The relay's certificate (tls.certificate) ends in %" PRIu64 " %s.",
		    end - now < ENDS_NOW_S ? (end - now) / 3600 : (end - now) / DAY_S,
		    end - now < ENDS_NOW_S ? "hours" : "days");
}

/* Of the last hour, where there is a history of it: what was lost long ago is no news. */
static uint64_t lost_lately(const struct gateway *g)
{
	uint64_t newest = g->history ? history_newest(g->history) : 0;
	struct history_sum sum;

	if (!newest)
		return audit_counts(g->audit).lost;
	history_sum(g->history, newest > HOUR_SLOTS ? newest - HOUR_SLOTS : 0, newest, &sum);
	return sum.audit_lost;
}

static void find_others(const struct gateway *g, struct problems *out)
{
	const char *reload = admin_relay_reload_error(g);
	uint64_t lost = lost_lately(g);

	if (reload)
		add(out, PROBLEM_WARNING, "reload-failed",
		    "Mend it and reload again; in effect is what was before.",
		    "The last reload changed nothing: %s", reload);
	if (atomic_load(&g->draining))
		add(out, PROBLEM_NOTICE, "draining",
		    "It ends when they have, or after timeouts.drain.",
		    "The relay drains: no new connections, streams may finish.");
	if (lost)
		add(out, PROBLEM_WARNING, "audit-lost",
		    "See whether the disk is full, or the journal takes records slowly.",
		    "%" PRIu64 " audit records were lost.", lost);
}

/* Those of a kind stay in their order: the names first, then how many more there are. */
static void sort(struct problems *p)
{
	for (size_t i = 1; i < p->n; i++) {
		const struct problem one = p->at[i];
		size_t to = i;

		for (; to > 0 && p->at[to - 1].severity > one.severity; to--)
			p->at[to] = p->at[to - 1];
		p->at[to] = one;
	}
}

void problems_find(const struct gateway *g, struct problems *out)
{
	out->n = out->more = 0;
	find_others(g, out);
	find_certificate(g, out);
	find_limits(g, out);
	find_services(g, out);
	sort(out);
}
