/*
 * Who is asking: cgroup paths as real systems have them and as somebody might forge them; what is
 * believed of a process that is gone; labels; the VM's key and which fact it is made of.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

/* What the kernel would say, where a test cannot have it say so. */
static int fake_getsockopt(int fd, int level, int name, void *value, unsigned *len);
static int fake_open(const char *path, int flags, ...);
#define getsockopt fake_getsockopt
#define open fake_open
#include "qgs-bridge/who.c"
#undef getsockopt
#undef open

#include "tests/unit/check.h"

static const char *label; /* NULL: the kernel has none */
static size_t label_len;
static bool no_peerpidfd; /* as before Linux 6.5 */

static int fake_getsockopt(int fd, int level, int name, void *value, unsigned *len)
{
	if (name == SO_PEERPIDFD && no_peerpidfd) {
		errno = ENOPROTOOPT;
		return -1;
	}
	if (name != SO_PEERSEC)
		return getsockopt(fd, level, name, value, len);
	if (!label || label_len > *len) {
		errno = label ? ERANGE : ENOPROTOOPT;
		return -1;
	}
	memcpy(value, label, label_len);
	*len = (unsigned)label_len;
	return 0;
}

static pid_t dies_now; /* the moment that its cgroup is looked at, and its number is another's */

static int fake_open(const char *path, int flags, ...)
{
	static const char others[] = "0::/kubepods/pod1234/x\n";
	int fd;

	if (!dies_now)
		return open(path, flags);
	CHECK_INT(kill(dies_now, SIGKILL), 0);
	CHECK_INT(waitpid(dies_now, NULL, 0), dies_now);
	fd = memfd_create("cgroup", MFD_CLOEXEC);
	CHECK_INT(write(fd, others, sizeof(others) - 1), sizeof(others) - 1);
	CHECK_INT(lseek(fd, 0, SEEK_SET), 0);
	dies_now = 0;
	return fd;
}

/* --- cgroups --- */

#define UID "0b6ac7c7-2b1c-4b2e-9f0a-5f6f2f3f4f5f"
#define UID_ "0b6ac7c7_2b1c_4b2e_9f0a_5f6f2f3f4f5f"
#define OTHER "11111111-2222-3333-4444-555555555555"
#define OTHER_ "11111111_2222_3333_4444_555555555555"
#define CRI "/cri-containerd-8d1f.scope"
#define BURSTABLE "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" UID_ ".slice"
#define LONG32 "aaaaaaaabbbbbbbbccccccccdddddddd"

