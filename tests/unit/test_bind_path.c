/*
 * Unix sockets that are made aside: mode, owner and folder; who may connect; a client that comes
 * all the time while one is made again; what is never replaced or removed; nothing is left behind.
 */
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay/bind.h"
#include "tests/unit/check.h"

#define GUEST 107 /* the user and group of a VMM, say; need not exist */
#define NOBODY 65534
#define AGAIN 200 /* times a socket is made again under a client's hands */

static char dir[] = "/tmp/test_bind_path.XXXXXX";

static const char *in_dir(const char *kind, const char *rest)
{
	static char text[8][256];
	static unsigned next;

	next = (next + 1) % 8;
	snprintf(text[next], sizeof(text[next]), "%s%s/%s", kind, dir, rest);
	return text[next];
}

static struct address parse(const char *text)
{
	struct address a = { 0 };
	char *why;

	CHECK_INT(address_parse(&a, text, &why), 0);
	return a;
}

static int made(const struct address *a, const struct bind_access *access, struct bind_file *file)
{
	ino_t netns = 1;
	char *why = NULL;
	int fd = bind_listen_with(a, access, file, &netns, &why), on = 0;
	socklen_t len = sizeof(on);

	if (fd < 0)
		fprintf(stderr, "%s\n", why);
	CHECK(fd >= 0);
	CHECK_INT(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len), 0);
	CHECK(on);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	CHECK_INT(netns, 0);
	CHECK(bind_is_there(a, file));
	return fd;
}

/* Says words, and leaves everything as it was. */
static void refused(const char *text, const struct bind_access *access, const char *words)
{
	struct address a = parse(text);
	struct bind_file file = { 0 };
	ino_t netns = 1;
	char *why = NULL;

	CHECK_INT(bind_listen_with(&a, access, &file, &netns, &why), -1);
	CHECK(why && strstr(why, text));
	if (!strstr(why, words))
		fprintf(stderr, "says: %s\n", why);
	CHECK(strstr(why, words));
	CHECK_INT(file.ino, 0);
	CHECK_INT(netns, 1);
	free(why);
	address_deinit(&a);
}

