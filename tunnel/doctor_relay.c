/*
 * doctor_relay: the whole way to one relay.
 *
 * Theory of operation: the way is gone once for each thing to be seen, as far as it goes:
 *
 *   direct     TCP (or a proxy, and through it), TLS with the tunnel's ALPN
 *   WebSocket  the same with HTTP's ALPN, and the upgrade
 *   connect    the same with h2's
 *
 * These go on whatever is wrong with the certificate, and say nothing but HTTP. Only when all of
 * that is good the daemon's own carrier is used, with the certificate and the token. What one of
 * them could not see since an earlier check failed is said to be skipped. A connect door that wants
 * a certificate counts it as a failure of this address not to show one (penalties): it is shown
 * there in the first place, if the relay's own is good.
 */
#include "tunnel/doctor_relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/doctor.h"
#include "relay/doctor_dial.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/carrier.h"
#include "tunnel/doctor_session.h"
#include "tunnel/doctor_tls.h"
#include "tunnel/egress.h"
#include "tunnel/proxy.h"

#define SKEW_MAX 60 /* seconds */
#define ALPN_CONNECT "h2"
#define WHY_MAX (2 * ADDRESS_TEXT_MAX)

/* What is known of one relay so far. */
struct way {
	struct doctor *d;
	const struct doctor_relay *r;
	const struct proxy *proxy;
	char name[HOST_SIZE], text[ADDRESS_TEXT_MAX];
	bool trusted;                    /* the daemon would take its certificate */
	bool direct, websocket, connect; /* these get through */
};

/* ---- getting there ---- */

struct passing {
	bool done;
	int fd;
	char why[WHY_MAX];
};

static void on_passed(void *user, int fd, enum reason why, const char *detail)
{
	struct passing *p = user;

	p->done = true;
	p->fd = fd;
	snprintf(p->why, sizeof(p->why), "%s", detail);
}

/* Through the proxy that fd is connected to. A socket, or -1 and why. */
static int pass(const struct way *way, int fd, char *why)
{
	struct passing p = { .fd = -1 };
	struct proxy_opening *o =
		proxy_open(way->d->worker, fd, way->proxy, way->r->address,
			   doctor_ms(way->d, way->r->handshake_ms), on_passed, &p);

	if (o && !doctor_wait(way->d->worker, &p.done, DOCTOR_CHECK_MS + 1000)) {
		proxy_opening_cancel(o);
		snprintf(p.why, sizeof(p.why), "no answer in time");
	}
	snprintf(why, WHY_MAX, "%s", p.why);
	return p.fd;
}

/* Where TLS with the relay begins; or -1, and that was said if say. */
static int reach(const struct way *way, bool say)
{
	struct doctor *d = way->d;
	char why[WHY_MAX] = "out of memory";
	const struct address *first = way->proxy ? &way->proxy->url.address : way->r->address;
	int fd = doctor_dial(d, first, way->r->dial_ms, why, sizeof(why));

	if (say) {
		doctor_check(d, "connect");
		doctor_about(d, "%s", way->proxy ? way->proxy->text : way->text);
		if (fd < 0)
			doctor_wrong(d,
				     way->proxy ? "correct the proxy's address, or ask its "
						  "operator"
						: "see that the address is right and the relay "
						  "runs; if this network lets nothing out, name "
						  "its proxy (--proxy)",
				     "%s", why);
		else
			doctor_ok(d, "it takes connections");
	}
	if (fd < 0 || !way->proxy)
		return fd;
	fd = pass(way, fd, why);
	if (say) {
		doctor_check(d, "proxy");
		doctor_about(d, "%s", way->text);
		if (fd < 0)
			doctor_wrong(d, "see the section on proxies in attest-tunnel(1)", "%s",
				     why);
		else
			doctor_ok(d, "the proxy %s lets it through", way->proxy->text);
	}
	return fd;
}

/* One TLS connection with this ALPN. False: it was not even reached. */
static bool probe(const struct way *way, const char *alpn, bool upgrade, bool say,
		  struct doctor_tls *t)
{
	const char *const offer[] = { alpn, NULL };
	char *why = NULL;
	struct tls_context *context;
	int fd;