static const struct cgroup {
	const char *text, *pod, *domain;
} cgroups[] = {
	/* Kubernetes, systemd driver: v2, v1, each class; static pods have a hash for a uid */
	{ "0::" BURSTABLE CRI "\n", UID, "" },
	{ "0::/kubepods.slice/kubepods-pod" UID_ ".slice/crio-8d1f.scope\n", UID, "" },
	{ "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" LONG32
	  ".slice/crio-8d1f.scope/container\n",
	  LONG32, "" },
	{ "12:pids:" BURSTABLE CRI "\n11:cpu,cpuacct:" BURSTABLE CRI "\n0::/\n", UID, "" },
	{ "12:pids:/\n1:name=systemd:" BURSTABLE CRI "\n", UID, "" },
	/* a runtime that was told of another driver than the kubelet */
	{ "0::/system.slice/containerd.service/kubepods-burstable-pod" UID_
	  ".slice:cri-containerd:8d1f\n",
	  UID, "" },
	/* cgroupfs driver */
	{ "0::/kubepods/burstable/pod" UID "/8d1f\n", UID, "" },
	{ "0::/kubepods/pod" UID "/8d1f\n", UID, "" },
	{ "9:memory:/kubepods/besteffort/pod" UID "/8d1f/sub\n", UID, "" },
	/* nested: kind with either driver, k3s in a service, rootful podman's kind */
	{ "0::/system.slice/docker-77.scope/kubelet.slice/kubelet-kubepods.slice/"
	  "kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" UID_ ".slice" CRI "\n",
	  UID, "" },
	{ "0::/docker/77/kubelet/kubepods/burstable/pod" UID "/8d1f\n", UID, "" },
	{ "0::/system.slice/k3s.service/kubepods/pod" UID "/8d1f\n", UID, "" },
	{ "0::/machine.slice/libpod-77.scope/container/kubelet.slice/kubelet-kubepods.slice/"
	  "kubelet-kubepods-pod" UID_ ".slice" CRI "\n",
	  UID, "" },
	/* seen from inside of a container: the outer part is not there */
	{ "0::/../../kubepods-besteffort.slice/kubepods-besteffort-pod" UID_ ".slice" CRI "\n", UID,
	  "" },
	{ "0::/../kubepods-burstable-pod" UID_ ".slice" CRI "\n", UID, "" },
	{ "0::/../../kubelet.slice/kubelet-kubepods-pod" UID_ ".slice" CRI "\n", UID, "" },
	{ "0::/../../pod" UID "/8d1f\n", "", "" },
	/* KubeVirt: a domain of its own cgroup inside of a pod's is the pod's */
	{ "0::" BURSTABLE CRI "/machine/qemu-1-guest.libvirt-qemu/emulator\n", UID, "" },

	/* what a container may make up below its own cgroup */
	{ "0::" BURSTABLE CRI "/kubepods-pod" OTHER_ ".slice/x\n", UID, "" },
	{ "0::" BURSTABLE CRI "/kubepods/pod" OTHER "/x\n", UID, "" },
	{ "0::" BURSTABLE CRI "/machine.slice/machine-qemu\\x2d1\\x2dother.scope\n", UID, "" },
	{ "0::/kubepods/burstable/evil/kubepods/pod" OTHER "\n", "", "" },
	{ "0::/../../pod" UID "/8d1f/kubepods/pod" OTHER "/x\n", "", "" },
	{ "0::/../cri-8d1f.scope/kubepods-pod" OTHER_ ".slice/x\n", "", "" },
	{ "0::/machine.slice/machine-qemu\\x2d1\\x2dguest.scope/kubepods/pod" OTHER "\n", "",
	  "guest" },
	{ "0::/machine.slice/libpod-7.scope/machine.slice/machine-qemu\\x2d1\\x2dother.scope\n",
	  "", "" },
	{ "0::/user.slice/machine.slice/machine-qemu\\x2d1\\x2dother.scope\n", "", "" },
	{ "0::/..kubepods-pod" OTHER_ ".slice/x\n", "", "" },
	{ "0::/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod" OTHER_
	  ".slice/x\n", "", "" },
	{ "0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod" OTHER "\n", "", "" },

	/* no pods */
	{ "0::/\n", "", "" },
	{ "0::/user.slice/user-1000.slice/session-1.scope\n", "", "" },
	{ "0::/kubepods.slice/kubepods-burstable.slice\n", "", "" },
	{ "0::/kubepods/burstable\n", "", "" },
	{ "0::/kubepods\n", "", "" },
	{ "0::/kubepods/burstable/pod\n", "", "" },
	{ "0::/kubepods/pod<b>/x\n", "", "" },
	{ "0::/kubepods.slice/kubepods-pod" UID_ "\n", "", "" },
	{ "0::/kubepods/pod" LONG32 LONG32 "/x\n", "", "" }, /* longer than any uid */
	{ "", "", "" },
	{ "\n\n::\n:\n0:\n", "", "" },
	{ "0::" BURSTABLE, "", "" }, /* cut off: it may have gone on */

	/* libvirt with systemd, its own folders below, partitions */
	{ "0::/machine.slice/machine-qemu\\x2d3\\x2dguest1.scope\n", "", "guest1" },
	{ "0::/machine.slice/machine-qemu\\x2d3\\x2dguest1.scope/libvirt/emulator\n", "",
	  "guest1" },
	{ "4:memory:/machine.slice/machine-qemu\\x2d3\\x2dguest1.scope\n", "", "guest1" },
	{ "0::/machine.slice/machine-qemu\\x2d12\\x2dweb\\x2d01\\x2deu.example.scope/libvirt\n", "",
	  "web-01-eu.example" },
	{ "0::/machine.slice/machine-prod.slice/machine-qemu\\x2d3\\x2dguest1.scope\n", "",
	  "guest1" },
	{ "0::/machine.slice/machine-ch\\x2d1\\x2dguest1.scope\n", "", "guest1" },
	{ "0::/../../machine.slice/machine-qemu\\x2d3\\x2dguest1.scope\n", "", "guest1" },
	/* without */
	{ "0::/machine/qemu-3-guest1.libvirt-qemu/emulator\n", "", "guest1" },
	{ "0::/machine/prod.partition/qemu-3-web-01.libvirt-qemu/vcpu0\n", "", "web-01" },
	{ "0::/machine/qemu-3-a.libvirt-b.libvirt-qemu\n", "", "a.libvirt-b" },
	/* for logs: no byte that could be taken for something else */
	{ "0::/machine.slice/machine-qemu\\x2d3\\x2da\\x0ab\\x00c\\x2fd e\\xzz.scope\n", "",
	  "a?b?c?d?e?xzz" },
	/* no domains */
	{ "0::/machine.slice/machine-lxc\\x2d3\\x2dguest1.scope\n", "", "" },
	{ "0::/machine.slice/machine-qemu\\x2d\\x2dguest1.scope\n", "", "" },
	{ "0::/machine.slice/machine-qemu\\x2d3.scope\n", "", "" },
	{ "0::/machine.slice\n", "", "" },
	{ "0::/machine.slice/a.slice/b.slice\n", "", "" },
	{ "0::/machine/qemu-3-guest1\n", "", "" },
	{ "0::/libvirt/machine/qemu-3-guest1.libvirt-qemu\n", "", "" },
};

