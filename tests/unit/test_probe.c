/*
 * Probes: how many go on at a time, whose turn it is, what a target with PROXY headers is sent, and
 * that they can be ended at any moment.
 */
#include <sys/ioctl.h>
#include <unistd.h>

#include "relay/fd.h"
#include "relay/health.h"
#include "relay/log.h"
#include "relay/probe.c"
#include "tests/unit/loop.h"

#define ALL (PROBES_AT_ONCE + 20)
#define TLS_HANDSHAKE 0x16

static struct relay_config *config;
static struct health *h[ALL];
static struct prober *prober;
static struct probes *probes[ALL];
static struct sockaddr_in at;
static int listener;

/* So many services with a target each, all of them this listener. */
static void begin(unsigned services, const char *keys)
{
	static char text[64 * 1024];
	struct config_errors e = { 0 };
	size_t len;

	listener = listen_tcp4(&at, ALL);
	len = (size_t)snprintf(
		text, sizeof(text),
		"listeners: [{name: a, address: \"tcp:127.0.0.1:1\", doors: [sni]}]\n"
		"timeouts: {dial: 20s}\n"
		"services:\n");
	for (unsigned i = 0; i < services; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
					"- {name: s%u.acme, %s,"
					" targets: [\"tcp:127.0.0.1:%u\"]}\n",
					i, keys, ntohs(at.sin_port));
	config = relay_config_parse("r.yaml", text, len, &e);
	config_errors_print(&e, stderr);
	CHECK(config);
	prober = prober_new(w);
	CHECK(prober);
	prober_set_timeout(prober, config->timeouts.dial);
	for (unsigned i = 0; i < services; i++) {
		h[i] = health_new(&config->services[i], NULL);
		CHECK_INT(probes_new(&probes[i], &config->services[i], h[i]), 0);
		probes_begin(probes[i], prober, i, services);
	}
}

static void end(void)
{
	for (unsigned i = 0; i < config->n_services; i++) {
		probes_end(probes[i]);
		probes_end(probes[i]); /* again is fine */
	}
	settle();
	CHECK_INT(prober->going, 0);
	CHECK(TAILQ_EMPTY(&prober->queue));
	CHECK_INT(w->conduits, 0);
	CHECK_INT(w->timers.live, 0);
	for (unsigned i = 0; i < config->n_services; i++) {
		probes_free(probes[i]);
		health_free(h[i]);
	}
	prober_free(prober);
	relay_config_unref(config);
	close(listener);
}

static int take(void)
{
	int fd;

	UNTIL((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
	return fd;
}

static unsigned down(void)
{
	unsigned n = 0;

	for (size_t i = 0; i < config->n_services; i++)
		n += !health_is_up(h[i], 0);
	return n;
}

/* Targets that take a connection and say nothing hold all places; then the others have theirs. */
static void test_at_once(void)
{
	int fd[PROBES_AT_ONCE];

	begin(ALL, "check: {kind: tls, every: 100ms}");
	for (unsigned i = 0; i < PROBES_AT_ONCE; i++)
		fd[i] = take();
	UNTIL(w->timers.live == PROBES_AT_ONCE); /* the others are due, and wait without one */
	CHECK_INT(w->conduits, PROBES_AT_ONCE);
	CHECK(accept(listener, NULL, NULL) < 0);
	CHECK_INT(down(), 0);
	for (unsigned i = 0; i < PROBES_AT_ONCE; i++) {
		close(fd[i]);
		fd[i] = take();
		CHECK(w->conduits <= PROBES_AT_ONCE);
	}
	/* those that waited were asked before any was asked again */
	CHECK_INT(down(), PROBES_AT_ONCE);
	for (unsigned i = 0; i < PROBES_AT_ONCE; i++)
		close(fd[i]);
	UNTIL(down() == ALL);
	end();
}

/* Nobody's header comes before what the check itself says. */
static void test_header(const char *version, const char *header, size_t len, bool tls)
{
	char keys[128], got[64];
	int fd;

	snprintf(keys, sizeof(keys), "proxy_protocol: %s, check: {kind: %s, every: 100ms}", version,
		 tls ? "tls" : "tcp");
	begin(1, keys);
	fd = take();
	for (size_t i = 0; i < len; i++)
		UNTIL(recv(fd, &got[i], 1, 0) == 1);
	CHECK(memcmp(got, header, len) == 0);
	if (tls) {
		UNTIL(recv(fd, got, 1, 0) == 1);
		CHECK_INT(got[0], TLS_HANDSHAKE);
	} else {
		UNTIL(recv(fd, got, 1, 0) == 0);
		CHECK_INT(down(), 0);
	}
	close(fd);
	end();
}

static int unread(void)
{
	int n;

	CHECK_INT(ioctl(fd_conduit_socket(probes[0]->at[0].conduit), FIONREAD, &n), 0);
	return n;
}

/* What a handshake has to step over, without end: others have their turns all the same. */
static void test_flood(void)
{
	static const uint8_t hello_request[] = { TLS_HANDSHAKE, 3, 3, 0, 4, 0, 0, 0, 0 };
	uint8_t flood[sizeof(hello_request) * 1000];
	int fd, there;

	for (size_t i = 0; i < sizeof(flood); i++)
		flood[i] = hello_request[i % sizeof(hello_request)];
	begin(1, "check: {kind: tls, every: 100ms}");
	fd = take();
	UNTIL(recv(fd, flood + sizeof(flood) - 1, 1, MSG_PEEK) == 1);
	flood[sizeof(flood) - 1] = 0;
	settle();
	for (int i = 0; i < 10; i++)
		CHECK_INT(send(fd, flood, sizeof(flood), MSG_NOSIGNAL), sizeof(flood));
	there = unread();
	CHECK(there > 4 * CHUNK);
	turn(false);
	CHECK(there - unread() > 0 && there - unread() <= 2 * CHUNK);
	UNTIL(unread() == 0);
	CHECK_INT(down(), 0); /* it may still come to something */
	close(fd);
	UNTIL(down() == 1);
	end();
}

/* At any phase: before the first round, in it, and with some that wait for their turn. */
static void test_end(void)
{
	begin(ALL, "check: {kind: tcp, every: 100ms}");
	end();
	begin(ALL, "check: {kind: tls, every: 100ms}");
	close(take());
	end();
	begin(ALL, "check: {kind: tls, every: 100ms}");
	UNTIL(w->conduits == PROBES_AT_ONCE);
	settle();
	end();
}

int main(void)
{
	static const char local[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	loop_begin();
	test_at_once();
	for (int tls = 0; tls < 2; tls++) {
		test_header("v1", "PROXY UNKNOWN\r\n", 15, tls);
		test_header("v2", local, 16, tls);
	}
	test_flood();
	test_end();
	loop_end();
	return 0;
}
