/*
 * doctor_host: who we are, the clock, what the kernel has.
 *
 * Theory of operation: /proc, a few harmless system calls, and /dev/vsock. Which user the daemon is
 * has to be seen from one that runs: its unit may be anybody's. No vsock address is ever connected
 * to here.
 */
#include "relay/doctor_host.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "relay/doctor.h"

#define CALL_LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_VERSION 1u

/* Up to size - 1 bytes of a small file, without a line end. False: it cannot be read. */
static bool read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return false;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return true;
}

/* ---- processes ---- */

/* Its first argument; a doctor is not what is looked for. */
static bool is_doctor(const char *pid)
{
	char path[64], line[512];
	const char *second;

	snprintf(path, sizeof(path), "/proc/%.20s/cmdline", pid);
	if (!read_text(path, line, sizeof(line)))
		return false;
	second = line + strlen(line) + 1;
	return second < line + sizeof(line) && strncmp(second, "doctor", sizeof("doctor")) == 0;
}

/* As status has it: the files themselves are root's, of a process that leaves no core dump. */
static bool user_of(const char *pid, uid_t *uid)
{
	char path[64], line[256];
	FILE *f;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%.20s/status", pid);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		unsigned real, effective;

		found = sscanf(line, "Uid: %u %u", &real, &effective) == 2;
		if (found)
			*uid = effective;
	}
	if (f)
		fclose(f);
	return found;
}

pid_t doctor_daemon(const char *program, uid_t *uid)
{
	DIR *all = opendir("/proc");
	struct dirent *e;
	pid_t found = 0;

	while (all && !found && (e = readdir(all))) {
		char path[64], name[64];

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
		/* the kernel keeps 15 characters of it */
		if (!read_text(path, name, sizeof(name)) || strncmp(name, program, 15) != 0 ||
		    is_doctor(e->d_name))
			continue;
		if (user_of(e->d_name, uid))
			found = (pid_t)atoi(e->d_name);
	}
	if (all)
		closedir(all);
	return found;
}

const char *doctor_process(pid_t pid, char *buf, size_t size)
{
	char path[64], name[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	snprintf(buf, size, "%s (pid %d)", read_text(path, name, sizeof(name)) ? name : "?",
		 (int)pid);
	return buf;
}

static const char *user_name(uid_t uid, char *buf, size_t size)
{
	const struct passwd *p = getpwuid(uid);

	snprintf(buf, size, "%s (uid %u)", p ? p->pw_name : "no name", (unsigned)uid);
	return buf;
}

void doctor_check_user(struct doctor *d, void *unused)
{
	char us[80], them[80];
	uid_t uid = 0;
	pid_t pid = doctor_daemon(d->program, &uid);

	user_name(geteuid(), us, sizeof(us));
	if (pid && uid != geteuid())
		doctor_warn(d,
			    "run this as that user, by sudo -u or in its unit: what files and "
			    "sockets allow is asked for another user here",
			    "this runs as %s, but %s (pid %d) as %s", us, d->program, (int)pid,
			    user_name(uid, them, sizeof(them)));
	else if (pid)
		doctor_ok(d, "%s, as the one that runs (pid %d)", us, (int)pid);
	else if (geteuid() == 0)
		doctor_warn(d,
			    "run this as the user that the daemon will be: root may do what "
			    "that user may not",
			    "this runs as root, and no %s runs to see which user it is",
			    d->program);
	else
		doctor_ok(d, "%s; no %s runs to compare it with", us, d->program);
}

/* ---- the clock ---- */

void doctor_check_clock(struct doctor *d, void *unused)
{
	struct timex t = { .modes = 0 };
	int state = adjtimex(&t);

	if (state < 0)
		doctor_warn(d, "look at timedatectl",
			    "the kernel does not tell whether it is kept "
			    "in step: %s",
			    strerror(errno));
	else if (state == TIME_ERROR || t.status & STA_UNSYNC)
		doctor_warn(d,
			    "start chronyd or systemd-timesyncd (timedatectl set-ntp true): "
			    "certificates are refused by a clock that is wrong",
			    "nothing keeps this machine's clock in step (STA_UNSYNC)");
	else
		doctor_ok(d, "kept in step, to %ld ms", t.maxerror / 1000);
}

/* ---- the kernel ---- */

void doctor_check_sandbox(struct doctor *d, void *unused)
{
	long landlock = syscall(CALL_LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_VERSION);
	bool seccomp = prctl(PR_GET_SECCOMP) >= 0;

#ifndef HAVE_SECCOMP
	doctor_warn(d, "build it with libseccomp", "this build has no system call filter");
	return;
#endif
	if (landlock < 0)
		doctor_warn(d,
			    "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in lsm= of "
			    "its command line",
			    "this kernel has no Landlock (%s): the daemon runs without limits to "
			    "the files it may reach",
			    strerror(errno));
	else if (!seccomp)
		doctor_warn(d, "a kernel with CONFIG_SECCOMP_FILTER",
			    "this kernel has no seccomp: the daemon runs without limits to its "
			    "system calls");
	else
		doctor_ok(d, "the kernel has Landlock (version %ld) and seccomp", landlock);
}

/* ---- vsock ---- */

/* The kernel's own word; it needs no connection. False: it does not say. */
static bool local_cid(unsigned *cid)
{
	int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int r = fd < 0 ? -1 : ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, cid);

	if (fd >= 0)
		close(fd);
	return r >= 0;
}

void doctor_check_vsock(struct doctor *d)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool host = access("/dev/vhost-vsock", F_OK) == 0;
	unsigned cid = VMADDR_CID_ANY;

	if (fd < 0) {
		doctor_wrong(d,
			     "modprobe vsock vhost_vsock (on a host of VMs), and name them in "
			     "/etc/modules-load.d",
			     "this kernel makes no vsock sockets: %s", strerror(errno));
		return;
	}
	close(fd);
	if (!local_cid(&cid))
		doctor_warn(d,
			    "modprobe vhost_vsock on a host of VMs; see that /dev/vsock is "
			    "there and may be read",
			    "there are vsock sockets, but the local CID is not told: /dev/vsock: "
			    "%s",
			    strerror(errno));
	else if (cid == VMADDR_CID_ANY && !host)
		doctor_warn(d, "modprobe vhost_vsock: without it no VM of this machine has a vsock",
			    "there are vsock sockets, but no transport to VMs");
	else
		doctor_ok(d, "local CID %u%s", cid,
			  host ? ", vhost_vsock is loaded: VMs reach this machine"
			       : "; no vhost_vsock: this is a guest, or has other transports");
}