static void test_cgroups(void)
{
	for (size_t i = 0; i < sizeof(cgroups) / sizeof(cgroups[0]); i++) {
		const struct cgroup *c = &cgroups[i];
		size_t len = strlen(c->text);
		char pod[WHO_POD_MAX] = "old", domain[WHO_DOMAIN_MAX] = "old";
		char *exact = malloc(len ? len : 1); /* a read behind it shows */

		CHECK(exact);
		memcpy(exact, c->text, len);
		who_read_cgroup(exact, len, pod, domain);
		free(exact);
		if (strcmp(pod, c->pod) != 0 || strcmp(domain, c->domain) != 0)
			fprintf(stderr, "of %s", c->text);
		CHECK_STR(pod, c->pod);
		CHECK_STR(domain, c->domain);
	}
}

static void test_long_domain(void)
{
	char text[512], name[300], pod[WHO_POD_MAX], domain[WHO_DOMAIN_MAX];
	int len;

	memset(name, 'n', sizeof(name) - 1);
	name[200] = '\0';
	len = snprintf(text, sizeof(text), "0::/machine/qemu-1-%s.libvirt-qemu\n", name);
	who_read_cgroup(text, (size_t)len, pod, domain);
	CHECK_INT(strlen(domain), WHO_DOMAIN_MAX - 1);
	name[sizeof(name) - 1] = '\0'; /* a component longer than a file's name may be */
	memset(name, 'n', sizeof(name) - 1);
	len = snprintf(text, sizeof(text), "0::/machine.slice/machine-qemu\\x2d1\\x2d%s.scope\n",
		       name);
	who_read_cgroup(text, (size_t)len, pod, domain);
	CHECK_STR(domain, "");
}

/* --- live peers --- */

static struct who_place here = { .own_netns = 7 };

/* As the acceptor tells it. */
static void ask(struct who *w, int fd)
{
	struct sockaddr_storage from = { .ss_family = AF_UNIX };
	struct peer peer;

	peer_of(&peer, fd, &from);
	who_of(w, fd, &peer, &here);
}

static int pair_of(int fd[2])
{
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	return fd[0];
}

static void test_own_process(void)
{
	char key[WHO_KEY_MAX], text[WHO_TEXT_MAX], expected[WHO_TEXT_MAX];
	struct who w;
	int fd[2];

	ask(&w, pair_of(fd));
	CHECK_INT(w.uid, getuid());
	CHECK_INT(w.gid, getgid());
	CHECK_STR(w.label, "");
	CHECK_STR(w.name, "");
	snprintf(key, sizeof(key), "pid:%d", (int)getpid());
	if (!w.pod[0] && !w.domain[0]) /* where the tests run may be a pod */
		CHECK_STR(w.vm, key);
	snprintf(expected, sizeof(expected), "%s (unix:pid=%d,uid=%d)", w.vm, (int)getpid(),
		 (int)getuid());
	CHECK_STR(who_format(&w, text, sizeof(text)), expected);
	close(fd[0]);
	close(fd[1]);
}

