/*
 * Dialling: every kind of address that a test can reach, how each fails, the race of several
 * addresses, the preamble of hybrid vsock, the time-out, and being cancelled at each phase.
 */
#include <net/if.h>
#include <netdb.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ipv6.h>
#include <linux/sockios.h>

#include "relay/conduit.h"
#include "relay/fd.h"

/* A name with addresses of the test's choice. */
static int fake_getaddrinfo(const char *name, const char *port, const struct addrinfo *hints,
			    struct addrinfo **list);
static void fake_freeaddrinfo(struct addrinfo *list);
#define getaddrinfo fake_getaddrinfo
#define freeaddrinfo fake_freeaddrinfo
#include "relay/dial.c"
#undef getaddrinfo
#undef freeaddrinfo

#include "tests/unit/loop.h"

static char dir[] = "/tmp/test_dial.XXXXXX";

static struct addrinfo several[4];
static struct sockaddr_storage several_at[4];
static unsigned n_several;

static int fake_getaddrinfo(const char *name, const char *port, const struct addrinfo *hints,
			    struct addrinfo **list)
{
	if (strcmp(name, "several.test") != 0)
		return getaddrinfo(name, port, hints, list);
	for (unsigned i = 0; i < n_several; i++)
		several[i].ai_next = i + 1 < n_several ? &several[i + 1] : NULL;
	*list = several;
	return 0;
}

static void fake_freeaddrinfo(struct addrinfo *list)
{
	if (list != several)
		freeaddrinfo(list);
}