static int entries(const char *folder)
{
	DIR *d = opendir(folder);
	int n = 0;

	CHECK(d);
	for (const struct dirent *e = readdir(d); e; e = readdir(d))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

/* 0 or an errno. */
static int connecting(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	memcpy(un.sun_path, path, strlen(path));
	r = connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0 ? 0 : errno;
	close(fd);
	return r;
}

/* The same, as somebody else. */
static int connecting_as(const char *path, uid_t uid, gid_t gid)
{
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		if (setgroups(0, NULL) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
			_exit(255);
		_exit(connecting(path));
	}
	CHECK_INT(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_mode_and_folder(void)
{
	const struct bind_access access = { .mode = 0620, .directory_mode = 0750 };
	struct address a = parse(in_dir("unix:", "one/two/s"));
	struct bind_file file = { 0 };
	struct stat st;
	int fd = made(&a, &access, &file);

	CHECK_INT(lstat(in_dir("", "one/two/s"), &st), 0);
	CHECK_INT(st.st_mode, S_IFSOCK | 0620);
	CHECK_INT(st.st_ino, file.ino);
	CHECK_INT(lstat(in_dir("", "one"), &st), 0);
	CHECK_INT(st.st_mode, S_IFDIR | 0750);
	CHECK_INT(lstat(in_dir("", "one/two"), &st), 0);
	CHECK_INT(st.st_mode, S_IFDIR | 0750);
	CHECK_INT(entries(in_dir("", "one/two")), 1);
	CHECK_INT(connecting(in_dir("", "one/two/s")), 0);

	bind_withdraw(&a, &file);
	CHECK(!bind_is_there(&a, &file));
	CHECK_INT(entries(in_dir("", "one/two")), 0);
	close(fd);
	CHECK_INT(rmdir(in_dir("", "one/two")), 0);
	CHECK_INT(rmdir(in_dir("", "one")), 0);
	address_deinit(&a);

	refused(in_dir("unix:", "one/s"), &(struct bind_access){ .mode = 0600 }, "directory_mode");
	CHECK_INT(entries(dir), 0);
}

/* As bind(2) has it, if nobody wishes for anything. */
static void test_umask(void)
{
	struct address a = parse(in_dir("hybrid:", "v:1234"));
	const struct bind_access none = { 0 };
	struct bind_file file = { 0 };
	mode_t before = umask(027);
	struct stat st;
	int fd = made(&a, &none, &file);

	umask(before);
	CHECK_INT(lstat(in_dir("", "v_1234"), &st), 0);
	CHECK_INT(st.st_mode, S_IFSOCK | 0750);
	CHECK_INT(st.st_uid, geteuid());
	bind_withdraw(&a, &file);
	close(fd);
	address_deinit(&a);
	CHECK_INT(entries(dir), 0);
}

static void test_owner(void)
{
	const struct bind_access both = { .owner = "107", .group = "107", .mode = 0660 };
	const struct bind_access group = { .group = "107", .mode = 0660 };
	struct address a = parse(in_dir("unix:", "s"));
	const char *path = in_dir("", "s");
	struct bind_file file = { 0 };
	struct stat st;
	int fd[2];

	if (geteuid() != 0) {
		fprintf(stderr, "not root: owners are left out\n");
		address_deinit(&a);
		return;
	}
	CHECK_INT(chmod(dir, 0755), 0);
	fd[0] = made(&a, &both, &file);
	CHECK_INT(lstat(path, &st), 0);
	CHECK_INT(st.st_mode, S_IFSOCK | 0660);
	CHECK_INT(st.st_uid, GUEST);
	CHECK_INT(st.st_gid, GUEST);
	CHECK_INT(connecting_as(path, GUEST, NOBODY), 0);
	CHECK_INT(connecting_as(path, NOBODY, GUEST), 0);
	CHECK_INT(connecting_as(path, NOBODY, NOBODY), EACCES);

	fd[1] = made(&a, &group, &file); /* over our own */
	CHECK_INT(lstat(path, &st), 0);
	CHECK_INT(st.st_uid, 0);
	CHECK_INT(st.st_gid, GUEST);
	CHECK_INT(connecting_as(path, GUEST, NOBODY), EACCES);
	CHECK_INT(connecting_as(path, GUEST, GUEST), 0);
	bind_withdraw(&a, &file);
	close(fd[0]);
	close(fd[1]);

	refused(in_dir("unix:", "s"), &(struct bind_access){ .owner = "no-such-user" },
		"no user no-such-user");
	refused(in_dir("unix:", "s"), &(struct bind_access){ .group = "no-such-group" },
		"no group no-such-group");
	refused(in_dir("unix:", "s"), &(struct bind_access){ .group = "4294967295" }, "no group");
	fd[0] = made(&a, &(struct bind_access){ .owner = "root", .group = "root" }, &file);
	bind_withdraw(&a, &file);
	close(fd[0]);
	CHECK_INT(entries(dir), 0);
	address_deinit(&a);
}

/* Without the privilege, giving away fails, and says what it takes. */
static void test_no_privilege(void)
{
	pid_t child;
	int status;

	CHECK_INT(chmod(dir, 0777), 0);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		if (geteuid() == 0)
			CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 &&
			      setuid(NOBODY) == 0);
		refused(in_dir("unix:", "s"), &(struct bind_access){ .owner = "0" }, "CAP_CHOWN");
		_exit(0);
	}
	CHECK_INT(waitpid(child, &status, 0), child);
	CHECK_INT(status, 0);
	CHECK_INT(entries(dir), 0);
	CHECK_INT(chmod(dir, 0700), 0);
}

static void test_label(void)
{
	const struct bind_access access = { .selinux = "system_u:object_r:no_such_t:s0" };
	FILE *f = popen("grep -w selinuxfs /proc/filesystems", "r");
	bool here;

	CHECK(f);
	here = fgetc(f) != EOF;
	pclose(f);
	refused(in_dir("unix:", "s"), &access,
		here ? "cannot label it system_u:object_r:no_such_t:s0"
		     : "SELinux is not enabled here");
	CHECK_INT(entries(dir), 0);
}

/* Connects until it is told to stop; ends with the number of failures. */
static void keep_connecting(const char *path, int stop)
{
	unsigned failed = 0, n = 0;
	char byte;

	while (recv(stop, &byte, 1, MSG_DONTWAIT) < 0) {
		int r = connecting(path);

		failed += r != 0;
		if (r)
			fprintf(stderr, "connect: %s\n", strerror(r));
		n++;
	}
	_exit(failed || n < AGAIN ? 1 : 0);
}

/* How many had come. */
static int drain(int fd)
{
	int n = 0;

	for (int c = accept(fd, NULL, NULL); c >= 0; c = accept(fd, NULL, NULL), n++)
		close(c);
	return n;
}

static void test_made_again(void)
{
	const struct bind_access access = { .mode = 0600 };
	const char *path = in_dir("", "s");
	struct address a = parse(in_dir("unix:", "s"));
	struct bind_file file = { 0 }, before;
	int fd[AGAIN], stop[2], status;
	pid_t client;

	fd[0] = made(&a, &access, &file);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, stop), 0);
	client = fork();
	CHECK(client >= 0);
	if (client == 0) {
		alarm(60);
		keep_connecting(path, stop[1]);
	}
	for (int i = 1; i < AGAIN; i++) {
		before = file;
		fd[i] = made(&a, &access, &file);
		CHECK(!bind_is_there(&a, &before));
		do /* no queue may get full, and hold the client up */
			drain(fd[i - 1]);
		while (drain(fd[i]) == 0);
	}
	CHECK_INT(write(stop[0], "", 1), 1);
	while (waitpid(client, &status, WNOHANG) == 0)
		drain(fd[AGAIN - 1]);
	CHECK_INT(status, 0);
	bind_withdraw(&a, &file);
	CHECK_INT(entries(dir), 0);
	for (int i = 0; i < AGAIN; i++)
		close(fd[i]);
	close(stop[0]);
	close(stop[1]);
	address_deinit(&a);
}

