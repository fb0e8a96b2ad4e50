/*
 * sandbox_seccomp: which system calls the process may make from now on.
 *
 * Theory of operation: the rows of sandbox_calls.def become a filter, which the kernel runs before
 * each call of each thread. Three things can become of one:
 *
 *   passed    its row says CALL, and its arguments are those the row wants
 *   death     its row says HOSTILE: execve, ptrace, mount, bpf... No library makes them by itself;
 *             whoever does is not us any more, and an error would only tell him to try another
 *   ENOSYS    all others. Libraries grow new calls, and take ENOSYS for an old kernel, where they
 *             do it the old way; EPERM they would pass on as a failure. So a row that is missing
 *             costs an error and a line in the kernel's log, not a service that has run for a year
 *
 * Both of the last are in the kernel's log (type=1326, with the number of the call).
 *
 * Nothing that is not native is let in: calls of other architectures' numbers are death.
 */
#include "relay/sandbox_seccomp.h"

#include <errno.h>
#include <stdbool.h>

#include "relay/sandbox.h"

#ifdef HAVE_SECCOMP
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define SET_VMA 0x53564d41 /* linux/prctl.h, newer than some */

#define ALL (SANDBOX_RELAY | SANDBOX_TUNNEL | SANDBOX_BRIDGE)

enum when { EVER, UNLESS_COMMANDS };

/* What is wanted of the arguments. */
enum check {
	ANY,
	IOCTL,
	FAMILY,
	LOCAL,
	THREAD,	      /* no new process */
	NETWORK,      /* a network namespace, and no other kind */
	WRITE_OR_RUN, /* memory: not both */
	NO_RUN,	      /* memory: what was written is not made code */
	PRCTL,
};

/* One of those that do. */
static const struct alternative {
	enum check check;
	unsigned n;
	struct scmp_arg_cmp args[2];
} alternatives[] = {
	{ ANY, 0, { { 0 } } },
	{ IOCTL, 1, { SCMP_A1_32(SCMP_CMP_EQ, FIONREAD) } },
	{ IOCTL, 1, { SCMP_A1_32(SCMP_CMP_EQ, TCGETS) } },
	{ IOCTL, 1, { SCMP_A1_32(SCMP_CMP_EQ, SIOCGIFINDEX) } },
	{ IOCTL, 1, { SCMP_A1_32(SCMP_CMP_EQ, SIOCGIFNAME) } },
	{ FAMILY, 1, { SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX) } },
	{ FAMILY, 1, { SCMP_A0_32(SCMP_CMP_EQ, AF_INET) } },
	{ FAMILY, 1, { SCMP_A0_32(SCMP_CMP_EQ, AF_INET6) } },
	{ FAMILY, 1, { SCMP_A0_32(SCMP_CMP_EQ, AF_VSOCK) } },
	{ FAMILY,
	  2,
	  { SCMP_A0_32(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2_32(SCMP_CMP_EQ, NETLINK_ROUTE) } },
	{ LOCAL, 1, { SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX) } },
	{ THREAD, 1, { SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD) } },
	{ NETWORK, 1, { SCMP_A1_32(SCMP_CMP_EQ, CLONE_NEWNET) } },
	{ WRITE_OR_RUN, 1, { SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) } },
	{ WRITE_OR_RUN,
	  1,
	  { SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC | PROT_WRITE, PROT_EXEC) } },
	{ NO_RUN, 1, { SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) } },
	{ PRCTL, 1, { SCMP_A0_32(SCMP_CMP_EQ, PR_SET_NAME) } },
	{ PRCTL, 1, { SCMP_A0_32(SCMP_CMP_EQ, SET_VMA) } },
	{ PRCTL, 1, { SCMP_A0_32(SCMP_CMP_EQ, PR_CAPBSET_READ) } },
};

static const struct call {
	const char *name;
	unsigned whose; /* of enum sandbox_program */
	enum check check;
} calls[] = {
#define CALL(name, whose, check, why) { #name, whose, check },
#define HOSTILE(name, when, why)
#include "relay/sandbox_calls.def"
#undef CALL
#undef HOSTILE
};

static const struct hostile {
	const char *name;
	enum when when;
} hostile[] = {
#define CALL(name, whose, check, why)
#define HOSTILE(name, when, why) { #name, when },
#include "relay/sandbox_calls.def"
#undef CALL
#undef HOSTILE
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static unsigned who(const struct sandbox_spec *s)
{
	unsigned mask = s->program;

	if (s->enters_namespaces)
		mask |= SANDBOX_NAMESPACES;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	mask |= SANDBOX_SANITIZED;
#endif
	return mask;
}

/* Negative: this architecture, or this version of libseccomp, has none of this name. */
static int number_of(const char *name)
{
	return seccomp_syscall_resolve_name(name);
}

static bool passes(const struct sandbox_spec *s, int number)
{
	for (size_t i = 0; i < COUNT(calls); i++)
		if ((calls[i].whose & who(s)) && number_of(calls[i].name) == number)
			return true;
	return false;
}

static bool is_death(const struct sandbox_spec *s, int number)
{
	for (size_t i = 0; i < COUNT(hostile); i++)
		if (number_of(hostile[i].name) == number)
			return !passes(s, number) &&
			       (hostile[i].when == EVER || !s->runs_commands);
	return false;
}

enum sandbox_verdict sandbox_seccomp_verdict(const struct sandbox_spec *s, int number)
{
	if (is_death(s, number))
		return SANDBOX_DEATH;
	return s->runs_commands || passes(s, number) ? SANDBOX_PASS : SANDBOX_UNKNOWN;
}

static int let_pass(scmp_filter_ctx filter, int number, enum check check)
{
	int r = 0;

	for (size_t i = 0; i < COUNT(alternatives) && r == 0; i++)
		if (alternatives[i].check == check)
			r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number,
						   alternatives[i].n, alternatives[i].args);
	return r;
}

/* How many calls are let pass, or -errno. */
static int fill(scmp_filter_ctx filter, const struct sandbox_spec *s)
{
	int r = 0, n = 0;

	for (size_t i = 0; i < COUNT(hostile) && r == 0; i++) {
		int number = number_of(hostile[i].name);

		if (number >= 0 && is_death(s, number))
			r = seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS, number, 0, NULL);
	}
	for (size_t i = 0; i < COUNT(calls) && r == 0 && !s->runs_commands; i++) {
		int number = number_of(calls[i].name);

		if (number < 0 || !(calls[i].whose & who(s)))
			continue;
		r = let_pass(filter, number, calls[i].check);
		n++;
	}
	return r < 0 ? r : n;
}

int sandbox_seccomp_enter(const struct sandbox_spec *s)
{
	scmp_filter_ctx filter =
		seccomp_init(s->runs_commands ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(ENOSYS));
	int n, r;

	if (!filter)
		return -ENOMEM;
	/* kernels that cannot do one of these go without it */
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: few steps to any call */
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);      /* no strangers' code runs in here */
	/* of the whole process: without one of its threads it would only seem to work */
	seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	n = fill(filter, s);
	r = n < 0 ? n : seccomp_load(filter);
	seccomp_release(filter);
	return r < 0 ? r : n;
}

#else

int sandbox_seccomp_enter(const struct sandbox_spec *s)
{
	return -ENOSYS;
}

enum sandbox_verdict sandbox_seccomp_verdict(const struct sandbox_spec *s, int number)
{
	return SANDBOX_PASS;
}

#endif