static void add_address(const char *ip, uint16_t port)
{
	unsigned i = n_several++;
	struct sockaddr_in *in = (struct sockaddr_in *)&several_at[i];
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&several_at[i];

	several[i] = (struct addrinfo){ .ai_addr = (struct sockaddr *)&several_at[i] };
	memset(&several_at[i], 0, sizeof(several_at[i]));
	if (inet_pton(AF_INET, ip, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		several[i].ai_addrlen = sizeof(*in);
	} else {
		CHECK_INT(inet_pton(AF_INET6, ip, &in6->sin6_addr), 1);
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		several[i].ai_addrlen = sizeof(*in6);
	}
	several[i].ai_family = several_at[i].ss_family;
}

/* --- one dial and what came of it --- */

struct result {
	unsigned times;
	struct conduit *c;
	enum reason why;
	char detail[512];
	struct address at;
	bool inside; /* dial_start has not returned yet */
};

static void on_done(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct result *r = user;

	CHECK(!r->inside);
	r->times++;
	r->c = c;
	r->why = why;
	snprintf(r->detail, sizeof(r->detail), "%s", detail);
}

static struct dial *start(struct result *r, const char *address, uint64_t timeout_ms)
{
	struct dial *d;
	char *why;

	memset(r, 0, sizeof(*r));
	CHECK_INT(address_parse(&r->at, address, &why), 0);
	r->inside = true;
	d = dial_start(w, &r->at, timeout_ms, on_done, r);
	r->inside = false;
	CHECK(d);
	return d;
}

static void finish_with(struct result *r)
{
	UNTIL(r->times);
	settle();
	CHECK_INT(r->times, 1);
	CHECK_INT(w->timers.live, 0);
	address_deinit(&r->at);
}

static void fails(const char *address, enum reason why, const char *words)
{
	struct result r;

	start(&r, address, 5000);
	finish_with(&r);
	CHECK(!r.c);
	CHECK_INT(r.why, why);
	/* for people: which address, and what of it */
	CHECK(strncmp(r.detail, address, strlen(address)) == 0);
	if (!strstr(r.detail, words))
		fprintf(stderr, "says: %s\n", r.detail);
	CHECK(strstr(r.detail, words));
}

/* Connected, and it is the listener's: a byte goes each way. */
static void works(struct result *r, int listener)
{
	char c;
	int fd;

	finish_with(r);
	CHECK(r->c);
	CHECK_INT(r->why, REASON_NONE);
	fd = accept(listener, NULL, NULL);
	CHECK(fd >= 0);
	CHECK_INT(conduit_write(r->c, "x", 1), 1);
	CHECK_INT(recv(fd, &c, 1, 0), 1);
	CHECK_INT(send(fd, "y", 1, 0), 1);
	UNTIL(conduit_read(r->c, &c, 1) == 1);
	CHECK_INT(c, 'y');
	conduit_close(r->c, REASON_EOF);
	close(fd);
}

static const char *tcp_text(const struct sockaddr_in *at)
{
	static char text[64];

	snprintf(text, sizeof(text), "tcp:127.0.0.1:%u", ntohs(at->sin_port));
	return text;
}

/* A port of 127.0.0.1 at which nobody listens: bound, so that nobody else gets it. */
static int closed_port(struct sockaddr_in *at)
{
	socklen_t len = sizeof(*at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*at = (struct sockaddr_in){ .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CHECK_INT(bind(fd, (struct sockaddr *)at, sizeof(*at)), 0);
	CHECK_INT(getsockname(fd, (struct sockaddr *)at, &len), 0);
	return fd;
}

static int listen_tcp6(uint16_t *port)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	socklen_t len = sizeof(at);
	int l = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (l < 0 || bind(l, (struct sockaddr *)&at, sizeof(at)) < 0) {
		fprintf(stderr, "no IPv6 here: left out\n");
		if (l >= 0)
			close(l);
		return -1;
	}
	CHECK_INT(listen(l, 8), 0);
	CHECK_INT(getsockname(l, (struct sockaddr *)&at, &len), 0);
	*port = ntohs(at.sin6_port);
	return l;
}

/* --- TCP --- */

static void test_tcp(void)
{
	struct sockaddr_in at;
	struct result r;
	char text[64];
	uint16_t port;
	int one, l = listen_tcp4(&at, 8);
	socklen_t len = sizeof(one);

	start(&r, tcp_text(&at), 5000);
	UNTIL(r.times);
	CHECK_INT(getsockopt(fd_conduit_socket(r.c), IPPROTO_TCP, TCP_NODELAY, &one, &len), 0);
	CHECK(one);
	works(&r, l);
	close(l);

	l = listen_tcp6(&port);
	if (l < 0)
		return;
	snprintf(text, sizeof(text), "tcp:[::1]:%u", port);
	start(&r, text, 5000);
	works(&r, l);
	close(l);
}

static void test_refused(void)
{
	struct sockaddr_in at;
	int fd = closed_port(&at);

	fails(tcp_text(&at), REASON_DIAL_REFUSED, "refused");
	close(fd);
}

/* Our own shortage is no fault of the target's, for which it would be tried last. */
static void test_no_descriptors(void)
{
	struct rlimit before, none;
	struct sockaddr_in at;
	int l = listen_tcp4(&at, 8), free_fd = dup(l);

	CHECK(free_fd >= 0);
	close(free_fd);
	CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){ .rlim_cur = (rlim_t)free_fd, .rlim_max = before.rlim_max };
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
	fails(tcp_text(&at), REASON_NO_MEMORY, "open files");
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
	close(l);
}

/* A name, by the resolver: /etc/hosts is enough for this one. */
static void test_name(void)
{
	struct sockaddr_in at;
	struct result r;
	char text[64];
	int l = listen_tcp4(&at, 8);

	snprintf(text, sizeof(text), "tcp:localhost:%u", ntohs(at.sin_port));
	start(&r, text, 5000);
	works(&r, l);
	close(l);
}

/* The first address is dead at once; the next is tried without waiting for the stagger. */
static void test_first_refuses(void)
{
	struct sockaddr_in dead, at;
	struct result r;
	uint64_t began;
	int fd = closed_port(&dead), l = listen_tcp4(&at, 8);

	n_several = 0;
	add_address("127.0.0.1", ntohs(dead.sin_port));
	add_address("127.0.0.1", ntohs(dead.sin_port));
	add_address("127.0.0.1", ntohs(at.sin_port));
	began = now_ms();
	start(&r, "tcp:several.test:1", 5000);
	works(&r, l);
	CHECK(now_ms() - began < 2 * DIAL_STAGGER_MS); /* two staggers were due otherwise */

	n_several = 0;
	add_address("127.0.0.1", ntohs(dead.sin_port));
	add_address("127.0.0.1", ntohs(dead.sin_port));
	fails("tcp:several.test:1", REASON_DIAL_REFUSED, "2 addresses tried");
	close(fd);
	close(l);
}

/* A listener whose queue is full: on Linux further SYNs are dropped, as by a black hole. */
struct hole {
	struct sockaddr_in at;
	int l, fill[8];
};

static void hole_open(struct hole *h)
{
	h->l = listen_tcp4(&h->at, 0);
	for (unsigned i = 0; i < 8; i++) {
		h->fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		CHECK(connect(h->fill[i], (struct sockaddr *)&h->at, sizeof(h->at)) == 0 ||
		      errno == EINPROGRESS);
	}
}

static void hole_close(struct hole *h)
{
	for (unsigned i = 0; i < 8; i++)
		close(h->fill[i]);
	close(h->l);
}

static void test_first_is_black_hole(void)
{
	struct sockaddr_in at;
	struct result r;
	struct hole h;
	uint64_t began;
	int l = listen_tcp4(&at, 8);

	hole_open(&h);
	n_several = 0;
	add_address("127.0.0.1", ntohs(h.at.sin_port));
	add_address("127.0.0.1", ntohs(at.sin_port));
	began = now_ms();
	start(&r, "tcp:several.test:1", 20000);
	works(&r, l);
	CHECK(now_ms() - began >= DIAL_STAGGER_MS - 20);
	CHECK(now_ms() - began < 10000); /* long before the first gives up */
	hole_close(&h);
	close(l);
}

static void test_timeout(void)
{
	struct result r;
	struct hole h;
	uint64_t began = now_ms();

	hole_open(&h);
	start(&r, tcp_text(&h.at), 200);
	finish_with(&r);
	CHECK(!r.c);
	CHECK_INT(r.why, REASON_DIAL_TIMEOUT);
	CHECK(strstr(r.detail, "time-out"));
	CHECK(now_ms() - began >= 180);
	hole_close(&h);
}

/* RFC 8305: families alternate, IPv6 first. */
static void test_address_order(void)
{
	static const int families[] = { AF_INET6, AF_INET, AF_INET6, AF_INET };
	struct dial *d = calloc(1, sizeof(*d) + DIAL_ADDRESSES_MAX * sizeof(d->attempt[0]));

	CHECK(d);
	n_several = 0;
	add_address("127.0.0.1", 1);
	add_address("127.0.0.2", 2);
	add_address("::1", 3);
	add_address("::2", 4);
	for (unsigned i = 0; i < 4; i++)
		several[i].ai_next = i < 3 ? &several[i + 1] : NULL;
	take_addresses(d, several);
	CHECK_INT(d->n, 4);
	for (unsigned i = 0; i < 4; i++)
		CHECK_INT(d->attempt[i].to.any.sa_family, families[i]);
	CHECK_INT(ntohs(d->attempt[0].to.in6.sin6_port), 3);
	CHECK_INT(ntohs(d->attempt[1].to.in.sin_port), 1);
	CHECK_INT(ntohs(d->attempt[2].to.in6.sin6_port), 4);
	CHECK_INT(ntohs(d->attempt[3].to.in.sin_port), 2);
	free(d);
}

/* --- Unix and hybrid --- */

static const char *path_of(const char *name)
{
	static char text[2][128];
	static unsigned next;

	next ^= 1;
	snprintf(text[next], sizeof(text[next]), "%s/%s", dir, name);
	return text[next];
}

static int listen_unix_at(const char *path, int backlog)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(un.sun_path, path, strlen(path));
	if (path[0] == '@')
		un.sun_path[0] = '\0';
	CHECK_INT(bind(l, (struct sockaddr *)&un, path[0] == '@' ? len : sizeof(un)), 0);
	CHECK_INT(listen(l, backlog), 0);
	return l;
}