	*t = (struct doctor_tls){ .date = -1 };
	context = tls_client_context_new(way->r->ca_file, offer, &why);
	if (!context) { /* the CA file's check says so; here the system's have to do */
		free(why);
		context = tls_client_context_new(NULL, offer, &why);
		free(why);
		why = NULL;
	}
	if (context && way->r->certificate && strcmp(alpn, ALPN_CONNECT) == 0 &&
	    tls_client_context_identify(context, way->r->certificate, way->r->key, &why) < 0)
		free(why); /* so does that of the pair */
	fd = context ? reach(way, say) : -1;
	if (fd >= 0)
		doctor_tls_probe(way->d, way->d->worker, fd, context, way->name, upgrade, t);
	tls_context_unref(context);
	return fd >= 0;
}

/* ---- what was seen ---- */

static void say_way(struct way *way)
{
	struct doctor *d = way->d;

	doctor_check(d, "way");
	doctor_about(d, "%s", way->text);
	if (way->proxy)
		doctor_ok(d, "through the proxy %s, by %s", way->proxy->text, way->proxy->source);
	else if (way->r->egress && way->r->egress->proxied)
		doctor_ok(d, "directly: %s",
			  way->r->address->kind == ADDRESS_TCP ? way->r->egress->list_source
							       : "it is near");
	else
		doctor_ok(d, "directly: no proxy is set");
}

static void say_tls(struct way *way, const struct doctor_tls *direct,
		    const struct doctor_tls *other)
{
	const struct doctor_tls *best = direct->shaken || !other->shaken ? direct : other;

	doctor_check(way->d, "tls");
	doctor_about(way->d, "%s", way->text);
	way->trusted = doctor_tls_say(way->d, best, way->name, way->r->ca_file);
}

static void say_alpn(struct way *way, const char *wanted, const char *door,
		     const struct doctor_tls *t, bool *good, bool otherwise)
{
	const char *advice =
		"look for what breaks TLS open on the way, and have this host excepted "
		"from it; or for an address and port that are not the relay's";
	struct doctor *d = way->d;

	doctor_check(d, "alpn");
	doctor_about(d, "%s", way->text);
	*good = t->shaken && strcmp(t->alpn, wanted) == 0;
	if (*good)
		doctor_ok(d, "%s: the relay's %s door", wanted, door);
	else if (otherwise)
		doctor_warn(d, advice,
			    "direct transport cannot work: ALPN %s is lost on the way (%s); the "
			    "WebSocket transport gets through",
			    wanted, t->shaken ? "none came back" : t->why);
	else if (t->shaken)
		doctor_wrong(d, advice,
			     "what answers did not choose ALPN %s (but %s): it is no relay's %s "
			     "door, or something between removes ALPN",
			     wanted, *t->alpn ? t->alpn : "none", door);
	else
		doctor_wrong(d, advice, "no TLS with ALPN %s: %s", wanted, t->why);
}

static void say_websocket(struct way *way, const struct doctor_tls *t)
{
	const char *advice = "a web server or proxy before the relay has to pass /tunnel on, with "
			     "its Upgrade header";
	struct doctor *d = way->d;
	char seen[400];

	doctor_check(d, "websocket");
	doctor_about(d, "%s", way->text);
	way->websocket = t->upgraded;
	if (*t->status)
		snprintf(seen, sizeof(seen), "\"%s\" was answered to the upgrade%s%s%s", t->status,
			 *t->server ? " (Server: " : "", t->server, *t->server ? ")" : "");
	else
		snprintf(seen, sizeof(seen), "no answer to the upgrade: %s", t->why);
	if (t->upgraded)
		doctor_ok(d, "the upgrade reaches the relay (101)");
	else if (way->direct && way->r->transport == TRANSPORT_AUTO)
		doctor_warn(d, advice, "%s; direct transport gets through", seen);
	else
		doctor_wrong(d, advice, "%s", seen);
}

