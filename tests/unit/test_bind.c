/* Listening: what is at a path decides whether it is replaced; what is said when it cannot be. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay/bind.h"
#include "tests/unit/check.h"

static char dir[] = "/tmp/test_bind.XXXXXX";

static struct address parse(const char *text)
{
	struct address a = { 0 };
	char *why;

	if (address_parse(&a, text, &why) < 0)
		fprintf(stderr, "%s: %s\n", text, why);
	CHECK(a.kind != ADDRESS_NONE);
	return a;
}

static const char *in_dir(const char *kind, const char *rest)
{
	static char text[8][160];
	static unsigned next;

	next = (next + 1) % 8;
	snprintf(text[next], sizeof(text[next]), "%s%s/%s", kind, dir, rest);
	return text[next];
}

static int listens(const char *text)
{
	struct address a = parse(text);
	char *why = NULL;
	int fd = bind_listen(&a, &why), on = 0;
	socklen_t len = sizeof(on);

	if (fd < 0)
		fprintf(stderr, "%s\n", why);
	CHECK(fd >= 0);
	CHECK_INT(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len), 0);
	CHECK(on);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	address_deinit(&a);
	return fd;
}

static void refuses(const char *text, const char *words)
{
	struct address a = parse(text);
	char *why = NULL;

	CHECK_INT(bind_listen(&a, &why), -1);
	CHECK(why && strstr(why, text)); /* says which address */
	if (!strstr(why, words))
		fprintf(stderr, "says: %s\n", why);
	CHECK(strstr(why, words));
	free(why);
	address_deinit(&a);
}

static int connects(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(un);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ok;

	memcpy(un.sun_path, path, strlen(path));
	if (path[0] == '@') {
		un.sun_path[0] = '\0';
		len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	}
	ok = connect(fd, (struct sockaddr *)&un, len) == 0;
	close(fd);
	return ok;
}

static void test_unix_paths(void)
{
	const char *path = in_dir("", "s"), *text = in_dir("unix:", "s");
	struct address a = parse(text);
	struct stat before, after;
	int fd = listens(text), again;

	CHECK(connects(path));
	refuses(text, "another program listens there");
	CHECK(connects(path)); /* and was not disturbed */

	CHECK_INT(stat(path, &before), 0);
	close(fd); /* as a process that died: the path stays */
	CHECK(!connects(path));
	again = listens(text);
	CHECK(connects(path));
	CHECK_INT(stat(path, &after), 0);
	CHECK(S_ISSOCK(after.st_mode));

	bind_close(&a, again);
	CHECK(lstat(path, &after) < 0 && errno == ENOENT);
	CHECK(fcntl(again, F_GETFD) < 0);
	bind_close(&a, -1); /* never opened: nothing */

	/* given up by name alone */
	fd = listens(text);
	bind_forget(&a);
	CHECK(lstat(path, &after) < 0);
	close(fd);
	address_deinit(&a);
}

/* One whose queue is full serves too, only slowly. */
static void test_unix_busy(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	const char *path = in_dir("", "busy");
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fill;

	memcpy(un.sun_path, path, strlen(path));
	CHECK_INT(bind(l, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(listen(l, 0), 0);
	fill = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(fill, (struct sockaddr *)&un, sizeof(un)), 0);
	refuses(in_dir("unix:", "busy"), "another program listens there");
	CHECK_INT(access(path, F_OK), 0);
	close(fill);
	close(l);
	unlink(path);
}

static void test_no_socket(void)
{
	const char *path = in_dir("", "file");
	struct stat st;
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK_INT(write(fd, "precious", 8), 8);
	close(fd);
	refuses(in_dir("unix:", "file"), "not a socket");
	CHECK_INT(stat(path, &st), 0);
	CHECK_INT(st.st_size, 8);

	/* nor through a symbolic link */
	CHECK_INT(symlink(path, in_dir("", "link")), 0);
	refuses(in_dir("unix:", "link"), "not a socket");
	CHECK_INT(stat(path, &st), 0);
	unlink(in_dir("", "link"));
	unlink(path);
}

static void test_bad_paths(void)
{
	char name[200], *why = NULL;
	struct address a = { .kind = ADDRESS_UNIX, .name = name };

	snprintf(name, sizeof(name), "%s/%0100d", dir, 1);
	CHECK_INT(bind_listen(&a, &why), -1);
	CHECK(strstr(why, "too long"));
	free(why);
	refuses(in_dir("unix:", "missing/s"), "No such file");
}

static void test_abstract(void)
{
	char text[64];
	struct address a;
	int fd;

	snprintf(text, sizeof(text), "unix:@test_bind-%d", (int)getpid());
	a = parse(text);
	fd = listens(text);
	CHECK(connects(text + 5));
	refuses(text, "in use");
	CHECK(access(text + 5, F_OK) < 0); /* no file of that name */
	bind_close(&a, fd);
	CHECK(!connects(text + 5));
	address_deinit(&a);
}

/* Where the VMM connects for its guest: PATH_PORT. */
static void test_hybrid(void)
{
	struct address a = parse(in_dir("hybrid:", "v:1234"));
	char text[ADDRESS_TEXT_MAX];
	int fd = listens(in_dir("hybrid:", "v:1234"));

	CHECK(connects(in_dir("", "v_1234")));
	CHECK_STR(bind_describe(&a, fd, text, sizeof(text)), in_dir("hybrid:", "v:1234"));
	bind_close(&a, fd);
	CHECK(access(in_dir("", "v_1234"), F_OK) < 0);
	address_deinit(&a);
}

static void test_any_port(void)
{
	struct address a = parse("tcp:127.0.0.1:0"), real;
	struct sockaddr_in at;
	socklen_t len = sizeof(at);
	char text[ADDRESS_TEXT_MAX];
	int fd = listens("tcp:127.0.0.1:0"), c;

	CHECK_INT(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	real = parse(bind_describe(&a, fd, text, sizeof(text)));
	CHECK_INT(real.kind, ADDRESS_TCP);
	CHECK_STR(real.name, "127.0.0.1");
	CHECK(real.port != 0);
	CHECK_INT(real.port, ntohs(at.sin_port));
	CHECK_INT(a.port, 0); /* untouched */
	c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(c, (struct sockaddr *)&at, sizeof(at)), 0);
	refuses(text, "another program listens there");
	close(c);
	bind_close(&a, fd);
	address_deinit(&a);
	address_deinit(&real);
}

/* tcp:[::] takes IPv4 too. */
static void test_both_families(void)
{
	struct address a = parse("tcp:[::]:0"), real;
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char text[ADDRESS_TEXT_MAX], *why = NULL;
	int fd = bind_listen(&a, &why), c;

	if (fd < 0) {
		fprintf(stderr, "no IPv6 here: left out: %s\n", why);
		free(why);
		address_deinit(&a);
		return;
	}
	real = parse(bind_describe(&a, fd, text, sizeof(text)));
	at.sin_port = htons((uint16_t)real.port);
	c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(c, (struct sockaddr *)&at, sizeof(at)), 0);
	close(c);
	bind_close(&a, fd);
	address_deinit(&a);
	address_deinit(&real);
}

