/*
 * Listeners as sockets: made, taken away and made again; one for each folder; paths that somebody
 * removes, occupies or redirects; network namespaces; sockets of systemd's; what callers are told
 * about where they came in.
 */
#include <fcntl.h>
#include <ftw.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qgs-bridge/caller.h"
#include "qgs-bridge/entrance.c"

#include "relay/conduit.h"
#include "tests/unit/loop.h"

#define SYSTEMD_FD 3 /* SD_LISTEN_FDS_START */

static char dir[] = "/tmp/test_entrance.XXXXXX";
static struct bridge bridge;

/* --- a bridge that only writes down who came --- */

static struct {
	unsigned n; /* accepted */
	int fd;     /* the last one's; closed with the next */
	char listener[65], name[64], path[108];
	uint32_t port, who_port;
	ino_t netns;
	struct conduit *conduit;
	void (*over)(void *arg);
	void *over_arg;
} got = { .fd = -1 };

static const char *short_of;         /* what there is too little of */
static struct entrance *close_in_it; /* closed while it accepts */
static bool turn_away;

static void write_down(const struct caller_place *place, int fd)
{
	if (got.fd >= 0)
		close(got.fd);
	got.n++;
	got.fd = fd;
	snprintf(got.listener, sizeof(got.listener), "%s", place->config->name);
	snprintf(got.name, sizeof(got.name), "%s", place->who.name ? place->who.name : "");
	snprintf(got.path, sizeof(got.path), "%s", place->path ? place->path : "");
	got.port = place->port;
	got.who_port = place->who.port;
	got.netns = place->who.netns;
	CHECK_INT(place->who.own_netns, bridge.netns);
}

const char *caller_admit(const struct bridge *b)
{
	return short_of;
}

bool caller_accept(struct bridge *b, const struct caller_place *place, int fd,
		   const struct peer *peer)
{
	CHECK(b == &bridge);
	write_down(place, fd);
	if (close_in_it)
		entrance_close(close_in_it);
	return true;
}

bool caller_accept_conduit(struct bridge *b, const struct caller_place *place, struct conduit *c,
			   int fd, void (*over)(void *arg), void *arg)
{
	write_down(place, -1);
	CHECK(fd >= 0);
	got.conduit = c;
	if (turn_away)
		conduit_close(c, REASON_FORBIDDEN);
	got.over = over;
	got.over_arg = arg;
	return !turn_away;
}

/* --- paths, configs, clients --- */

static const char *in(const char *rest)
{
	static char text[4][160];
	static unsigned next;

	next = (next + 1) % 4;
	snprintf(text[next], sizeof(text[0]), "%s%s", dir, rest);
	return text[next];
}

static struct entrance_config config_of(const char *kind, const char *rest)
{
	struct entrance_config c = { .name = (char *)(uintptr_t)"front", .line = 1 };
	char text[256], *why;

	snprintf(text, sizeof(text), "%s%s%s", kind, rest[0] == '/' ? dir : "", rest);
	CHECK_INT(address_parse(&c.address, text, &why), 0);
	return c;
}

static struct entrance *make(const struct entrance_config *c)
{
	struct entrance *e = entrance_new(&bridge, c);

	CHECK(e);
	CHECK(!entrance_is_open(e));
	CHECK_INT(entrance_sockets(e), 0);
	return e;
}

static void over(struct entrance *e, struct entrance_config *c)
{
	CHECK(!entrance_free(e));
	address_deinit(&c->address);
	settle();
}

/* A connected socket, or -errno. */
static int calls(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

	CHECK(fd >= 0);
	strcpy(un.sun_path, path);
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	error = errno;
	close(fd);
	return -error;
}

/* Somebody gets in there: close is what follows. */
#define GETS_IN(path)                   \
	do {                            \
		unsigned n_ = got.n;    \
		int fd_ = calls(path);  \
		CHECK(fd_ >= 0);        \
		UNTIL(got.n == n_ + 1); \
		close(fd_);             \
	} while (0)

