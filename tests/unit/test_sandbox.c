/*
 * What a process may do in its sandbox. Each case is a child that enters it for good; how it ends
 * is the result. The cases of system calls are made of the table that the filter is made of.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char resolver_conf[128];
#define SANDBOX_RESOLVER_CONF resolver_conf
#include "relay/sandbox.c"

#include "relay/sandbox_landlock.h"
#include "relay/sandbox_seccomp.h"
#include "tests/unit/check.h"

#define CALLS 470 /* numbers that are tried: all of a 6.x kernel, and some to come */
#define GRACE 20  /* seconds a child may take */
#define FAULT 100 /* what a child ends with that found something wrong; else an errno, or 0 */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static char top[] = "/tmp/test_sandbox.XXXXXX";
static char own[64], other[64]; /* folders in it: the spec's, and another */
static bool has_landlock, has_seccomp;

static struct sandbox_spec spec(void)
{
	struct sandbox_spec s = { .program = SANDBOX_RELAY };

	sandbox_folder(&s, own, SANDBOX_READ | SANDBOX_SOCKETS);
	return s;
}

/* ---- a child in a sandbox ---- */

/* Its exit status, or minus the signal that killed it. */
static int run(struct sandbox_spec *s, int (*what)(const void *arg), const void *arg)
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (pid == 0) {
		const struct rlimit no_core = { 0, 0 };

		setrlimit(RLIMIT_CORE, &no_core);
		alarm(GRACE);
		if (s && !sandbox_enter(s))
			_exit(FAULT);
		errno = 0;
		_exit(what(arg));
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int in_sandbox(int (*what)(const void *arg), const void *arg)
{
	struct sandbox_spec s = spec();
	int r = run(&s, what, arg);

	sandbox_spec_deinit(&s);
	return r;
}

/* ---- what stands in /proc/self/status ---- */

static uint64_t of_status(const char *key, int base)
{
	char line[256];
	uint64_t value = UINT64_MAX;
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			value = strtoull(line + strlen(key), NULL, base);
	if (f)
		fclose(f);
	return value;
}

static int nothing_left(const void *arg)
{
	if (of_status("NoNewPrivs:", 10) != 1)
		return 1;
	if (of_status("Seccomp:", 10) != (has_seccomp ? 2 : 0))
		return 2;
	if (of_status("CapEff:", 16) != 0 || of_status("CapPrm:", 16) != 0 ||
	    of_status("CapAmb:", 16) != 0 || of_status("CapInh:", 16) != 0)
		return 3;
	/* the bounding set goes only if we may change it */
	return geteuid() == 0 && of_status("CapBnd:", 16) != 0 ? 4 : 0;
}

static int one_left(const void *arg)
{
	return of_status("CapEff:", 16) == 1u << CAP_CHOWN ? 0 : 1;
}

static void *nothing_left_thread(void *arg)
{
	return (void *)(intptr_t)nothing_left(NULL);
}

static int nothing_left_in_threads(const void *arg)
{
	pthread_t thread;
	void *result = NULL;

	if (pthread_create(&thread, NULL, nothing_left_thread, NULL) != 0)
		return FAULT;
	pthread_join(thread, &result);
	return (int)(intptr_t)result;
}

static void test_rights(void)
{
	struct sandbox_spec s = spec();

	/* the child reads its own state: the folder is for this test */
	sandbox_folder(&s, "/proc", SANDBOX_READ);
	CHECK_INT(run(&s, nothing_left, NULL), 0);
	CHECK_INT(run(&s, nothing_left_in_threads, NULL), 0);
	s.keep = 1u << CAP_CHOWN;
	if (of_status("CapEff:", 16) & s.keep)
		CHECK_INT(run(&s, one_left, NULL), 0);
	sandbox_spec_deinit(&s);
}

/* ---- files ---- */

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

static int try_read(const void *path)
{
	return try_open(path, O_RDONLY);
}

static int try_write(const void *path)
{
	return try_open(path, O_WRONLY);
}

static int try_make(const void *path)
{
	return try_open(path, O_WRONLY | O_CREAT | O_EXCL);
}

static int try_remove(const void *path)
{
	return unlink(path) < 0 ? errno : 0;
}

static int make_socket(const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(at.sun_path, path, sizeof(at.sun_path) - 1);
	return fd < 0 ? -1 : bind(fd, (struct sockaddr *)&at, sizeof(at));
}

static int try_socket(const void *path)
{
	return make_socket(path) < 0 || unlink(path) < 0 ? errno : 0;
}

static char *in(const char *folder, const char *name)
{
	static char text[4][128];
	static unsigned next;
	char *at = text[next++ % 4];

	snprintf(at, sizeof(text[0]), "%s/%s", folder, name);
	return at;
}

static void make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK(write(fd, "secret\n", 7) == 7);
	close(fd);
}

