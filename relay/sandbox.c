/*
 * sandbox: what a program gives up for good once it has started: new privileges, capabilities, all
 * files but some, all system calls but some.
 *
 * Theory of operation: four locks, each of which the next one needs or should find closed:
 *
 *   no_new_privs   nothing that is executed gains rights; the kernel wants it for the next two
 *   capabilities   all go that the spec does not keep, the bounding and the ambient set with them
 *   files          Landlock (sandbox_landlock.h), if the kernel has it
 *   system calls   a seccomp filter (sandbox_seccomp.h), if this was built with libseccomp
 *
 * They are for the thread that enters and for those it makes later. What is missing is said, and
 * the program goes on: a sandbox is a second wall, and services have to run on old kernels too.
 *
 * But what would fail days later has to fail now: files that are to be read again are opened once
 * more from inside. That finds links into folders that nobody named, and files of others that
 * root could read by a capability.
 *
 * A program that runs commands cannot know what they need: they inherit all of it. It keeps its
 * files and capabilities, and the filter forbids only what no command has a use for.
 *
 * Owns the spec's paths. Limits: none of its own; the caller's config has them.
 */
#include "relay/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <openssl/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "config/address.h"
#include "config/xalloc.h"
#include "relay/log.h"
#include "relay/sandbox_landlock.h"
#include "relay/sandbox_seccomp.h"

#ifndef SANDBOX_RESOLVER_CONF /* a test has its own */
#define SANDBOX_RESOLVER_CONF "/etc/resolv.conf"
#endif
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BIT(capability) ((uint64_t)1 << (capability))

/* ---- the spec ---- */

static void add(struct sandbox_spec *s, char *path, unsigned access, enum sandbox_place place)
{
	s->paths = xreallocarray(s->paths, s->n_paths + 1, sizeof(*s->paths));
	s->paths[s->n_paths++] = (struct sandbox_path){ path, access, place };
}

/* Up to the last component; "." if there is but one. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return xstrdup(".");
	return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

void sandbox_file(struct sandbox_spec *s, const char *path)
{
	char *real = path ? realpath(path, NULL) : NULL;

	if (path) {
		add(s, folder_of(path), SANDBOX_READ, SANDBOX_HERE);
		add(s, xstrdup(path), SANDBOX_READ, SANDBOX_FILE);
	}
	if (real)
		add(s, folder_of(real), SANDBOX_READ, SANDBOX_HERE);
	free(real);
}

void sandbox_folder(struct sandbox_spec *s, const char *path, unsigned access)
{
	add(s, xstrdup(path), access, SANDBOX_NEAREST);
}

void sandbox_moving_folder(struct sandbox_spec *s, const char *path, unsigned access)
{
	char *above = folder_of(path);

	/* those at the top stay where they are */
	if (strcmp(above, "/") == 0)
		sandbox_folder(s, path, access);
	else
		sandbox_folder(s, above, access);
	free(above);
}

static bool is_path(const struct address *a)
{
	return (a->kind == ADDRESS_UNIX || a->kind == ADDRESS_HYBRID) && a->name[0] == '/';
}

void sandbox_listener(struct sandbox_spec *s, const struct address *a)
{
	if (is_path(a))
		add(s, folder_of(a->name), SANDBOX_SOCKETS, SANDBOX_NEAREST);
}

void sandbox_target(struct sandbox_spec *s, const struct address *a)
{
	if (is_path(a) && geteuid() == 0)
		s->keep |= BIT(CAP_DAC_OVERRIDE);
}

void sandbox_spec_deinit(struct sandbox_spec *s)
{
	for (size_t i = 0; i < s->n_paths; i++)
		free(s->paths[i].path);
	free(s->paths);
	s->paths = NULL;
	s->n_paths = 0;
}

/*
 * Where resolv.conf leads to. Who writes it may begin after us, and make its folder then: so that
 * nobody is without names for good, all that is above it may be read, but not at the top.
 */
static void add_resolver(struct sandbox_spec *s)
{
	char *at = realpath(SANDBOX_RESOLVER_CONF, NULL), *folder, *above, *real;
	char link[PATH_MAX];
	ssize_t n = -1;

	if (!at)
		n = readlink(SANDBOX_RESOLVER_CONF, link, sizeof(link) - 1);
	if (n > 0) {
		link[n] = '\0';
		folder = folder_of(SANDBOX_RESOLVER_CONF);
		at = *link == '/' ? xstrdup(link) : xasprintf("%s/%s", folder, link);
		free(folder);
	}
	if (!at)
		return;
	folder = folder_of(at);
	above = folder_of(folder);
	real = n > 0 ? realpath(above, NULL) : NULL;
	if (real && strcmp(real, "/") != 0)
		add(s, xstrdup(real), SANDBOX_READ, SANDBOX_HERE);
	add(s, folder, SANDBOX_READ, SANDBOX_HERE);
	free(real);
	free(above);
	free(at);
}