/* A cgroup that looks like a pod's, in whichever hierarchy lets us make one; "": none does. */
static const char *make_cgroup(void)
{
	static const char *const tops[] = { "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd",
					    "/sys/fs/cgroup" };
	static char path[256];

	for (size_t i = 0; i < sizeof(tops) / sizeof(tops[0]); i++) {
		struct stat st;

		snprintf(path, sizeof(path), "%s/cgroup.procs", tops[i]);
		if (stat(path, &st) < 0)
			continue;
		snprintf(path, sizeof(path), "%s/kubepods-pod%d_" UID_ ".slice", tops[i],
			 (int)getpid());
		if (mkdir(path, 0755) == 0)
			return path;
	}
	return "";
}

static void enter(const char *cgroup)
{
	char path[300];
	FILE *f;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	f = fopen(path, "w");
	if (!f || fprintf(f, "0\n") < 0 || fclose(f) != 0)
		_exit(1);
}

/* Somebody in that cgroup connects; says so by a byte, and lives until told otherwise. */
static pid_t somebody(int listener, const char *cgroup, int *hold, int *fd)
{
	struct sockaddr_un un;
	socklen_t len = sizeof(un);
	int control[2];
	pid_t pid;
	char byte;

	CHECK_INT(getsockname(listener, (struct sockaddr *)&un, &len), 0);
	pair_of(control);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		int s = socket(AF_UNIX, SOCK_STREAM, 0);

		close(control[0]);
		enter(cgroup);
		if (connect(s, (struct sockaddr *)&un, len) < 0)
			_exit(1);
		_exit(read(control[1], &byte, 1) < 0); /* until the other end is closed */
	}
	close(control[1]);
	*hold = control[0];
	*fd = accept(listener, NULL, NULL);
	CHECK(*fd >= 0);
	return pid;
}

static void ends(pid_t pid, int hold)
{
	int status;

	close(hold);
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
}

static void test_pod_of_a_process(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), hold, fd;
	const char *cgroup = make_cgroup();
	char uid[WHO_POD_MAX], expected[WHO_KEY_MAX];
	struct who w;

	snprintf(uid, sizeof(uid), "%d-" UID, (int)getpid());
	if (!cgroup[0]) {
		fprintf(stderr, "no cgroup can be made here: left out\n");
		close(listener);
		return;
	}
	CHECK_INT(bind(listener, (struct sockaddr *)&un, sizeof(sa_family_t)), 0); /* autobind */
	CHECK_INT(listen(listener, 8), 0);
	for (int old = 0; old < 2; old++) {
		pid_t pid = somebody(listener, cgroup, &hold, &fd);

		no_peerpidfd = old;
		ask(&w, fd);
		snprintf(expected, sizeof(expected), "pod:%s", uid);
		CHECK_STR(w.pod, uid);
		CHECK_STR(w.vm, expected);
		CHECK(!w.unsure);
		CHECK_INT(w.peer.a, pid);
		ends(pid, hold);
		/* gone, and its number free for others: nothing is believed */
		ask(&w, fd);
		CHECK_STR(w.pod, "");
		CHECK(w.unsure);
		CHECK_STR(w.vm, "pid:0"); /* with all of whom nothing can be said */
		CHECK_INT(w.uid, getuid());
		close(fd);
		/* the number is given to another while we ask */
		dies_now = somebody(listener, cgroup, &hold, &fd);
		ask(&w, fd);
		CHECK_INT(dies_now, 0);
		CHECK_STR(w.pod, "");
		close(hold);
		close(fd);
	}
	no_peerpidfd = false;
	CHECK_INT(rmdir(cgroup), 0);
	close(listener);
}