static bool is_socket(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int served(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(un.sun_path, path);
	CHECK_INT(bind(l, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(listen(l, 8), 0);
	return l;
}

/* The time has come for its next look at all that it has. */
static void look_now(struct entrance *e)
{
	e->looked = 0;
	timer_set(w, &e->timer, 0, on_timer);
}

/* --- tests --- */

static void test_unix(void)
{
	struct entrance_config c = config_of("unix:", "/made/qgs.sock");
	struct entrance *e;
	struct stat st;
	int fd;

	c.mode = (char *)(uintptr_t)"0620";
	c.directory_mode = (char *)(uintptr_t)"0711";
	e = make(&c);
	entrance_open(e);
	entrance_open(e);                  /* twice is fine */
	CHECK_INT(entrance_sockets(e), 1); /* at once */
	CHECK_INT(stat(in("/made/qgs.sock"), &st), 0);
	CHECK_INT(st.st_mode & 07777, 0620);
	CHECK_INT(stat(in("/made"), &st), 0);
	CHECK_INT(st.st_mode & 07777, 0711);
	GETS_IN(in("/made/qgs.sock"));
	CHECK_STR(got.listener, "front");
	CHECK_STR(got.path, in("/made/qgs.sock"));
	CHECK_STR(got.name, "");
	CHECK_INT(got.port, 0);
	/* away: clients fail as they would without us, those that wait as well */
	fd = calls(in("/made/qgs.sock"));
	entrance_close(e);
	entrance_close(e);
	CHECK_INT(entrance_sockets(e), 0);
	CHECK_INT(calls(in("/made/qgs.sock")), -ENOENT);
	CHECK(recv(fd, &(char){ 0 }, 1, 0) <= 0);
	close(fd);
	entrance_open(e);
	GETS_IN(in("/made/qgs.sock"));
	/* away while it takes somebody in */
	close_in_it = e;
	fd = calls(in("/made/qgs.sock"));
	GETS_IN(in("/made/qgs.sock"));
	close_in_it = NULL;
	close(fd);
	settle();
	CHECK_INT(calls(in("/made/qgs.sock")), -ENOENT);
	entrance_open(e);
	over(e, &c); /* frees an open one */
	CHECK(!is_socket(in("/made/qgs.sock")));
	CHECK(!entrance_free(NULL));
}

static void test_folders(void)
{
	struct entrance_config c = config_of("unix:", "/vms/vm-*/run/qgs.sock");
	struct entrance *e = make(&c);

	entrance_open(e);
	settle();
	CHECK_INT(mkdir(in("/vms"), 0755), 0);
	CHECK_INT(mkdir(in("/vms/vm-1"), 0755), 0);
	CHECK_INT(mkdir(in("/vms/vm-1/run"), 0755), 0);
	UNTIL(entrance_sockets(e) == 1);
	GETS_IN(in("/vms/vm-1/run/qgs.sock"));
	CHECK_STR(got.name, "1");
	CHECK_STR(got.path, in("/vms/vm-1/run/qgs.sock"));
	/* one that is not filled yet: nothing is made in it, but it is tried again */
	CHECK_INT(mkdir(in("/vms/vm-2"), 0755), 0);
	UNTIL(e->gates->told);
	CHECK(strstr(e->gates->told, "/vms/vm-2/run/qgs.sock"));
	CHECK_INT(access(in("/vms/vm-2/run"), F_OK), -1);
	CHECK_INT(mkdir(in("/vms/vm-2/run"), 0755), 0);
	UNTIL(entrance_sockets(e) == 2);
	GETS_IN(in("/vms/vm-2/run/qgs.sock"));
	CHECK_STR(got.name, "2");
	/* a folder that goes takes its socket along, and no other */
	CHECK_INT(rename(in("/vms/vm-1"), in("/vms/away")), 0);
	UNTIL(entrance_sockets(e) == 1);
	CHECK(calls(in("/vms/away/run/qgs.sock")) < 0);
	GETS_IN(in("/vms/vm-2/run/qgs.sock"));
	entrance_close(e);
	CHECK(!is_socket(in("/vms/vm-2/run/qgs.sock")));
	entrance_open(e);
	UNTIL(entrance_sockets(e) == 1);
	over(e, &c);
	CHECK(!is_socket(in("/vms/vm-2/run/qgs.sock")));
}

/* A VM's owner may put links into his folder: nothing is made where they lead. */
static void test_links(void)
{
	struct entrance_config c = config_of("unix:", "/tenants/*/a/b/qgs.sock");
	struct entrance *e = make(&c);

	CHECK_INT(mkdir(in("/elsewhere"), 0755), 0);
	CHECK_INT(mkdir(in("/elsewhere/b"), 0755), 0);
	CHECK_INT(mkdir(in("/tenants"), 0755), 0);
	CHECK_INT(mkdir(in("/tenants/one"), 0755), 0);
	CHECK_INT(symlink(in("/elsewhere"), in("/tenants/one/a")), 0);
	entrance_open(e);
	UNTIL(e->gates && e->gates->told);
	CHECK(strstr(e->gates->told, "links are not followed"));
	CHECK(!is_socket(in("/elsewhere/b/qgs.sock")));
	CHECK_INT(unlink(in("/tenants/one/a")), 0);
	CHECK_INT(mkdir(in("/tenants/one/a"), 0755), 0);
	CHECK_INT(symlink("../../../elsewhere/b", in("/tenants/one/a/b")), 0);
	e->gates->told[0] = '\0';
	UNTIL(strstr(e->gates->told, "links are not followed"));
	CHECK_INT(unlink(in("/tenants/one/a/b")), 0);
	CHECK_INT(mkdir(in("/tenants/one/a/b"), 0755), 0);
	UNTIL(entrance_sockets(e) == 1);
	GETS_IN(in("/tenants/one/a/b/qgs.sock"));
	over(e, &c);
}

static void test_lost_path(void)
{
	struct entrance_config c = config_of("unix:", "/lost.sock");
	struct entrance *e = make(&c);
	unsigned n = got.n;
	int fd, other;

	entrance_open(e);
	look_now(e);
	settle();
	fd = calls(in("/lost.sock")); /* in the queue of what is to vanish */
	CHECK_INT(unlink(in("/lost.sock")), 0);
	CHECK(gate_has_vanished(e->gates));
	CHECK_INT(got.n, n + 1); /* taken in: QGS is there */
	close(fd);
	look_now(e);
	UNTIL(is_socket(in("/lost.sock")));
	GETS_IN(in("/lost.sock"));
	CHECK_INT(unlink(in("/lost.sock")), 0);
	look_now(e);
	UNTIL(is_socket(in("/lost.sock")));
	GETS_IN(in("/lost.sock"));
	/* somebody else's now: left alone, said once, taken over when he has gone */
	CHECK_INT(unlink(in("/lost.sock")), 0);
	other = served(in("/lost.sock"));
	look_now(e);
	UNTIL(e->gates->told);
	CHECK_INT(entrance_sockets(e), 0);
	CHECK(strstr(e->gates->told, "another program listens there"));
	fd = calls(in("/lost.sock"));
	CHECK(fd >= 0);
	close(fd);
	close(other);
	UNTIL(entrance_sockets(e) == 1);
	CHECK(!e->gates->told);
	GETS_IN(in("/lost.sock"));
	over(e, &c);
}

static void test_hybrid(void)
{
	struct entrance_config c = config_of("hybrid:", "/fc/*/vm.vsock:4050");
	struct entrance *e = make(&c);

	CHECK_INT(mkdir(in("/fc"), 0755), 0);
	CHECK_INT(mkdir(in("/fc/guest-7"), 0755), 0);
	entrance_open(e);
	UNTIL(entrance_sockets(e) == 1);
	GETS_IN(in("/fc/guest-7/vm.vsock_4050"));
	CHECK_STR(got.name, "guest-7");
	CHECK_STR(got.path, in("/fc/guest-7/vm.vsock"));
	CHECK_INT(got.port, 4050);
	CHECK_INT(got.who_port, 0);
	over(e, &c);
	CHECK(!is_socket(in("/fc/guest-7/vm.vsock_4050")));
}

static int calls_tcp(uint32_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				  .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void test_tcp(void)
{
	struct entrance_config c = config_of("tcp:", "127.0.0.1:0");
	struct entrance *e = make(&c);
	unsigned n = got.n;
	uint32_t port;
	int fd;

	entrance_open(e);
	port = e->gates->port;
	CHECK(port);
	fd = calls_tcp(port);
	CHECK(fd >= 0);
	UNTIL(got.n == n + 1);
	CHECK_INT(got.port, port);
	CHECK_INT(got.who_port, port);
	CHECK_STR(got.path, "");
	close(fd);
	look_now(e); /* has no path to lose */
	settle();
	CHECK_INT(e->gates->port, port);
	entrance_close(e);
	CHECK(calls_tcp(port) < 0);
	over(e, &c);
}

/* Bound only: in this machine a CID may be somebody else's. */
static void test_vsock(void)
{
	struct entrance_config c = config_of("vsock:", "any:40599");
	struct entrance *e = make(&c);
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	entrance_open(e);
	if (fd < 0)
		fprintf(stderr, "no vsock here: left out\n");
	else
		CHECK_INT(entrance_sockets(e), 1);
	if (fd >= 0) {
		CHECK_INT(e->gates->port, 40599);
		close(fd);
	}
	over(e, &c);
}

/* --- network namespaces --- */

/* In a namespace of its own: connects to each port it is sent, and answers how that went. */
static void live_apart(int control)
{
	struct ifreq up = { .ifr_flags = IFF_UP, .ifr_name = "lo" };
	uint32_t port = 0;
	int fd;

	if (unshare(CLONE_NEWNET) < 0)
		_exit(0);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (ioctl(fd, SIOCSIFFLAGS, &up) < 0 || send(control, "u", 1, 0) != 1)
		_exit(1);
	while (recv(control, &port, sizeof(port), 0) == sizeof(port))
		if (send(control, calls_tcp(port) >= 0 ? "y" : "n", 1, 0) != 1)
			_exit(1);
	_exit(0);
}

static void test_netns(void)
{
	struct entrance_config c = config_of("tcp:", "127.0.0.1:0");
	unsigned n = got.n;
	struct entrance *e;
	struct stat st;
	char path[64], byte = 0, *why;
	int control[2];
	pid_t pid;

	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		close(control[0]);
		live_apart(control[1]);
	}
	close(control[1]);
	if (recv(control[0], &byte, 1, 0) != 1) {
		fprintf(stderr, "no network namespaces here: left out\n");
		CHECK_INT(waitpid(pid, NULL, 0), pid);
		close(control[0]);
		address_deinit(&c.address);
		return;
	}
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	CHECK_INT(stat(path, &st), 0);
	c.netns = path;
	e = make(&c);
	CHECK_INT(entrance_try(e, &why), 0);
	entrance_open(e);
	CHECK_INT(entrance_sockets(e), 1);
	CHECK(calls_tcp(e->gates->port) < 0); /* not in ours */
	CHECK_INT(send(control[0], &e->gates->port, sizeof(e->gates->port), 0), 4);
	CHECK_INT(recv(control[0], &byte, 1, 0), 1);
	CHECK_INT(byte, 'y');
	UNTIL(got.n == n + 1);
	CHECK_INT(got.netns, st.st_ino);
	CHECK(got.netns != bridge.netns);
	look_now(e);
	settle();
	CHECK_INT(entrance_sockets(e), 1);
	/* the pod has gone: the socket is of no use, and must not keep the namespace */
	close(control[0]);
	CHECK_INT(waitpid(pid, NULL, 0), pid);
	look_now(e);
	UNTIL(e->gates->told);
	CHECK_INT(entrance_sockets(e), 0);
	entrance_close(e);
	CHECK_INT(entrance_try(e, &why), 0); /* may come with its pod */
	over(e, &c);
}

/* --- systemd's sockets --- */

static char systemd_path[128];

/* Before anything else may have that descriptor. */
static void be_handed_a_socket(void)
{
	char pid[16];
	int l;

	snprintf(systemd_path, sizeof(systemd_path), "%s/systemd.sock", dir);
	l = served(systemd_path);
	if (l != SYSTEMD_FD) {
		CHECK_INT(dup2(l, SYSTEMD_FD), SYSTEMD_FD);
		close(l);
	}
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_FDNAMES", "qgs", 1);
}

static void test_handed_over(void)
{
	struct entrance_config c = config_of("fd:", "qgs"), none = config_of("fd:", "other");
	struct entrance *e = make(&c);
	unsigned n = got.n;
	char *why = NULL;
	int fd;

	CHECK_INT(entrance_try(e, &why), 0);
	entrance_close(e); /* QGS is not there: clients are not to wait */
	CHECK_INT(entrance_sockets(e), 0);
	fd = calls(systemd_path);
	CHECK(fd >= 0);
	UNTIL(recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT) == 0);
	close(fd);
	CHECK_INT(got.n, n);
	entrance_open(e);
	CHECK_INT(entrance_sockets(e), 1);
	GETS_IN(systemd_path);
	CHECK_STR(got.path, "");
	entrance_close(e);
	short_of = "something"; /* no reason to let them wait */
	fd = calls(systemd_path);
	UNTIL(recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT) == 0);
	close(fd);
	short_of = NULL;
	over(e, &c);
	/* still there, for who takes it over next */
	fd = calls(systemd_path);
	CHECK(fd >= 0);
	n = got.n;
	c = config_of("fd:", "qgs");
	e = make(&c);
	entrance_open(e);
	UNTIL(got.n == n + 1);
	close(fd);
	over(e, &c);
	e = make(&none);
	CHECK(entrance_try(e, &why) < 0);
	CHECK(strstr(why, "no listening socket of this name"));
	free(why);
	over(e, &none);
}

/* --- the rest --- */

static void test_limit(void)
{
	struct entrance_config c = config_of("unix:", "/limit.sock");
	struct entrance *e = make(&c);
	unsigned n = got.n;
	int fd;

	entrance_open(e);
	short_of = "limits.connections";
	fd = calls(in("/limit.sock"));
	settle();
	CHECK_INT(got.n, n);
	short_of = NULL;
	UNTIL(got.n == n + 1);
	close(fd);
	over(e, &c);
}

static void test_try(void)
{
	struct entrance_config c = config_of("unix:", "/try.sock");
	struct entrance_config odd = config_of("unix:", "/is-not-there/try.sock");
	struct entrance *e = make(&c);
	char *why = NULL;
	int other;

	CHECK_INT(entrance_try(e, &why), 0);
	CHECK(!is_socket(in("/try.sock")));
	CHECK(!entrance_is_open(e));
	other = served(in("/try.sock"));
	CHECK(entrance_try(e, &why) < 0);
	CHECK(strstr(why, in("/try.sock")));
	free(why);
	CHECK(is_socket(in("/try.sock")));
	close(other);
	entrance_open(e);
	CHECK_INT(entrance_try(e, &why), 0); /* it is open */
	over(e, &c);
	e = make(&odd);
	CHECK(entrance_try(e, &why) < 0);
	free(why);
	over(e, &odd);
}

static void test_chardevs(void)
{
	struct entrance_config c = config_of("unix:", "/serial/*.sock");
	int l, fd;
	struct entrance *e;
	unsigned n = got.n;

	c.socket = SOCKET_CONNECT;
	e = make(&c);
	CHECK_INT(mkdir(in("/serial"), 0755), 0);
	l = served(in("/serial/vm9.sock"));
	entrance_open(e);
	UNTIL((fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	CHECK_INT(entrance_sockets(e), 1);
	CHECK_INT(send(fd, "x", 1, 0), 1);
	UNTIL(got.n == n + 1);
	CHECK_STR(got.name, "vm9");
	CHECK_STR(got.path, in("/serial/vm9.sock"));
	conduit_close(got.conduit, REASON_EOF);
	got.over(got.over_arg);
	close(fd);
	/* turned away: it tries again */
	turn_away = true;
	UNTIL((fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	CHECK_INT(send(fd, "x", 1, 0), 1);
	UNTIL(got.n == n + 2);
	turn_away = false;
	close(fd);
	UNTIL((fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	/* the entrance goes while a stream is under way */
	CHECK_INT(send(fd, "x", 1, 0), 1);
	UNTIL(got.n == n + 3);
	over(e, &c);
	CHECK_INT(conduit_write(got.conduit, "y", 1), 1);
	CHECK_INT(recv(fd, &(char){ 0 }, 1, 0), 1);
	conduit_close(got.conduit, REASON_EOF);
	got.over(got.over_arg);
	close(fd);
	close(l);
}

static void test_configs(void)
{
	struct entrance_config a = config_of("unix:", "/a.sock"), b = config_of("unix:", "/a.sock");
	struct entrance *e = make(&a);
	char **texts[] = { &b.name, &b.forward,        &b.owner,   &b.group,
			   &b.mode, &b.directory_mode, &b.selinux, &b.netns };

	b.line = 7; /* where it stands is nothing to it */
	CHECK(entrance_equal(&a, &b));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char *old = *texts[i];

		*texts[i] = (char *)(uintptr_t)"other";
		CHECK(!entrance_equal(&a, &b));
		CHECK(!entrance_equal(&b, &a));
		*texts[i] = old;
	}
	b.socket = SOCKET_CONNECT;
	CHECK(!entrance_equal(&a, &b));
	b.socket = SOCKET_LISTEN;
	CHECK(entrance_config(e) == &a);
	entrance_open(e);
	entrance_adopt(e, &b);
	CHECK(entrance_config(e) == &b);
	address_deinit(&a.address);
	memset(&a, 0, sizeof(a)); /* forgotten */
	GETS_IN(in("/a.sock"));
	CHECK_STR(got.listener, "front");
	over(e, &b);
}

/* Many folders at once: all get their sockets, and each turn does its share. */
static void test_many(void)
{
	struct entrance_config c = config_of("unix:", "/crowd/*/s");
	struct entrance *e = make(&c);
	char path[32];
	unsigned before = 0;

	CHECK_INT(mkdir(in("/crowd"), 0755), 0);
	for (int i = 0; i < 200; i++) {
		snprintf(path, sizeof(path), "/crowd/%d", i);
		CHECK_INT(mkdir(in(path), 0755), 0);
	}
	entrance_open(e);
	while (before < 200) {
		unsigned now;

		turn(false);
		now = entrance_sockets(e);
		CHECK(now - before <= ENTRANCE_TRIES);
		before = now;
	}
	GETS_IN(in("/crowd/177/s"));
	CHECK_STR(got.name, "177");
	over(e, &c);
	CHECK(!is_socket(in("/crowd/177/s")));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

int main(void)
{
	struct stat st;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	CHECK(mkdtemp(dir));
	be_handed_a_socket();
	loop_begin();
	CHECK_INT(stat("/proc/self/ns/net", &st), 0);
	bridge.worker = w;
	bridge.config = bridge_config_new();
	bridge.netns = st.st_ino;
	test_unix();
	test_folders();
	test_links();
	test_lost_path();
	test_hybrid();
	test_tcp();
	test_vsock();
	test_netns();
	test_handed_over();
	test_limit();
	test_try();
	test_chardevs();
	test_configs();
	test_many();
	if (got.fd >= 0)
		close(got.fd);
	loop_end();
	bridge_config_unref(bridge.config);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}