static void say_skew(struct way *way, time_t date)
{
	time_t now = time(NULL);
	long long skew = (long long)now - (long long)date;
	char ours[32], theirs[32];
	struct tm tm;

	if (date == (time_t)-1)
		return; /* nobody told the time */
	gmtime_r(&now, &tm);
	strftime(ours, sizeof(ours), "%Y-%m-%d %H:%M:%S", &tm);
	gmtime_r(&date, &tm);
	strftime(theirs, sizeof(theirs), "%Y-%m-%d %H:%M:%S", &tm);
	doctor_check(way->d, "skew");
	doctor_about(way->d, "%s", way->text);
	if (skew > SKEW_MAX || skew < -SKEW_MAX)
		doctor_wrong(way->d,
			     "set the clock that is wrong (timedatectl set-ntp true): "
			     "certificates are judged by it",
			     "this machine's clock says %s UTC, what answers there %s: %lld s "
			     "apart",
			     ours, theirs, skew < 0 ? -skew : skew);
	else
		doctor_ok(way->d, "this machine's clock and what answers there are %lld s apart",
			  skew < 0 ? -skew : skew);
}

static void skip(struct way *way, const char *id, const char *because)
{
	doctor_check(way->d, id);
	doctor_about(way->d, "%s", way->text);
	doctor_skip(way->d, because);
}

/* ---- what the relay says of us ---- */

static void say_refused(struct doctor *d, const struct hello_refused *r)
{
	static const char *const advice[HELLO_REFUSALS] = {
		[HELLO_BAD_CREDENTIAL] = "ask the relay's operator for a new token or certificate",
		[HELLO_FORBIDDEN] = "offer other services, or have the relay's operator allow "
				    "this one to the owner (services: of owners:)",
		[HELLO_STALE] = "give each agent its own --instance, and see that their clocks "
				"are right",
		[HELLO_LIMIT] = "end agents that are not needed, or have the limit raised",
	};

	/* a relay that does not know the question sees a hello without services */
	if (r->reason == HELLO_PROTOCOL && strstr(r->message, "attest-service"))
		doctor_skip(d, "a relay that cannot be asked without something being offered; "
			       "the log of attest-tunnel says what it answers");
	else
		doctor_wrong(d, advice[r->reason] ? advice[r->reason] : "ask the relay's operator",
			     "the relay refuses (%s): %s", hello_refusal_word(r->reason),
			     r->message);
}

static void say_accepted(struct doctor *d, const struct hello_accepted *a)
{
	char list[400] = "";
	size_t used = 0;

	for (unsigned i = 0; i < a->n_services && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
					 a->services[i]);
	doctor_ok(d, "the relay takes this agent as %s, and would let it offer %s", a->owner, list);
}

static void say_rtt(struct way *way, const struct doctor_session *s)
{
	if (!s->pings)
		return;
	doctor_check(way->d, "rtt");
	doctor_about(way->d, "%s", way->text);
	doctor_ok(way->d, "%u pings: %.3f ms at least, %.3f ms on average", s->pings,
		  (double)s->least_us / 1000, (double)s->sum_us / s->pings / 1000);
}

static struct tls_context *make_tls(const struct doctor_relay *r, const char *alpn)
{
	const char *const offer[] = { alpn, NULL };
	char *why = NULL;
	struct tls_context *t = tls_client_context_new(r->ca_file, offer, &why);

	if (t && r->certificate && tls_client_context_identify(t, r->certificate, r->key, &why) < 0)
		t = tls_context_unref(t);
	free(why); /* the check of these files has said it */
	return t;
}

static void ask(struct way *way, bool tunnel)
{
	struct carrier_shared shared = {
		.worker = way->d->worker,
		.alpn = tunnel ? NULL : ALPN_CONNECT,
		.egress = way->r->egress,
		.dial_ms = doctor_ms(way->d, way->r->dial_ms),
		.handshake_ms = doctor_ms(way->d, way->r->handshake_ms),
		.dead_ms = DOCTOR_CHECK_MS,
	};
	const struct doctor_peer peer = {
		.shared = &shared,
		.kind = tunnel && !way->direct ? CARRIER_WEBSOCKET : CARRIER_DIRECT,
		.address = way->r->address,
		.name = way->name,
	};
	const char *const alpn = !tunnel       ? ALPN_CONNECT
				 : way->direct ? HELLO_ALPN
					       : CARRIER_ALPN_WEBSOCKET;
	struct doctor_session s;

	shared.tls[peer.kind] = make_tls(way->r, alpn);
	if (!shared.tls[peer.kind]) {
		skip(way, "credential", "the certificate, the key or the CA file");
		return;
	}
	if (tunnel)
		doctor_ask(way->d, &peer, way->r->offers, way->r->instance, &s);
	else
		doctor_greet(way->d, &peer, &s);
	tls_context_unref(shared.tls[peer.kind]);
	doctor_check(way->d, "credential");
	doctor_about(way->d, "%s", way->text);
	if (s.outcome == DOCTOR_FAILED)
		doctor_wrong(way->d, "see the relay's log, or ask its operator", "%s", s.why);
	else if (s.outcome == DOCTOR_REFUSED)
		say_refused(way->d, &s.refused);
	else if (tunnel)
		say_accepted(way->d, &s.accepted);
	else
		doctor_ok(way->d, "the relay's connect door speaks with us; which services it lets "
				  "us reach is known when there is a client");
	say_rtt(way, &s);
}

