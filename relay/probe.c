/*
 * probe: one for each address of a service with a check.
 *
 * Theory of operation: all in one worker. ENDED -> WAITING for the next round -> QUEUED, if
 * PROBES_AT_ONCE go on already -> DIALLING -> for a check of TLS, SHAKING hands -> the result goes
 * to health, and it waits again. timeouts.dial bounds the dial, and once more the handshake; so
 * those that do not answer delay the others' rounds, in which the first to come is the first asked.
 * The first rounds are spread over one interval, so that many targets are not asked all at once.
 * What they share, the queue above all, is in the prober; a service's own are begun and ended with
 * the service.
 *
 * A target that is sent PROXY headers is sent one here, too, which names nobody: without it, what
 * follows would be refused as garbage.
 *
 * A handshake is OpenSSL's, in memory: bytes are carried to and from the conduit here. The
 * certificate is not verified, on purpose: this asks whether somebody speaks TLS there. Nothing is
 * said to it but goodbye, and streams do not depend on it. So it is no use of relay/tls.h, whose
 * clients always verify.
 *
 * Limits: as many as the config has targets; PROBES_AT_ONCE of them hold descriptors.
 */
#include "relay/probe.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/health.h"
#include "relay/proxyproto.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define CHUNK 4096

enum state { ENDED, WAITING, QUEUED, GOING };

struct probe {
	struct probes *of;
	size_t target;
	enum state state;
	struct timer timer; /* the next round; shaking hands: its end */
	struct dial *dial;
	struct conduit *conduit; /* shaking hands */
	SSL *ssl;
	TAILQ_ENTRY(probe) next; /* QUEUED */
};

struct probes {
	const struct service_config *service;
	struct health *health;
	struct prober *by; /* when begun */
	size_t n;
	struct probe at[];
};

struct prober {
	struct worker *worker;
	uint64_t timeout_ms;
	SSL_CTX *tls;
	TAILQ_HEAD(probe_queue, probe) queue;
	unsigned going; /* DIALLING and SHAKING */
};

static void on_round(struct timer *t);
static void wait_for(struct probe *p, uint64_t ms);

static struct probe *of_timer(struct timer *t)
{
	return (struct probe *)((char *)t - offsetof(struct probe, timer));
}

static void hang_up(struct probe *p)
{
	SSL_free(p->ssl);
	p->ssl = NULL;
	conduit_close(p->conduit, REASON_EOF);
	p->conduit = NULL;
}

static void result(struct probe *p, bool good, const char *detail)
{
	hang_up(p);
	health_probed(p->of->health, p->target, good, detail);
	wait_for(p, p->of->service->check.every);
	p->of->by->going--;
	prober_go_on(p->of->by);
}

/* ---- TLS ---- */

/* What OpenSSL wants to say; a handshake's few bytes fit into a new socket. */
static bool send_words(struct probe *p)
{
	char buf[CHUNK];
	int n;

	while ((n = BIO_read(SSL_get_wbio(p->ssl), buf, sizeof(buf))) > 0)
		if (conduit_write(p->conduit, buf, (size_t)n) != n)
			return false;
	return true;
}

/* One read in a turn, however much there is: whoever floods us does not get the worker. */
static void on_words(struct conduit *c, unsigned events)
{
	struct probe *p = c->user;
	char buf[CHUNK];
	ssize_t n = conduit_read(c, buf, sizeof(buf));
	bool waits;
	int done;

	if (n == -EAGAIN)
		return;
	if (n <= 0 || BIO_write(SSL_get_rbio(p->ssl), buf, (int)n) != n) {
		result(p, false, "it hung up in the TLS handshake");
		return;
	}
	ERR_clear_error();
	done = SSL_do_handshake(p->ssl);
	waits = done != 1 && SSL_get_error(p->ssl, done) == SSL_ERROR_WANT_READ;
	if (done == 1)
		SSL_shutdown(p->ssl); /* our goodbye, sent with the last words */
	if (!send_words(p) || (done != 1 && !waits))
		result(p, false, "the TLS handshake failed");
	else if (done == 1)
		result(p, true, NULL);
}

static void on_late(struct timer *t)
{
	result(of_timer(t), false, "no TLS handshake within the dial time-out");
}

static void shake_hands(struct probe *p)
{
	const struct check_config *check = &p->of->service->check;
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

	p->ssl = SSL_new(p->of->by->tls);
	if (!p->ssl || !in || !out) {
		BIO_free(in);
		BIO_free(out);
		result(p, true, NULL); /* not its fault */
		return;
	}
	SSL_set_bio(p->ssl, in, out);
	SSL_set_connect_state(p->ssl);
	if (check->server_name)
		SSL_set_tlsext_host_name(p->ssl, check->server_name);
	p->conduit->user = p;
	p->conduit->ready = on_words;
	timer_set(p->of->by->worker, &p->timer, p->of->by->timeout_ms, on_late);
	ERR_clear_error();
	SSL_do_handshake(p->ssl);
	if (send_words(p))
		conduit_want(p->conduit, READY_READ);
	else
		result(p, false, "it hung up before the TLS handshake");
}