static void test_files(void)
{
	/* that it is the sandbox which forbids them */
	CHECK_INT(run(NULL, try_read, in(other, "file")), 0);
	CHECK_INT(run(NULL, try_socket, in(other, "socket")), 0);
	if (!has_landlock)
		return;
	CHECK_INT(in_sandbox(try_read, in(own, "file")), 0);
	CHECK_INT(in_sandbox(try_socket, in(own, "socket")), 0);
	CHECK_INT(in_sandbox(try_read, "/etc/passwd"), 0);
	CHECK_INT(in_sandbox(try_read, in(other, "file")), EACCES);
	CHECK_INT(in_sandbox(try_read, in(own, "link")), EACCES);
	CHECK_INT(in_sandbox(try_write, in(other, "file")), EACCES);
	CHECK_INT(in_sandbox(try_write, in(own, "file")), EACCES);
	CHECK_INT(in_sandbox(try_make, in(own, "new")), EACCES);
	CHECK_INT(in_sandbox(try_make, in(other, "new")), EACCES);
	CHECK_INT(in_sandbox(try_remove, in(other, "file")), EACCES);
	CHECK_INT(in_sandbox(try_socket, in(other, "socket")), EACCES);
	CHECK_INT(in_sandbox(try_write, "/etc/passwd"), EACCES);
}

/* A file that is to be read again, and its successor: by rename, and by links as Kubernetes has. */
static int replaced(const void *link)
{
	return try_read(link);
}

static int with_file(const char *path, int (*what)(const void *arg), const void *arg)
{
	struct sandbox_spec s = { .program = SANDBOX_RELAY };
	int r;

	sandbox_file(&s, path);
	r = run(&s, what, arg);
	sandbox_spec_deinit(&s);
	return r;
}

static void test_named_files(void)
{
	make_file(in(other, "successor"));
	CHECK_INT(with_file(in(other, "file"), replaced, in(other, "successor")), 0);
	/* where the link leads is readable too */
	CHECK_INT(with_file(in(own, "link"), replaced, in(own, "link")), 0);
	CHECK_INT(with_file(in(own, "link"), replaced, in(other, "successor")), 0);
	/* one that is not there yet does no harm */
	CHECK_INT(with_file(in(other, "none"), replaced, in(other, "none")), ENOENT);
	if (geteuid() == 0) { /* which only a capability makes readable: said at once */
		CHECK(chown(in(other, "successor"), 12345, 12345) == 0);
		CHECK_INT(with_file(in(other, "successor"), replaced, in(other, "file")), FAULT);
		/* nor its folder */
		CHECK(chown(other, 12345, 12345) == 0);
		CHECK_INT(with_file(in(other, "file"), replaced, in(own, "file")), FAULT);
		CHECK(chown(other, 0, 0) == 0);
	}
	unlink(in(other, "successor"));
}

/* resolv.conf leads to a folder that comes later, as systemd-resolved's may. */
static int comes_late(const void *path)
{
	while (access(in(own, "resolver/done"), F_OK) < 0)
		usleep(1000);
	return try_read(path);
}

static pid_t make_late(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid > 0)
		return pid;
	usleep(200000); /* too early is as good, but no test */
	if (mkdir(in(own, "resolver/late"), 0700) < 0)
		_exit(FAULT);
	make_file(in(own, "resolver/late/resolv.conf"));
	make_file(in(own, "resolver/done"));
	_exit(0);
}