static void test_unix(void)
{
	char text[200], name[64];
	struct result r;
	int l = listen_unix_at(path_of("s"), 8);

	snprintf(text, sizeof(text), "unix:%s", path_of("s"));
	start(&r, text, 5000);
	works(&r, l);
	close(l);
	fails(text, REASON_DIAL_REFUSED, "refused"); /* the path is still there */
	unlink(path_of("s"));
	fails(text, REASON_DIAL_REFUSED, "No such file");

	snprintf(name, sizeof(name), "@test_dial-%d", (int)getpid());
	l = listen_unix_at(name, 8);
	snprintf(text, sizeof(text), "unix:%s", name);
	start(&r, text, 5000);
	works(&r, l);
	close(l);
	fails(text, REASON_DIAL_REFUSED, "refused");
}

/* A full queue says EAGAIN: tried again until there is room, or the time is up. */
static void test_unix_queue_full(void)
{
	char text[200];
	struct result r, filling[2];
	int l = listen_unix_at(path_of("full"), 0), fd;

	snprintf(text, sizeof(text), "unix:%s", path_of("full"));
	start(&filling[0], text, 5000);
	finish_with(&filling[0]);
	CHECK(filling[0].c);

	start(&filling[1], text, 150);
	finish_with(&filling[1]);
	CHECK(!filling[1].c);
	CHECK_INT(filling[1].why, REASON_DIAL_TIMEOUT);

	start(&r, text, 20000);
	settle();
	CHECK_INT(r.times, 0);
	fd = accept(l, NULL, NULL);
	CHECK(fd >= 0);
	works(&r, l);
	conduit_close(filling[0].c, REASON_EOF);
	close(fd);
	close(l);
	unlink(path_of("full"));
}