/* ---- a round ---- */

/* A header like those of clients, but of a connection that is nobody's. */
static bool announce(const struct probe *p, struct conduit *target)
{
	static const struct peer nobody;
	const struct proxyproto_about about = { .from = &nobody, .to = &nobody };
	uint8_t header[PROXYPROTO_SENT_MAX];
	size_t len;

	if (p->of->service->proxy_protocol == PROXY_SENT_NONE)
		return true;
	len = proxyproto_encode(header, (unsigned)p->of->service->proxy_protocol, &about);
	return conduit_write(target, header, len) == (ssize_t)len;
}

static void on_dialled(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct probe *p = user;

	p->dial = NULL;
	p->conduit = c;
	if (!c)
		result(p, why == REASON_NO_MEMORY, detail);
	else if (!announce(p, c))
		result(p, false, "it did not take the PROXY header");
	else if (p->of->service->check.kind == CHECK_TLS)
		shake_hands(p);
	else
		result(p, true, NULL);
}

static void wait_for(struct probe *p, uint64_t ms)
{
	p->state = WAITING;
	timer_set(p->of->by->worker, &p->timer, ms, on_round);
}

void prober_go_on(struct prober *b)
{
	struct probe *p;

	while (b->going < PROBES_AT_ONCE && (p = TAILQ_FIRST(&b->queue))) {
		const struct service_config *s = p->of->service;

		TAILQ_REMOVE(&b->queue, p, next);
		p->dial = dial_start(b->worker, &s->targets.at[p->target], b->timeout_ms,
				     on_dialled, p);
		if (!p->dial) {
			wait_for(p, s->check.every);
			continue;
		}
		p->state = GOING;
		b->going++;
	}
}

static void on_round(struct timer *t)
{
	struct probe *p = of_timer(t);
	struct prober *b = p->of->by;

	p->state = QUEUED;
	TAILQ_INSERT_TAIL(&b->queue, p, next);
	prober_go_on(b);
}

void probes_begin(struct probes *p, struct prober *b, size_t i, size_t n)
{
	if (!p || p->by)
		return;
	p->by = b;
	for (size_t k = 0; k < p->n; k++)
		wait_for(&p->at[k], p->service->check.every * (i * p->n + k) / (n * p->n));
}

static void stop(struct probe *p)
{
	struct prober *b = p->of->by;

	timer_cancel(b->worker, &p->timer);
	if (p->state == QUEUED)
		TAILQ_REMOVE(&b->queue, p, next);
	else if (p->state == GOING)
		b->going--;
	dial_cancel(p->dial);
	p->dial = NULL;
	hang_up(p);
	p->state = ENDED;
}

void probes_end(struct probes *p)
{
	if (!p || !p->by)
		return;
	for (size_t i = 0; i < p->n; i++)
		stop(&p->at[i]);
	p->by = NULL;
}

/* ---- making ---- */

static bool is_probed(const struct service_config *s, size_t target)
{
	return s->check.kind != CHECK_NONE && s->targets.at[target].kind != ADDRESS_TUNNEL;
}

int probes_new(struct probes **out, const struct service_config *s, struct health *health)
{
	struct probes *p;
	size_t n = 0;

	*out = NULL;
	for (size_t i = 0; i < s->targets.n; i++)
		n += is_probed(s, i);
	if (!n)
		return 0;
	p = calloc(1, sizeof(*p) + n * sizeof(p->at[0]));
	if (!p)
		return -ENOMEM;
	p->service = s;
	p->health = health;
	for (size_t i = 0; i < s->targets.n; i++)
		if (is_probed(s, i))
			p->at[p->n++] = (struct probe){ .of = p, .target = i };
	*out = p;
	return 0;
}

struct probes *probes_free(struct probes *p)
{
	free(p);
	return NULL;
}

struct prober *prober_new(struct worker *w)
{
	struct prober *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->worker = w;
	TAILQ_INIT(&b->queue);
	b->tls = SSL_CTX_new(TLS_client_method());
	if (!b->tls)
		return prober_free(b);
	SSL_CTX_set_verify(b->tls, SSL_VERIFY_NONE, NULL);
	return b;
}

struct prober *prober_free(struct prober *b)
{
	if (!b)
		return NULL;
	SSL_CTX_free(b->tls);
	free(b);
	return NULL;
}

void prober_set_timeout(struct prober *b, uint64_t ms)
{
	b->timeout_ms = ms;
}