static void test_resolver_conf(const char *link)
{
	struct sandbox_spec s = { .program = SANDBOX_TUNNEL };
	pid_t helper;
	int status;

	CHECK(mkdir(in(own, "resolver"), 0700) == 0 && symlink(link, resolver_conf) == 0);
	helper = make_late();
	CHECK_INT(run(&s, comes_late, resolver_conf), 0);
	CHECK(waitpid(helper, &status, 0) == helper && status == 0);
	if (has_landlock)
		CHECK_INT(run(&s, try_read, in(own, "file")), EACCES);
	CHECK(unlink(in(own, "resolver/done")) == 0 && unlink(resolver_conf) == 0);
	CHECK(unlink(in(own, "resolver/late/resolv.conf")) == 0);
	CHECK(rmdir(in(own, "resolver/late")) == 0 && rmdir(in(own, "resolver")) == 0);
	sandbox_spec_deinit(&s);
}

/* Somebody outside: when a socket is there, he removes it and its folder, and makes that again. */
static pid_t replace_folder(const char *folder, const char *socket)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid > 0)
		return pid;
	alarm(GRACE);
	while (unlink(socket) < 0)
		usleep(1000);
	if (rmdir(folder) < 0 || mkdir(folder, 0700) < 0)
		_exit(FAULT);
	make_file(in(own, "made-again"));
	_exit(0);
}

/* A folder is removed, made again, and used. */
static int comes_again(const void *path)
{
	if (make_socket(in(path, "first")) < 0)
		return FAULT;
	while (access(in(own, "made-again"), F_OK) < 0)
		usleep(1000);
	return try_socket(in(path, "second"));
}

static int make_folder_and_socket(const void *path)
{
	return mkdir(path, 0700) < 0 ? errno : try_socket(in(path, "s"));
}

static void test_moving_folders(void)
{
	struct sandbox_spec s = { .program = SANDBOX_BRIDGE };
	char vms[128];
	pid_t helper;
	int status;

	snprintf(vms, sizeof(vms), "%s/vms", own);
	sandbox_moving_folder(&s, vms, SANDBOX_SOCKETS);
	CHECK_INT(run(&s, make_folder_and_socket, vms), 0);
	helper = replace_folder(vms, in(vms, "first"));
	CHECK_INT(run(&s, comes_again, vms), 0);
	CHECK(waitpid(helper, &status, 0) == helper && status == 0);
	if (has_landlock)
		CHECK_INT(run(&s, try_socket, in(other, "s")), EACCES);
	CHECK(unlink(in(own, "made-again")) == 0 && rmdir(vms) == 0);
	sandbox_spec_deinit(&s);
}

/* ---- system calls, by the table ---- */

struct call {
	int number;
	long args[3];
};

/* Its errno, or 0. Arguments that no call takes, so that those which pass do no harm. */
static int try_call(const void *arg)
{
	const struct call *c = arg;

	if (syscall(c->number, c->args[0], c->args[1], c->args[2], -1, -1, -1) >= 0)
		return 0;
	return errno;
}

static int try_number(int number)
{
	const struct call c = { number, { -1, -1, -1 } };

	return in_sandbox(try_call, &c);
}

/* With these arguments they end or stray wherever they are allowed; the last two no filter sees. */
static bool is_strange(int number)
{
	static const int strange[] = { SYS_exit,	    SYS_exit_group, SYS_rt_sigreturn,
				       SYS_restart_syscall,
#ifdef __x86_64__
				       335 /* uretprobe */, 336 /* uprobe */
#endif
	};

	for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++)
		if (strange[i] == number)
			return true;
	return false;
}

/* Inside it answers as outside. */
static void check_passes(int number)
{
	const struct call c = { number, { -1, -1, -1 } };

	CHECK_INT(in_sandbox(try_call, &c), run(NULL, try_call, &c));
}

/* Which calls want certain arguments: -1 is not among them. */
static bool is_choosy(int number)
{
	static const int choosy[] = { SYS_socket, SYS_socketpair, SYS_ioctl, SYS_prctl, SYS_mmap,
				      SYS_mprotect };

	for (size_t i = 0; i < sizeof(choosy) / sizeof(choosy[0]); i++)
		if (choosy[i] == number)
			return true;
	return false;
}