static void test_foreign_address(void)
{
	refuses("tcp:192.0.2.1:7001", "no interface of this machine");
}

/* --- handed over by systemd --- */

static void test_handed_over(void)
{
	struct address a = parse("fd:front");
	char pid[16], *why = NULL;
	int fd, pair[2];

	/* as sd_listen_fds_with_names(3) finds it: descriptors 3 and 4 are ours for this */
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK_INT(listen(fd, 1), 0); /* at any port */
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	fd = fcntl(fd, F_DUPFD, 10);
	pair[0] = fcntl(pair[0], F_DUPFD, 10);
	CHECK_INT(dup2(pair[0], 3), 3);
	CHECK_INT(dup2(fd, 4), 4);
	CHECK_INT(fcntl(4, F_SETFL, 0), 0); /* blocking, as systemd makes them */
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "2", 1);
	setenv("LISTEN_FDNAMES", "pair:front", 1);
	CHECK_INT(bind_listen(&a, &why), 4);
	CHECK(fcntl(4, F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(4, F_GETFD) & FD_CLOEXEC);
	refuses("fd:pair", "no listening socket of this name"); /* it does not listen */
	refuses("fd:other", "no listening socket of this name");
	bind_release(&a, 4, NULL); /* it stays systemd's, for who asks next */
	CHECK_INT(bind_listen(&a, &why), 4);
	CHECK(fcntl(4, F_GETFD) & FD_CLOEXEC);
	unsetenv("LISTEN_PID");
	address_deinit(&a);
}

/* --- let go of --- */

static void test_release(void)
{
	struct bind_file file = { 0 }, other;
	char text[160], *why = NULL;
	struct address a;
	int fd;

	snprintf(text, sizeof(text), "unix:%s/released", dir);
	a = parse(text);
	fd = bind_listen(&a, &why);
	bind_identify(&a, &file);
	CHECK(fd >= 0 && file.ino);
	bind_release(&a, fd, NULL); /* the path is another's now */
	CHECK_INT(fcntl(fd, F_GETFD), -1);
	CHECK_INT(access(a.name, F_OK), 0);
	fd = bind_listen(&a, &why);
	bind_identify(&a, &file);
	other = file;
	other.ino++;
	bind_release(&a, -1, &file);
	CHECK_INT(access(a.name, F_OK), 0);
	bind_release(&a, dup(fd), &other);
	CHECK_INT(access(a.name, F_OK), 0);
	bind_release(&a, fd, &file);
	CHECK_INT(access(a.name, F_OK), -1);
	address_deinit(&a);
}

static void is_local(const char *text, bool local)
{
	struct address a = parse(text);
	char *why = NULL;
	int fd = bind_listen(&a, &why);

	CHECK(fd >= 0);
	CHECK_INT(bind_is_local(fd), local);
	close(fd);
	address_deinit(&a);
}

static void test_local(void)
{
	is_local("tcp:127.0.0.1:0", true);
	is_local("tcp:127.9.9.9:0", true);
	is_local("tcp:[::1]:0", true);
	is_local("tcp:[::ffff:127.0.0.1]:0", true);
	is_local("tcp:0.0.0.0:0", false);
	is_local("tcp:[::]:0", false);
	is_local("unix:@attest-relay-test-bind-local", true);
	CHECK(!bind_is_local(-1));
}

int main(void)
{
	test_handed_over(); /* before anything is bound: what was handed over is looked at once */
	CHECK(mkdtemp(dir));
	test_unix_paths();
	test_unix_busy();
	test_no_socket();
	test_bad_paths();
	test_abstract();
	test_hybrid();
	test_any_port();
	test_both_families();
	test_foreign_address();
	test_release();
	test_local();
	CHECK_INT(rmdir(dir), 0);
	return 0;
}
