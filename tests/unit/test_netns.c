/* Listening in another network namespace: the socket is there, the thread is not. Needs root. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay/bind.h"
#include "tests/unit/check.h"

#define NOBODY 65534

static pid_t child;
static int line; /* to the child */

static int connecting(in_port_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = port,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0 ? 0 : errno;

	close(fd);
	return r;
}

/* In its own namespace: brings lo up, says so, and connects to the ports it is told. */
static void inhabit(int to)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd, r;
	in_port_t port;

	alarm(60);
	r = unshare(CLONE_NEWNET) < 0 ? errno : 0;
	fd = r ? -1 : socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		CHECK_INT(ioctl(fd, SIOCSIFFLAGS, &lo), 0);
	CHECK_INT(write(to, &r, sizeof(r)), sizeof(r));
	while (read(to, &port, sizeof(port)) == sizeof(port)) {
		r = connecting(port);
		CHECK_INT(write(to, &r, sizeof(r)), sizeof(r));
	}
	_exit(0);
}

static int answer(void)
{
	int r;

	CHECK_INT(read(line, &r, sizeof(r)), sizeof(r));
	return r;
}

static ino_t inode(const char *path)
{
	struct stat st;

	CHECK_INT(stat(path, &st), 0);
	return st.st_ino;
}

static int listens(const char *netns, ino_t *where, in_port_t *port)
{
	const struct bind_access access = { .netns = netns };
	struct address a = { .kind = ADDRESS_TCP, .name = (char[]){ "127.0.0.1" } };
	struct sockaddr_in at;
	socklen_t len = sizeof(at);
	char *why = NULL;
	int fd = bind_listen_with(&a, &access, NULL, where, &why);

	if (fd < 0)
		fprintf(stderr, "%s\n", why);
	CHECK(fd >= 0);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	CHECK_INT(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*port = at.sin_port;
	return fd;
}

static void refused(const char *netns, const char *words)
{
	const struct bind_access access = { .netns = netns };
	struct address a = { .kind = ADDRESS_TCP, .name = (char[]){ "127.0.0.1" }, .port = 1 };
	ino_t where = 7, before = inode("/proc/thread-self/ns/net");
	char *why = NULL;

	CHECK_INT(bind_listen_with(&a, &access, NULL, &where, &why), -1);
	if (!strstr(why, words))
		fprintf(stderr, "says: %s\n", why);
	CHECK(strstr(why, "tcp:127.0.0.1:1") && strstr(why, netns) && strstr(why, words));
	CHECK_INT(where, 7);
	CHECK_INT(inode("/proc/thread-self/ns/net"), before);
	free(why);
}

static void test_own(void)
{
	ino_t here = inode("/proc/self/ns/net"), where = 0;
	in_port_t port;
	int fd = listens(NULL, &where, &port);

	CHECK_INT(where, here);
	CHECK_INT(connecting(port), 0);
	close(fd);
	where = 0;
	fd = listens("/proc/self/ns/net", &where, &port); /* needs no privilege */
	CHECK_INT(where, here);
	CHECK_INT(connecting(port), 0);
	close(fd);
}

static void test_there(const char *there)
{
	ino_t here = inode("/proc/self/ns/net"), where = 0;
	in_port_t port;
	int fd = listens(there, &where, &port);

	CHECK(where != here);
	CHECK_INT(where, inode(there));
	CHECK_INT(inode("/proc/thread-self/ns/net"), here);
	CHECK_INT(connecting(port), ECONNREFUSED);
	CHECK_INT(write(line, &port, sizeof(port)), sizeof(port));
	CHECK_INT(answer(), 0);
	CHECK(accept(fd, NULL, NULL) >= 0);
	close(fd);
}

static void test_refused(const char *there)
{
	char open_already[64];
	int fd = open(there, O_RDONLY | O_CLOEXEC), status;
	pid_t other;

	refused("/proc/self/no-such-file", "No such file");
	refused("/proc/self/status", "not one of a network namespace");
	CHECK(fd >= 0);
	snprintf(open_already, sizeof(open_already), "/proc/self/fd/%d", fd);
	other = fork();
	CHECK(other >= 0);
	if (other == 0) {
		CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
		refused(there, "Permission denied"); /* not even its file */
		refused(open_already, "CAP_SYS_ADMIN");
		_exit(0);
	}
	CHECK_INT(waitpid(other, &status, 0), other);
	CHECK_INT(status, 0);
	close(fd);
}

int main(void)
{
	char there[64];
	int pair[2], r;

	alarm(100);
	test_own();
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(pair[0]);
		inhabit(pair[1]);
	}
	close(pair[1]);
	line = pair[0];
	r = answer();
	if (r == 0) {
		snprintf(there, sizeof(there), "/proc/%d/ns/net", (int)child);
		test_there(there);
		test_refused(there);
	} else {
		fprintf(stderr, "no namespace of its own: %s: left out\n", strerror(r));
	}
	close(line);
	CHECK_INT(waitpid(child, &r, 0), child);
	CHECK_INT(r, 0);
	return 0;
}