static void test_calls(void)
{
	struct sandbox_spec s = spec();
	unsigned passed = 0, killed = 0, unknown = 0;

	for (int number = 0; number < CALLS; number++) {
		switch (sandbox_seccomp_verdict(&s, number)) {
		case SANDBOX_DEATH:
			CHECK_INT(try_number(number), -SIGSYS);
			killed++;
			break;
		case SANDBOX_UNKNOWN:
			if (!is_strange(number))
				CHECK_INT(try_number(number), ENOSYS);
			unknown++;
			break;
		case SANDBOX_PASS:
			passed++;
			if (!is_strange(number) && !is_choosy(number))
				check_passes(number);
			break;
		}
	}
	printf("%u calls pass, %u are death, %u are unknown\n", passed, killed, unknown);
	CHECK(passed > 60 && killed > 40 && unknown > 100);
	sandbox_spec_deinit(&s);
}

static void expect(int number, long a, long b, long c, int result)
{
	const struct call call = { number, { a, b, c } };

	CHECK_INT(in_sandbox(try_call, &call), result);
}

/* Rows whose arguments are looked at. */
static void test_arguments(void)
{
	const int wrx = PROT_READ | PROT_WRITE | PROT_EXEC;

	expect(SYS_socket, AF_UNIX, SOCK_STREAM, 0, 0);
	expect(SYS_socket, AF_INET, SOCK_STREAM, 0, 0);
	expect(SYS_socket, AF_NETLINK, SOCK_RAW, 0, 0);
	expect(SYS_socket, AF_NETLINK, SOCK_RAW, 9 /* audit */, ENOSYS);
	expect(SYS_socket, AF_PACKET, SOCK_RAW, 0, ENOSYS);
	expect(SYS_socket, AF_ALG, SOCK_SEQPACKET, 0, ENOSYS);
	expect(SYS_socketpair, AF_INET, SOCK_STREAM, 0, ENOSYS);
	expect(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, 0, ENOSYS);
	expect(SYS_mmap, 0, 4096, wrx, ENOSYS);
	expect(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, EINVAL); /* its flags are */
	if (SANITIZED)
		return; /* they are let pass there */
	expect(SYS_mprotect, (long)((uintptr_t)top & ~4095ul), 4096, PROT_READ | PROT_EXEC, ENOSYS);
	expect(SYS_clone, SIGCHLD, 0, 0, ENOSYS);
	expect(SYS_prctl, PR_SET_DUMPABLE, 1, 0, ENOSYS);
	expect(SYS_prctl, PR_SET_NAME, (long)(uintptr_t) "name", 0, 0);
}

#ifdef __x86_64__
static void *call_x32(void *arg)
{
	syscall(0x40000000 + SYS_getpid);
	return NULL;
}

/* Numbers of another kind of program: the end of all threads, and not of one. */
static int try_x32(const void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, call_x32, NULL) != 0)
		return FAULT;
	pthread_join(thread, NULL);
	return 0;
}
#endif

/* What a name server at fe80::1%eth0 wants. */
static int try_scope(const void *arg)
{
	char name[IF_NAMESIZE];

	return if_nametoindex("lo") && if_indextoname(1, name) ? 0 : FAULT;
}

static int try_execve(const void *arg)
{
	static char name[] = "true";
	char *const argv[] = { name, NULL };

	execve("/bin/true", argv, NULL);
	return errno;
}

static int try_mount(const void *arg)
{
	return syscall(SYS_mount, "none", other, "tmpfs", 0, NULL) < 0 ? errno : 0;
}

static int try_ptrace(const void *arg)
{
	return syscall(SYS_ptrace, PTRACE_ATTACH, getpid(), 0, 0) < 0 ? errno : 0;
}

static int try_fork(const void *arg)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid < 0 ? errno : 0;
}

static int try_signal(const void *pid)
{
	return syscall(SYS_tgkill, *(const pid_t *)pid, *(const pid_t *)pid, 0) < 0 ? errno : 0;
}

