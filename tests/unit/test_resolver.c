/*
 * The resolver: whom it asks, as resolv.conf changes under it.
 */
#include <event2/dns.h>
#include <stdlib.h>
#include <unistd.h>

static char conf[] = "/tmp/test_resolver.XXXXXX";
#define RESOLVER_CONF conf
#include "relay/resolver.c"

#include "tests/unit/loop.h"

static int server(uint16_t *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK_INT(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

/* As DHCP clients do it: another file in its place. */
static void write_conf(uint16_t port)
{
	char aside[sizeof(conf) + 4];
	FILE *f;

	snprintf(aside, sizeof(aside), "%s.new", conf);
	f = fopen(aside, "w");
	CHECK(f);
	fprintf(f, "nameserver 127.0.0.1:%u\n", port);
	CHECK_INT(fclose(f), 0);
	CHECK_INT(rename(aside, conf), 0);
}

static unsigned told;

static void on_answer(int error, struct evutil_addrinfo *list, void *arg)
{
	CHECK(error && !list);
	told++;
}

static struct evdns_getaddrinfo_request *ask(const char *name)
{
	struct evutil_addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };

	CHECK(worker_dns(w));
	return evdns_getaddrinfo(worker_dns(w), name, NULL, &hints, on_answer, NULL);
}

static int fd[2];
static bool asked[2][256]; /* by the server, and the first letter of a name */

static void hear(void)
{
	char words[512];

	for (unsigned i = 0; i < 2; i++)
		while (recv(fd[i], words, sizeof(words), 0) > 13)
			asked[i][words[13] | 0x20] = true; /* evdns mixes the case */
}

static void test_change(void)
{
	struct evdns_getaddrinfo_request *first, *second;
	uint16_t port[2];

	for (unsigned i = 0; i < 2; i++)
		fd[i] = server(&port[i]);
	write_conf(port[0]);
	first = ask("a.example");
	UNTIL((hear(), asked[0]['a']));
	write_conf(port[1]);
	second = ask("b.example");
	UNTIL((hear(), asked[1]['b'] && asked[1]['a'])); /* that had no answer yet */
	CHECK(!asked[0]['b']);
	CHECK_INT(told, 0);
	evdns_getaddrinfo_cancel(first);
	evdns_getaddrinfo_cancel(second);
	UNTIL(told == 2);

	/* away for a moment, which changes nothing */
	CHECK_INT(unlink(conf), 0);
	first = ask("c.example");
	UNTIL((hear(), asked[1]['c']));
	evdns_getaddrinfo_cancel(first);
	UNTIL(told == 3);
	close(fd[0]);
	close(fd[1]);
}

/* It begins before the network does. */
static void test_begin(void)
{
	CHECK_INT(unlink(conf), 0);
	CHECK(!worker_dns(w));
}

int main(void)
{
	int made = mkstemp(conf);

	CHECK(made >= 0);
	close(made);
	loop_begin();
	test_begin();
	test_change();
	loop_end();
	return 0;
}