/* A socket under another name, that nobody serves any more. */
static void leave(const char *name)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", dir, name);
	CHECK_INT(bind(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
	close(fd);
}

/* Of processes that died between making a socket and putting it in its place. */
static void test_left_behind(void)
{
	const struct bind_access access = { .mode = 0600 };
	struct address a = parse(in_dir("unix:", "s"));
	struct address living = parse(in_dir("unix:", ".s.22"));
	struct bind_file file = { 0 };
	char *why;
	int fd, other = bind_listen(&living, &why);

	CHECK(other >= 0);
	leave(".s.4711");
	leave(".4712");
	leave(".s.x");
	leave(".other.3");
	CHECK_INT(close(creat(in_dir("", ".s.1"), 0600)), 0);
	fd = made(&a, &access, &file);
	CHECK_INT(faccessat(AT_FDCWD, in_dir("", ".s.4711"), F_OK, 0), -1);
	CHECK_INT(faccessat(AT_FDCWD, in_dir("", ".4712"), F_OK, 0), -1);
	/* no process's number, another socket's, no socket, a living process's */
	CHECK_INT(unlink(in_dir("", ".s.x")), 0);
	CHECK_INT(unlink(in_dir("", ".other.3")), 0);
	CHECK_INT(unlink(in_dir("", ".s.1")), 0);
	CHECK_INT(unlink(in_dir("", ".s.22")), 0);
	bind_withdraw(&a, &file);
	close(fd);
	close(other);
	CHECK_INT(entries(dir), 0);
	address_deinit(&a);
	address_deinit(&living);
}

/* What is somebody else's, or no socket, stays; what a dead process left goes. */
static void test_others(void)
{
	const struct bind_access access = { .mode = 0600 };
	const char *path = in_dir("", "s"), *text = in_dir("unix:", "s");
	struct address a = parse(text);
	struct bind_file file = { 0 }, old;
	char *why = NULL, aside[64];
	struct stat st;
	int fd = made(&a, &access, &file), other;

	refused(text, &access,
		"another program listens there"); /* and this is not said to be ours */
	CHECK(bind_is_there(&a, &file));
	old = file;
	unlink(path);
	other = bind_listen(&a, &why);
	CHECK(other >= 0);
	CHECK(!bind_is_there(&a, &old));
	bind_withdraw(&a, &old);
	CHECK_INT(connecting(path), 0);
	CHECK_INT(bind_listen_with(&a, &access, &old, NULL, &why), -1); /* no longer ours */
	free(why);
	close(fd);
	close(other); /* as if it had died */
	CHECK_INT(connecting(path), ECONNREFUSED);
	file = (struct bind_file){ 0 };
	snprintf(aside, sizeof(aside), ".s.%d", (int)getpid());
	CHECK_INT(rename(path, in_dir("", aside)), 0); /* half-way */
	fd = made(&a, &access, &file);
	CHECK_INT(entries(dir), 1);
	close(fd);
	fd = made(&a, &access, &file);
	CHECK_INT(connecting(path), 0);
	bind_withdraw(&a, &file);
	close(fd);

	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK_INT(write(fd, "precious", 8), 8);
	close(fd);
	refused(text, &access, "not a socket");
	CHECK_INT(stat(path, &st), 0);
	CHECK_INT(st.st_size, 8);
	CHECK_INT(entries(dir), 1);
	unlink(path);
	CHECK_INT(symlink("elsewhere", path), 0);
	refused(text, &access, "not a socket");
	unlink(path);
	address_deinit(&a);
}

/* 107 bytes, where no other name in the folder fits. */
static void test_long(void)
{
	char path[160];
	struct address a = { .kind = ADDRESS_UNIX, .name = path };
	const struct bind_access access = { .mode = 0600, .directory_mode = 0700 };
	struct bind_file file = { 0 };
	char *why = NULL;
	int fd;

	snprintf(path, sizeof(path), "%s/%0*d/s", dir, (int)(107 - strlen(dir) - 3), 0);
	CHECK_INT(strlen(path), 107);
	fd = made(&a, &access, &file);
	CHECK_INT(connecting(path), 0);
	bind_withdraw(&a, &file);
	close(fd);
	*strrchr(path, '/') = '\0';
	CHECK_INT(entries(path), 0);
	CHECK_INT(rmdir(path), 0);

	snprintf(path, sizeof(path), "%s/%0*d", dir, (int)(108 - strlen(dir) - 1), 0);
	CHECK_INT(bind_listen_with(&a, &access, &file, NULL, &why), -1);
	CHECK(strstr(why, "too long"));
	free(why);
}

static void test_abstract(void)
{
	char text[64], *why = NULL;
	const struct bind_access access = { .mode = 0600 };
	struct bind_file file = { 0 };
	struct address a;
	int fd;

	snprintf(text, sizeof(text), "unix:@test_bind_path-%d", (int)getpid());
	a = parse(text);
	fd = bind_listen_with(&a, &access, &file, NULL, &why);
	CHECK(fd >= 0);
	CHECK_INT(file.ino, 0);
	CHECK(!bind_is_there(&a, &file));
	bind_withdraw(&a, &file);
	close(fd);
	address_deinit(&a);
}

/* Below somebody else's folder no link is followed, neither to make a socket nor to remove one. */
static void test_beneath(void)
{
	const struct bind_access access = { .mode = 0600,
					    .beneath = strlen(in_dir("", "his")) };
	struct bind_file file = { 0 };
	struct address a;
	char text[256];
	int fd;

	snprintf(text, sizeof(text), "%s", in_dir("unix:", "his/sub/s"));
	a = parse(text);
	CHECK_INT(mkdir(in_dir("", "his"), 0700), 0);
	CHECK_INT(mkdir(in_dir("", "his/sub"), 0700), 0);
	CHECK_INT(mkdir(in_dir("", "other"), 0700), 0);
	fd = made(&a, &access, &file);
	CHECK_INT(connecting(in_dir("", "his/sub/s")), 0);
	/* the very socket, but by a link */
	CHECK_INT(rename(in_dir("", "his/sub/s"), in_dir("", "other/s")), 0);
	CHECK_INT(rmdir(in_dir("", "his/sub")), 0);
	CHECK_INT(symlink("../other", in_dir("", "his/sub")), 0);
	CHECK(!bind_is_there(&a, &file));
	bind_withdraw(&a, &file);
	CHECK_INT(entries(in_dir("", "other")), 1);
	CHECK_INT(unlink(in_dir("", "other/s")), 0);
	close(fd);
	refused(text, &access, "links are not followed");
	CHECK_INT(entries(in_dir("", "other")), 0);
	CHECK_INT(unlink(in_dir("", "his/sub")), 0);
	refused(text, &access, "No such file");

	CHECK_INT(mkdir(in_dir("", "his/sub"), 0700), 0);
	file = (struct bind_file){ 0 };
	fd = made(&a, &access, &file);
	bind_withdraw(&a, &file);
	close(fd);
	CHECK_INT(rmdir(in_dir("", "his/sub")), 0);
	CHECK_INT(rmdir(in_dir("", "his")), 0);
	CHECK_INT(symlink("other", in_dir("", "his")), 0);
	CHECK_INT(mkdir(in_dir("", "other/sub"), 0700), 0);
	refused(text, &access, "links are not followed");
	CHECK_INT(unlink(in_dir("", "his")), 0);
	CHECK_INT(rmdir(in_dir("", "other/sub")), 0);
	CHECK_INT(rmdir(in_dir("", "other")), 0);
	address_deinit(&a);
}

int main(void)
{
	alarm(100);
	CHECK(mkdtemp(dir));
	test_mode_and_folder();
	test_umask();
	test_owner();
	test_no_privilege();
	test_label();
	test_made_again();
	test_left_behind();
	test_others();
	test_long();
	test_abstract();
	test_beneath();
	CHECK_INT(rmdir(dir), 0);
	return 0;
}