/* Plays the VMM: reads the CONNECT line and answers. Returns its end of the connection. */
static int vmm(struct result *r, int l, const char *answer)
{
	static const char want[] = "CONNECT 1234\n";
	char line[64];
	int fd = -1;

	UNTIL((fd = accept(l, NULL, NULL)) >= 0);
	UNTIL(recv(fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT) == (ssize_t)strlen(want));
	CHECK_INT(recv(fd, line, sizeof(line), 0), strlen(want));
	CHECK(memcmp(line, want, strlen(want)) == 0);
	settle();
	CHECK_INT(r->times, 0); /* not before it is answered */
	if (answer)
		CHECK_INT(send(fd, answer, strlen(answer), 0), strlen(answer));
	return fd;
}

static void test_hybrid(void)
{
	int l = listen_unix_at(path_of("v"), 8), fd;
	char text[200], buf[32], junk[HYBRID_ANSWER_MAX + 40];
	struct result r;

	snprintf(text, sizeof(text), "hybrid:%s:1234", path_of("v"));

	/* data right behind the line belongs to the stream */
	start(&r, text, 5000);
	fd = vmm(&r, l, "OK 1073741824\nhello");
	finish_with(&r);
	CHECK(r.c);
	CHECK_INT(conduit_read(r.c, buf, sizeof(buf)), 5);
	CHECK(memcmp(buf, "hello", 5) == 0);
	conduit_close(r.c, REASON_EOF);
	close(fd);

	/* the line in two pieces, and the guest speaks later */
	start(&r, text, 5000);
	fd = vmm(&r, l, "OK 10");
	settle();
	CHECK_INT(r.times, 0);
	CHECK_INT(send(fd, "24\n", 3, 0), 3);
	finish_with(&r);
	CHECK(r.c);
	CHECK_INT(conduit_read(r.c, buf, sizeof(buf)), -EAGAIN);
	conduit_close(r.c, REASON_EOF);
	close(fd);

	/* nobody listens in the guest: the VMM closes */
	start(&r, text, 5000);
	close(vmm(&r, l, NULL));
	finish_with(&r);
	CHECK(!r.c);
	CHECK_INT(r.why, REASON_DIAL_REFUSED);

	/* something else lives there */
	start(&r, text, 5000);
	fd = vmm(&r, l, "HTTP/1.1 400 Bad Request\n");
	finish_with(&r);
	CHECK(!r.c);
	CHECK_INT(r.why, REASON_DIAL_FAILED);
	close(fd);

	/* a line without end */
	memset(junk, '1', sizeof(junk));
	memcpy(junk, "OK ", 3);
	junk[sizeof(junk) - 1] = '\0';
	start(&r, text, 5000);
	fd = vmm(&r, l, junk);
	finish_with(&r);
	CHECK(!r.c);
	close(fd);

	/* no answer at all */
	start(&r, text, 150);
	fd = vmm(&r, l, NULL);
	finish_with(&r);
	CHECK(!r.c);
	CHECK_INT(r.why, REASON_DIAL_TIMEOUT);
	close(fd);
	close(l);
	unlink(path_of("v"));
	fails(text, REASON_DIAL_REFUSED, "No such file");
}

/* --- cancelled --- */

