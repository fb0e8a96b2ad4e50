/* inherit: sockets of others are used where their name says the truth, and closed where not. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/bind.h"
#include "relay/inherit.h"
#include "tests/unit/check.h"

static char folder[] = "/tmp/test-inherit-XXXXXX";

static struct address parse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static struct address parse(const char *fmt, ...)
{
	struct address a;
	char text[256], *why;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	CHECK(address_parse(&a, text, &why) == 0);
	return a;
}

static int listen_at(const struct address *a)
{
	char *why = NULL;
	int fd = bind_listen(a, &why);

	CHECK(fd >= 0);
	return fd;
}

static unsigned port_of(int fd)
{
	struct sockaddr_in at;
	socklen_t len = sizeof(at);

	CHECK(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
	return ntohs(at.sin_port);
}

static bool is_closed(int fd)
{
	return fcntl(fd, F_GETFD) < 0 && errno == EBADF;
}

static void test_tcp(void)
{
	struct address any = parse("tcp:127.0.0.1:0"), real, other;
	struct bind_file none = { 0 };
	char name[INHERIT_NAME_MAX];
	int fd = listen_at(&any), wrong = listen_at(&any);
	bool mismatch;

	real = parse("tcp:127.0.0.1:%u", port_of(fd));
	other = parse("tcp:127.0.0.1:%u", port_of(wrong));
	fcntl(fd, F_SETFD, 0);
	CHECK(inherit_add(inherit_name(&real, &none, name), fd));
	CHECK(inherit_take(&other, NULL, &mismatch) < 0 && !mismatch);
	CHECK(inherit_take(&real, NULL, &mismatch) == fd && !mismatch);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && (fcntl(fd, F_GETFL) & O_NONBLOCK));
	CHECK(inherit_take(&real, NULL, &mismatch) < 0 && !mismatch); /* once */

	/* its name lies: another port */
	CHECK(inherit_add(inherit_name(&real, &none, name), wrong));
	CHECK(inherit_take(&real, NULL, &mismatch) < 0 && mismatch);
	CHECK(is_closed(wrong));
	close(fd);
	address_deinit(&any);
	address_deinit(&real);
	address_deinit(&other);
}

static void test_path(void)
{
	struct address a = parse("unix:%s/socket", folder);
	struct bind_file file, got;
	char name[INHERIT_NAME_MAX];
	int fd = listen_at(&a), again;
	bool mismatch;

	bind_identify(&a, &file);
	CHECK(inherit_add(inherit_name(&a, &file, name), fd));
	CHECK(!strchr(name, ':') && strlen(name) < 255);
	CHECK(inherit_take(&a, &got, &mismatch) == fd);
	CHECK(got.dev == file.dev && got.ino == file.ino);

	/* lent: whoever gave it may go on, so its path stays whatever happens here */
	CHECK(inherit_is_lent(&got));
	bind_withdraw(&a, &got);
	CHECK(bind_is_there(&a, &file));
	inherit_own();
	CHECK(!inherit_is_lent(&got));
	bind_withdraw(&a, &got);
	CHECK(!bind_is_there(&a, &file));

	/* somebody else's path by now, whose socket that is not */
	again = listen_at(&a);
	CHECK(inherit_add(name, fd));
	CHECK(inherit_take(&a, &got, &mismatch) < 0 && mismatch);
	CHECK(is_closed(fd));
	bind_close(&a, again);
	address_deinit(&a);
}

static void test_rest(void)
{
	struct address a = parse("unix:%s/rest", folder);
	struct bind_file file;
	char name[INHERIT_NAME_MAX];
	int fd = listen_at(&a);

	bind_identify(&a, &file);
	CHECK(inherit_add(inherit_name(&a, &file, name), fd));
	inherit_close_rest();
	CHECK(is_closed(fd));
	CHECK(!bind_is_there(&a, &file));
	address_deinit(&a);
}

/* By systemd's store and by a predecessor: one is used, and its path stays. */
static void test_twice(void)
{
	struct address a = parse("unix:%s/twice", folder);
	char name[INHERIT_NAME_MAX];
	struct bind_file file;
	int fd = listen_at(&a), twin = dup(fd);
	bool mismatch;

	bind_identify(&a, &file);
	CHECK(inherit_add(inherit_name(&a, &file, name), fd));
	CHECK(inherit_add(name, twin));
	CHECK(inherit_take(&a, NULL, &mismatch) == fd);
	inherit_own();
	inherit_close_rest();
	CHECK(is_closed(twin));
	CHECK(bind_is_there(&a, &file));
	bind_close(&a, fd);
	address_deinit(&a);
}

static void test_what_does_not_listen(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(!inherit_add("unix,/x 1.1", fd));
	CHECK(is_closed(fd));
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(!inherit_add("unix,/x 1.1", fd));
	CHECK(is_closed(fd));
}

/* fd:NAME: systemd's, asked for as often as one likes. */
static void test_named(void)
{
	struct address any = parse("tcp:127.0.0.1:0"), a = parse("fd:front"), b = parse("fd:fron");
	int fd = listen_at(&any);
	bool mismatch;

	CHECK(inherit_add("front", fd));
	CHECK(inherit_take(&b, NULL, &mismatch) < 0);
	CHECK(inherit_take(&a, NULL, &mismatch) == fd);
	CHECK(inherit_take(&a, NULL, &mismatch) == fd);
	inherit_close_rest();
	CHECK(!is_closed(fd));
	address_deinit(&any);
	address_deinit(&a);
	address_deinit(&b);
}

static void test_names(void)
{
	struct address a = parse("unix:/with space"), b = parse("unix:@abstract");
	struct bind_file none = { 0 };
	char name[INHERIT_NAME_MAX];

	CHECK(!inherit_name(&a, &none, name)); /* it would not come back the same */
	CHECK(inherit_name(&b, &none, name) && strcmp(name, "unix,@abstract") == 0);
	address_deinit(&a);
	address_deinit(&b);
}

int main(void)
{
	CHECK(mkdtemp(folder));
	test_tcp();
	test_path();
	test_rest();
	test_twice();
	test_what_does_not_listen();
	test_named();
	test_names();
	CHECK(rmdir(folder) == 0);
	return 0;
}