/* What libraries read, some of it late: names and addresses, time, CAs, users, modules of NSS. */
static void add_system(struct sandbox_spec *s)
{
	static const char *const folders[] = {
		/* all of it: resolv.conf may be replaced before the first name is looked up */
		"/etc",
		"/lib",
		"/lib64",
		"/usr/lib",
		"/usr/lib64",
		"/usr/local/share/ca-certificates",
		"/usr/share/ca-certificates",
		"/usr/share/zoneinfo",
		"/sys/devices/system/cpu",
		"/dev/null",
		"/dev/urandom",
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
		"/proc",
		"/usr/bin",
#endif
	};
	const char *cas[] = { X509_get_default_cert_dir(), X509_get_default_cert_file(),
			      getenv(X509_get_default_cert_dir_env()),
			      getenv(X509_get_default_cert_file_env()) };

	for (size_t i = 0; i < COUNT(folders); i++)
		add(s, xstrdup(folders[i]), SANDBOX_READ, SANDBOX_HERE);
	for (size_t i = 0; i < COUNT(cas); i++)
		if (cas[i])
			add(s, xstrdup(cas[i]), SANDBOX_READ, SANDBOX_HERE);
	add_resolver(s);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	add(s, xstrdup("/proc"), SANDBOX_LIST, SANDBOX_HERE);
#endif
	add(s, xstrdup("/run/systemd/userdb"), SANDBOX_LIST, SANDBOX_HERE);
}

/* ---- the locks ---- */

/* What is left of them, or UINT64_MAX: cannot tell. */
static uint64_t drop_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	uint64_t left;

	if (syscall(SYS_capget, &header, data) < 0)
		return UINT64_MAX;
	left = keep & (data[0].permitted | (uint64_t)data[1].permitted << 32);
	/* without CAP_SETPCAP it stays; no_new_privs makes it useless then too */
	for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (!(left & BIT(c)))
			prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	data[0] = (struct __user_cap_data_struct){ .effective = (uint32_t)left,
						   .permitted = (uint32_t)left };
	data[1] = (struct __user_cap_data_struct){ .effective = (uint32_t)(left >> 32),
						   .permitted = (uint32_t)(left >> 32) };
	return syscall(SYS_capset, &header, data) < 0 ? UINT64_MAX : left;
}

/* ---- saying so ---- */

static void add_text(char *text, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void add_text(char *text, size_t size, const char *fmt, ...)
{
	size_t len = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + len, size - len, fmt, ap);
	va_end(ap);
}

static void tell_capabilities(char *text, size_t size, uint64_t left)
{
	static const char *const names[] = {
		[CAP_CHOWN] = "chown",
		[CAP_DAC_OVERRIDE] = "dac_override",
		[CAP_NET_BIND_SERVICE] = "net_bind_service",
		[CAP_SYS_PTRACE] = "sys_ptrace",
		[CAP_SYS_ADMIN] = "sys_admin",
	};

	if (left == UINT64_MAX) {
		add_text(text, size, ", capabilities as they were: %s", strerror(errno));
		return;
	}
	add_text(text, size, left ? ", capabilities" : ", no capabilities");
	for (unsigned c = 0; c < 64; c++)
		if ((left & BIT(c)) && c < COUNT(names) && names[c])
			add_text(text, size, " %s", names[c]);
		else if (left & BIT(c))
			add_text(text, size, " %u", c);
}

static void tell_seccomp(char *text, size_t size, int n)
{
	if (n > 0)
		add_text(text, size, ", seccomp (%d calls)", n);
	else if (n == 0)
		add_text(text, size, ", seccomp (all but hostile calls)");
	else
		add_text(text, size, ", no seccomp (%s)",
			 n == -ENOSYS ? "built without it" : strerror(-n));
}

/* ---- entering ---- */

/* Of files that are to be read again. */
static bool still_readable(const struct sandbox_spec *s)
{
	bool good = true;

	for (size_t i = 0; i < s->n_paths; i++) {
		const struct sandbox_path *p = &s->paths[i];
		struct stat st;
		int fd;

		if (p->place != SANDBOX_FILE || (stat(p->path, &st) == 0 && !S_ISREG(st.st_mode)))
			continue; /* one that cannot even be looked at is tried, too */
		fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0) {
			close(fd);
		} else if (errno == EACCES || errno == EPERM) {
			log_error("sandbox: %s cannot be read any more: %s; make it readable to "
				  "this process's user without capabilities (owner, mode), or "
				  "start with --no-sandbox",
				  p->path, strerror(errno));
			good = false;
		}
	}
	return good;
}

/* False: there is none, though it was wanted. */
static bool enter_files(const struct sandbox_spec *s, char *text, size_t size)
{
	const char *what;
	int r;

	if (s->runs_commands) {
		add_text(text, size, ", no landlock (the command has to reach its files)");
		return true;
	}
	r = sandbox_landlock_enter(s, &what);
	if (r > 0)
		add_text(text, size, ", landlock ABI %d", r);
	else
		add_text(text, size, ", no landlock (%s: %s)", what, strerror(-r));
	return r > 0;
}

bool sandbox_enter(struct sandbox_spec *s)
{
	char text[512] = "no_new_privs";
	uint64_t left = 0;
	bool whole;
	int calls;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		log_warning("sandbox: there is none: no_new_privs: %s", strerror(errno));
		return true;
	}
	add_system(s);
	if (s->runs_commands) {
		add_text(text, sizeof(text), ", capabilities as they were");
	} else {
		left = drop_capabilities(s->keep);
		tell_capabilities(text, sizeof(text), left);
	}
	whole = enter_files(s, text, sizeof(text)) && left != UINT64_MAX;
	calls = sandbox_seccomp_enter(s);
	tell_seccomp(text, sizeof(text), calls);
	/* a wall that is missing is no news for those alone who want to hear everything */
	log_fields(whole && calls >= 0 ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, 0, 0, "sandbox: %s",
		   text);
	if (geteuid() == 0)
		log_warning("this program runs as root and need not: give it a user of its own, as "
			    "the systemd unit does");
	return still_readable(s);
}

void sandbox_stay_out(void)
{
	log_warning("--no-sandbox: whoever takes this process over has all that its user has; for "
		    "finding faults only");
}