static void never(struct result *r)
{
	settle();
	CHECK_INT(r->times, 0);
	CHECK_INT(w->timers.live, 0);
	CHECK_INT(w->conduits, 0);
	address_deinit(&r->at);
}

static void test_cancel(void)
{
	struct sockaddr_in at;
	struct result r;
	struct hole h;
	struct dial *d;
	char text[200];
	int l = listen_tcp4(&at, 8), fd, u = listen_unix_at(path_of("c"), 8);

	dial_cancel(NULL);

	d = start(&r, tcp_text(&at), 5000); /* connecting */
	dial_cancel(d);
	never(&r);

	close(l);

	snprintf(text, sizeof(text), "unix:%s", path_of("c")); /* connected, not yet told */
	d = start(&r, text, 5000);
	CHECK(d->conduit);
	dial_cancel(d);
	never(&r);
	CHECK((fd = accept(u, NULL, NULL)) >= 0);
	CHECK_INT(recv(fd, text, sizeof(text), 0), 0); /* closed */
	close(fd);

	hole_open(&h); /* trying */
	d = start(&r, tcp_text(&h.at), 5000);
	settle();
	dial_cancel(d);
	never(&r);
	n_several = 0; /* and with one more to try */
	add_address("127.0.0.1", ntohs(h.at.sin_port));
	add_address("127.0.0.1", ntohs(h.at.sin_port));
	d = start(&r, "tcp:several.test:1", 5000);
	settle();
	dial_cancel(d);
	never(&r);
	hole_close(&h);

	/* failed, not yet told */
	d = start(&r, "unix:/nonexistent/socket", 5000);
	CHECK(d->over);
	dial_cancel(d);
	never(&r);

	/* in the preamble */
	snprintf(text, sizeof(text), "hybrid:%s:1234", path_of("c"));
	d = start(&r, text, 5000);
	fd = vmm(&r, u, "OK ");
	settle();
	dial_cancel(d);
	never(&r);
	CHECK_INT(recv(fd, text, sizeof(text), 0), 0); /* closed */
	close(fd);
	close(u);
	unlink(path_of("c"));
}

/* The only one the worker asks: a socket that gets the queries. */
static int name_server(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct evdns_base *dns = worker_dns(w);
	char text[64];

	CHECK(dns);
	CHECK_INT(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	evdns_base_clear_nameservers_and_suspend(dns);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(at.sin_port));
	CHECK_INT(evdns_base_nameserver_ip_add(dns, text), 0);
	CHECK_INT(evdns_base_resume(dns), 0);
	return fd;
}

static bool mute_about_six; /* the server, as some are, rather than saying that there is none */

/*
 * Answers what was asked: one IPv4 address, good for an hour, and no IPv6. Returns how many asked
 * for the first.
 */
static unsigned answer_names(int fd, const char *ip)
{
	static const uint8_t rest[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4 };
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	unsigned asked = 0;
	uint8_t words[512];
	ssize_t n;

	while ((n = recvfrom(fd, words, sizeof(words) - 16, 0, (struct sockaddr *)&from, &len)) >
	       0) {
		size_t end = 12 + strlen((char *)words + 12) + 5; /* of the question */
		bool four = words[end - 3] == 1;

		CHECK(end <= (size_t)n);
		if (!four && mute_about_six)
			continue;
		words[2] = 0x81; /* an answer; 0x80: recursion is available, no error */
		words[3] = 0x80;
		words[7] = four; /* answers; and nothing else */
		words[11] = 0;
		if (four) {
			memcpy(words + end, rest, sizeof(rest));
			end += sizeof(rest);
			CHECK_INT(inet_pton(AF_INET, ip, words + end), 1);
			end += 4;
		}
		asked += four;
		CHECK_INT(sendto(fd, words, end, 0, (struct sockaddr *)&from, len), end);
		len = sizeof(from);
	}
	return asked;
}

#define NAME_MS 2000

/* Dials the name and says which address that was. */
static unsigned dial_name(int names, const char *text, const char *ip, const char *want)
{
	struct sockaddr_in at;
	socklen_t len = sizeof(at);
	unsigned asked = 0;
	struct result r;
	char is[INET_ADDRSTRLEN];

	start(&r, text, NAME_MS);
	UNTIL((asked += answer_names(names, ip), r.times));
	finish_with(&r);
	CHECK(r.c);
	CHECK_INT(getpeername(fd_conduit_socket(r.c), (struct sockaddr *)&at, &len), 0);
	CHECK_STR(inet_ntop(AF_INET, &at.sin_addr, is, sizeof(is)), want);
	conduit_close(r.c, REASON_EOF);
	settle();
	return asked;
}