/* What who has taken a process over would do first, as he would do it. */
static void test_hostile(void)
{
	CHECK_INT(in_sandbox(try_mount, NULL), -SIGSYS);
#ifdef __x86_64__
	CHECK_INT(in_sandbox(try_x32, NULL), -SIGSYS);
#endif
	if (SANITIZED)
		return;
	CHECK_INT(in_sandbox(try_execve, NULL), -SIGSYS);
	CHECK_INT(in_sandbox(try_ptrace, NULL), -SIGSYS);
	CHECK_INT(in_sandbox(try_fork, NULL), ENOSYS);
}

static int run_true(const void *arg)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(try_execve(NULL));
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : FAULT;
}

static int try_bpf(const void *arg)
{
	return syscall(SYS_bpf, -1, NULL, 0) < 0 ? errno : 0;
}

/* A program that runs commands: they work, and are kept from the worst. */
static void test_commands(void)
{
	struct sandbox_spec s = { .program = SANDBOX_BRIDGE, .runs_commands = true };

	CHECK_INT(run(&s, run_true, NULL), 0);
	CHECK_INT(run(&s, try_make, in(own, "by-command")), 0);
	CHECK_INT(run(&s, try_bpf, NULL), -SIGSYS);
	unlink(in(own, "by-command"));
	sandbox_spec_deinit(&s);
}

static int try_namespace(const void *arg)
{
	const struct call *kind = arg;

	return syscall(SYS_setns, -1, kind->args[0]) < 0 ? errno : 0;
}

static void test_namespaces(void)
{
	struct sandbox_spec s = { .program = SANDBOX_BRIDGE };
	const struct call network = { 0, { CLONE_NEWNET } }, users = { 0, { CLONE_NEWUSER } };

	CHECK_INT(run(&s, try_namespace, &network), -SIGSYS);
	s.enters_namespaces = true;
	CHECK_INT(run(&s, try_namespace, &network), EBADF);
	CHECK_INT(run(&s, try_namespace, &users), ENOSYS);
	sandbox_spec_deinit(&s);
}

static void test_signals(void)
{
	const pid_t parent = getpid();

	CHECK_INT(run(NULL, try_signal, &parent), 0);
	CHECK_INT(in_sandbox(try_signal, &parent), EPERM);
}

/* Which version there is here; 0: none. */
static int probe_landlock(const void *arg)
{
	struct sandbox_spec s = { 0 };
	const char *what;
	int r;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	r = sandbox_landlock_enter(&s, &what);
	return r > 0 ? r : 0;
}

int main(void)
{
	int version;

	CHECK(mkdtemp(top));
	snprintf(own, sizeof(own), "%s/own", top);
	snprintf(other, sizeof(other), "%s/other", top);
	CHECK(mkdir(own, 0700) == 0 && mkdir(other, 0700) == 0);
	make_file(in(own, "file"));
	make_file(in(other, "file"));
	snprintf(resolver_conf, sizeof(resolver_conf), "%s/resolv.conf", own);
	CHECK(symlink(in(other, "file"), in(own, "link")) == 0);
	log_set_level(LOG_LEVEL_ERROR);
	version = run(NULL, probe_landlock, NULL);
	has_landlock = version > 0;
#ifdef HAVE_SECCOMP
	has_seccomp = true;
#endif
	printf("Landlock: %d, seccomp: %s\n", version, has_seccomp ? "yes" : "no");
	test_rights();
	test_files();
	test_named_files();
	test_moving_folders();
	test_resolver_conf("resolver/late/resolv.conf");
	test_resolver_conf(in(own, "resolver/late/resolv.conf"));
	if (version >= 6)
		test_signals();
	if (has_seccomp) {
		test_calls();
		test_arguments();
		CHECK_INT(in_sandbox(try_scope, NULL), run(NULL, try_scope, NULL));
		test_hostile();
		test_commands();
		test_namespaces();
	}
	unlink(in(own, "file"));
	unlink(in(own, "link"));
	unlink(in(other, "file"));
	rmdir(own);
	rmdir(other);
	rmdir(top);
	return 0;
}
