/*
 * probe: one for each address of a service with a check.
 *
 * Theory of operation: all in one worker. WAITING for the next round -> QUEUED, if PROBES_AT_ONCE
 * go on already -> DIALLING -> for a check of TLS, SHAKING hands -> the result goes to health, and
 * it waits again. timeouts.dial bounds the dial, and once more the handshake; so those that do not
 * answer delay the others' rounds, in which the first to come is the first asked. The first rounds
 * are spread over one interval, so that many targets are not asked all at once.
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

struct probe {
	struct probes *all;
	const struct service_config *service;
	size_t target;
	struct timer timer; /* the next round; shaking hands: its end */
	struct dial *dial;
	struct conduit *conduit; /* shaking hands */
	SSL *ssl;
	STAILQ_ENTRY(probe) next; /* QUEUED */
};

struct probes {
	struct worker *worker;
	struct health *health;
	uint64_t timeout_ms;
	SSL_CTX *tls;
	STAILQ_HEAD(probe_queue, probe) queue;
	unsigned going; /* DIALLING and SHAKING */
	size_t n;
	struct probe at[];
};

static void on_round(struct timer *t);
static void ask_next(struct probes *all);

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
	health_probed(p->all->health, p->service, p->target, good, detail);
	timer_set(p->all->worker, &p->timer, p->service->check.every, on_round);
	p->all->going--;
	ask_next(p->all);
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
	const struct check_config *check = &p->service->check;
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

	p->ssl = SSL_new(p->all->tls);
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
	timer_set(p->all->worker, &p->timer, p->all->timeout_ms, on_late);
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

	if (p->service->proxy_protocol == PROXY_SENT_NONE)
		return true;
	len = proxyproto_encode(header, (unsigned)p->service->proxy_protocol, &about);
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
	else if (p->service->check.kind == CHECK_TLS)
		shake_hands(p);
	else
		result(p, true, NULL);
}

static void ask_next(struct probes *all)
{
	struct probe *p;

	while (all->going < PROBES_AT_ONCE && (p = STAILQ_FIRST(&all->queue))) {
		STAILQ_REMOVE_HEAD(&all->queue, next);
		p->dial = dial_start(all->worker, &p->service->targets.at[p->target],
				     all->timeout_ms, on_dialled, p);
		if (p->dial)
			all->going++;
		else
			timer_set(all->worker, &p->timer, p->service->check.every, on_round);
	}
}

static void on_round(struct timer *t)
{
	struct probe *p = of_timer(t);

	STAILQ_INSERT_TAIL(&p->all->queue, p, next);
	ask_next(p->all);
}

void probes_begin(struct worker *w, void *probes)
{
	struct probes *all = probes;

	for (size_t i = 0; i < all->n; i++) {
		struct probe *p = &all->at[i];

		timer_set(w, &p->timer, p->service->check.every * i / all->n, on_round);
	}
}

void probes_end(struct probes *all)
{
	for (size_t i = 0; all && i < all->n; i++) {
		struct probe *p = &all->at[i];

		timer_cancel(all->worker, &p->timer);
		dial_cancel(p->dial);
		p->dial = NULL;
		hang_up(p);
	}
	if (all) {
		STAILQ_INIT(&all->queue);
		all->going = 0;
	}
}

/* ---- all of them ---- */

static bool is_probed(const struct service_config *s, size_t target)
{
	return s->check.kind != CHECK_NONE && s->targets.at[target].kind != ADDRESS_TUNNEL;
}

static size_t count(const struct relay_config *c)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n_services; i++)
		for (size_t j = 0; j < c->services[i].targets.n; j++)
			n += is_probed(&c->services[i], j);
	return n;
}

int probes_new(struct probes **out, struct worker *w, const struct relay_config *c,
	       struct health *health)
{
	size_t n = count(c);
	struct probes *all;

	*out = NULL;
	if (!n)
		return 0;
	all = calloc(1, sizeof(*all) + n * sizeof(all->at[0]));
	if (!all)
		return -ENOMEM;
	all->worker = w;
	all->health = health;
	all->timeout_ms = c->timeouts.dial;
	STAILQ_INIT(&all->queue);
	all->tls = SSL_CTX_new(TLS_client_method());
	if (!all->tls) {
		free(all);
		return -ENOMEM;
	}
	SSL_CTX_set_verify(all->tls, SSL_VERIFY_NONE, NULL);
	for (size_t i = 0; i < c->n_services; i++)
		for (size_t j = 0; j < c->services[i].targets.n; j++)
			if (is_probed(&c->services[i], j))
				all->at[all->n++] = (struct probe){ .all = all,
								    .service = &c->services[i],
								    .target = j };
	*out = all;
	return 0;
}

void probes_free(struct probes *all)
{
	if (!all)
		return;
	SSL_CTX_free(all->tls);
	free(all);
}