/* A name that moves: each dial asks anew, however long the answer before was to be good. */
static void test_moved_name(void)
{
	struct sockaddr_in at, other;
	int names = name_server(), first = listen_tcp4(&at, 8);
	int second = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[64];

	other = at;
	other.sin_addr.s_addr = htonl(0x7f000002);
	CHECK_INT(bind(second, (struct sockaddr *)&other, sizeof(other)), 0);
	CHECK_INT(listen(second, 8), 0);
	snprintf(text, sizeof(text), "tcp:moves.test:%u", ntohs(at.sin_port));
	for (int i = 0; i < 2; i++) {
		CHECK_INT(dial_name(names, text, "127.0.0.1", "127.0.0.1"), 1);
		CHECK_INT(dial_name(names, text, "127.0.0.2", "127.0.0.2"), 1);
	}
	mute_about_six = true; /* one answer is enough, soon */
	CHECK_INT(dial_name(names, text, "127.0.0.1", "127.0.0.1"), 1);
	mute_about_six = false;
	close(first);
	close(second);
	close(names);
}

/* A machine with an IPv6 address and no IPv4 yet, beyond loopback. False: not to be had here. */
static bool go_where_only_six_is(void)
{
	union {
		struct ifreq any; /* valgrind believes that it is this */
		struct in6_ifreq six;
	} to = { 0 };
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 && unshare(CLONE_NEWNET) < 0)
		return false;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	to.six = (struct in6_ifreq){ .ifr6_prefixlen = 64, .ifr6_ifindex = 1 };
	inet_pton(AF_INET6, "2001:db8::1", &to.six.ifr6_addr);
	return fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0 && ioctl(fd, SIOCSIFADDR, &to) == 0;
}

/*
 * What addresses a machine has is not asked once and for all: those of a name's are tried as they
 * are. In a process of its own, since libevent remembers for as long as there is one.
 */
static void test_begun_before_ipv4(void)
{
	struct sockaddr_in at;
	pid_t child = fork();
	char text[64];
	int status, names, l;

	CHECK(child >= 0);
	if (child > 0) {
		CHECK_INT(waitpid(child, &status, 0), child);
		CHECK_INT(status, 0);
		return;
	}
	if (!go_where_only_six_is()) {
		fprintf(stderr, "no such network to be made: left out\n");
		_exit(0);
	}
	loop_begin();
	names = name_server();
	l = listen_tcp4(&at, 8);
	snprintf(text, sizeof(text), "tcp:four.test:%u", ntohs(at.sin_port));
	CHECK_INT(dial_name(names, text, "127.0.0.1", "127.0.0.1"), 1);
	close(names);
	close(l);
	loop_end();
	_exit(0);
}

/* While a name is being asked for: a server that never answers. */
static void test_cancel_resolving(void)
{
	int mute = name_server();
	struct result r;
	struct dial *d;

	d = start(&r, "tcp:never.answered.test:1", 5000);
	settle();
	CHECK(d->asking);
	dial_cancel(d);
	never(&r);

	/* the time-out finds it there as well */
	start(&r, "tcp:never.answered.test:1", 150);
	finish_with(&r);
	CHECK(!r.c);
	CHECK_INT(r.why, REASON_DIAL_TIMEOUT);
	close(mute);
}

static void test_undiallable(void)
{
	fails("service:kbs.acme", REASON_DIAL_FAILED, "dialled");
}

int main(void)
{
	CHECK(mkdtemp(dir));
	test_begun_before_ipv4();
	loop_begin();
	test_tcp();
	test_refused();
	test_no_descriptors();
	test_name();
	test_first_refuses();
	test_first_is_black_hole();
	test_timeout();
	test_address_order();
	test_unix();
	test_unix_queue_full();
	test_hybrid();
	test_cancel();
	test_moved_name();
	test_cancel_resolving();
	test_undiallable();
	loop_end();
	CHECK_INT(rmdir(dir), 0);
	return 0;
}