/* ---- the two doors ---- */

static bool wants_direct(const struct way *way)
{
	return way->r->transport != TRANSPORT_WEBSOCKET;
}

static bool check_tunnel_door(struct way *way)
{
	struct doctor_tls direct = { .date = -1 }, ws = { .date = -1 };
	bool reached;

	reached = probe(way, wants_direct(way) ? HELLO_ALPN : CARRIER_ALPN_WEBSOCKET,
			!wants_direct(way), true, wants_direct(way) ? &direct : &ws);
	if (reached && wants_direct(way))
		probe(way, CARRIER_ALPN_WEBSOCKET, true, false, &ws);
	if (reached) {
		say_tls(way, wants_direct(way) ? &direct : &ws, &ws);
		if (wants_direct(way) && (direct.shaken || ws.shaken))
			say_alpn(way, HELLO_ALPN, "tunnel", &direct, &way->direct,
				 ws.upgraded && way->r->transport == TRANSPORT_AUTO);
		if (way->r->transport != TRANSPORT_DIRECT && (direct.shaken || ws.shaken))
			say_websocket(way, &ws);
		say_skew(way, ws.date);
		way->websocket = ws.upgraded && way->r->transport != TRANSPORT_DIRECT;
	}
	doctor_tls_deinit(&direct);
	doctor_tls_deinit(&ws);
	return reached;
}

/* seen: TCP, the proxy and TLS have been looked at. */
static bool check_connect_door(struct way *way, bool seen)
{
	struct doctor_tls t;
	bool reached = probe(way, ALPN_CONNECT, false, !seen, &t);

	if (reached) {
		if (!seen)
			say_tls(way, &t, &t);
		if (t.shaken)
			say_alpn(way, ALPN_CONNECT, "connect", &t, &way->connect, false);
	}
	doctor_tls_deinit(&t);
	return reached;
}

static void check_credentials(struct way *way, bool reached)
{
	const struct doctor_relay *r = way->r;
	const char *because = !reached        ? "the relay that was not reached"
			      : !way->trusted ? "its certificate, to which no credential is shown"
					      : NULL;

	if (because) {
		skip(way, "credential", because);
		return;
	}
	if (r->offers && (way->direct || way->websocket))
		ask(way, true);
	else if (r->offers)
		skip(way, "credential", "the tunnel door that was not reached");
	if (r->connects && way->connect)
		ask(way, false);
	else if (r->connects)
		skip(way, "credential", "the connect door that was not reached");
}

void doctor_check_relay(struct doctor *d, const struct doctor_relay *r)
{
	struct way way = { .d = d, .r = r };
	const struct proxy *proxy = way.proxy = egress_to(r->egress, r->address);
	bool reached = true;

	address_format(r->address, way.text, sizeof(way.text));
	if (doctor_now() >= d->end) {
		skip(&way, "connect", "the time that the checks before it have taken");
		return;
	}
	host_plain(r->server_name ? r->server_name : r->address->name, way.name);
	doctor_check(d, "resolve");
	doctor_about(d, "%s", way.text);
	if (!proxy) /* else it is the proxy's business; but for socks5, which says so */
		reached = doctor_resolve(d, r->address);
	else
		reached = doctor_resolve(d, &proxy->url.address);
	say_way(&way);
	if (!reached) {
		skip(&way, "connect", "the name that does not resolve");
	} else {
		if (r->offers)
			reached = check_tunnel_door(&way);
		if (r->connects && reached)
			reached = check_connect_door(&way, r->offers);
		if (!reached)
			skip(&way, "tls", "the relay that was not reached");
	}
	check_credentials(&way, reached);
}