static void test_labels(void)
{
	static const struct {
		const char *text;
		bool taken;
	} labels[] = {
		{ "system_u:system_r:svirt_t:s0:c1,c22", true },
		{ "system_u:system_r:container_t:s0-s0:c0.c1023", true },
		{ "user_u:user_r:user_t", true },
		{ "unconfined", false }, /* AppArmor's */
		{ "libvirt-0b6ac7c7-2b1c-4b2e-9f0a-5f6f2f3f4f5f (enforce)", false },
		{ ":root//a:b:c", false },
		{ "a:b", false },
		{ "a::c", false },
		{ "a:b:", false },
		{ "a,b:c:d", false },
		{ "_", false },
		{ "", false },
	};
	char long_label[WHO_LABEL_MAX + 8];
	struct who w;
	int fd[2];

	pair_of(fd);
	for (size_t i = 0; i < sizeof(labels) / sizeof(labels[0]); i++)
		for (int nul = 0; nul < 2; nul++) { /* the kernel's text may end in one */
			label = labels[i].text;
			label_len = strlen(label) + (size_t)nul;
			ask(&w, fd[0]);
			CHECK_STR(w.label, labels[i].taken ? label : "");
		}
	memset(long_label, 'x', sizeof(long_label));
	memcpy(long_label, "a:b:", 4);
	label = long_label;
	for (label_len = WHO_LABEL_MAX - 1; label_len < WHO_LABEL_MAX + 2; label_len++) {
		ask(&w, fd[0]);
		CHECK_INT(strlen(w.label), label_len < WHO_LABEL_MAX ? label_len : 0);
	}
	label = NULL;
	close(fd[0]);
	close(fd[1]);
}

/* --- keys --- */

static void test_keys(void)
{
	struct peer vsock = { .family = AF_VSOCK, .a = 42, .b = 1025 };
	struct peer tcp = { .family = AF_INET, .ip = { 127, 0, 0, 1 }, .port = 9 };
	struct who_place place = { .port = 1080, .netns = 7, .own_netns = 7 };
	char text[WHO_TEXT_MAX];
	struct who w;

	who_of(&w, -1, &vsock, &place);
	CHECK_STR(w.vm, "cid:42");
	CHECK_INT(w.uid, UINT32_MAX);
	CHECK_INT(w.gid, UINT32_MAX);
	CHECK_INT(w.netns, 7);
	CHECK_STR(who_format(&w, text, sizeof(text)), "cid:42 (vsock:42:1025)");
	who_of(&w, -1, &tcp, &place);
	CHECK_STR(w.vm, "port:1080");
	place.netns = 4026531840;
	who_of(&w, -1, &vsock, &place);
	CHECK_STR(w.vm, "cid:42@4026531840");
	who_of(&w, -1, &tcp, &place);
	CHECK_STR(w.vm, "port:1080@4026531840");
	place.netns = 0;
	vsock.a = 2;
	who_of(&w, -1, &vsock, &place);
	CHECK_STR(w.vm, "cid:2");
	place.name = "vm-7";
	who_of(&w, -1, &vsock, &place);
	CHECK_STR(w.vm, "name:vm-7");
	CHECK_STR(w.name, "vm-7");
}

static void test_long_keys(void)
{
	struct peer vsock = { .family = AF_VSOCK, .a = 42 };
	char name[2][200], vm[3][WHO_KEY_MAX];
	struct who_place place = { .name = name[0] };
	struct who w;

	memset(name, 'n', sizeof(name));
	name[0][WHO_KEY_MAX - 1 - 5] = '\0'; /* "name:" and this just fit */
	who_of(&w, -1, &vsock, &place);
	CHECK_INT(strlen(w.vm), WHO_KEY_MAX - 1);
	CHECK(!strchr(w.vm, '~'));
	CHECK_STR(w.name, ""); /* half a name would be another's */
	for (int i = 0; i < 3; i++) { /* equal but for the very end; the third is the first again */
		place.name = name[i & 1];
		memset(name[i & 1], 'n', sizeof(name[0]));
		snprintf(name[i & 1] + 150, 8, "end-%d", i & 1);
		who_of(&w, -1, &vsock, &place);
		CHECK_INT(strlen(w.vm), WHO_KEY_MAX - 1);
		CHECK(strchr(w.vm, '~'));
		strcpy(vm[i], w.vm);
	}
	CHECK(strcmp(vm[0], vm[1]) != 0);
	CHECK_STR(vm[0], vm[2]);
	/* for ever: rules and dashboards know them */
	CHECK_STR(strchr(vm[0], '~'), "~e977d305d8ba84a2");
}

int main(void)
{
	test_cgroups();
	test_long_domain();
	test_own_process();
	test_pod_of_a_process();
	test_labels();
	test_keys();
	test_long_keys();
	return 0;
}
