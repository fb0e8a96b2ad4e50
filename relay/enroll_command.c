/*
 * enroll_command: the operator's side of the enrolment.
 *
 * Theory of operation: works on the folder and the CA that the config names; the daemon needs not
 * run, and is told nothing: it looks into the folder whenever it is asked. What is made here must
 * be the daemon's to read and to move, so root becomes the user whom the folder, or the nearest
 * one above it that is there, belongs to; then no file has to be given away, and nothing that user
 * put into the folder is written through with root's rights. One of these rights stays: to look
 * into folders, for systemd keeps those of dynamic users below one that is root's alone.
 */
#include "relay/enroll_command.h"

#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "relay/atomic_file.h"
#include "relay/codes.h"
#include "relay/enroll_private.h"
#include "relay/issued.h"

#define CONFIG_PATH SYSCONFDIR "/attest-relay/relay.yaml" /* the unit's */

enum verb { VERB_NEW, VERB_INIT, VERB_LIST, VERB_REVOKE };

static bool is_another; /* root has become the folder's user */

bool enroll_complain(const char *fmt, ...)
{
	va_list args;

	fputs("attest-relay: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return false;
}

bool enroll_complain_why(const char *about, char *why)
{
	enroll_complain("%s%s%s", about, *about ? ": " : "", why ? why : "out of memory");
	free(why);
	return false;
}

/* ---- the folder ---- */

/* Cuts a path to the folder that it is in. False: there is none above. */
static bool cut(char *path)
{
	char *slash = strrchr(path, '/');

	if (!slash || !path[1])
		return false;
	slash[slash == path] = '\0';
	return true;
}

/* From root; what cannot be kept is gone without. */
static bool become(uid_t user, gid_t group)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { .effective = 1 << CAP_DAC_READ_SEARCH,
						    .permitted = 1 << CAP_DAC_READ_SEARCH } };

	is_another = true;
	prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (setgroups(0, NULL) < 0 || setgid(group) < 0 || setuid(user) < 0)
		return false;
	if (syscall(SYS_capset, &header, data) < 0) {
		data[0] = (struct __user_cap_data_struct){ 0 };
		return syscall(SYS_capset, &header, data) == 0;
	}
	return true;
}

static bool become_owner(const char *folder)
{
	char *path = strdup(folder);
	struct stat st;
	bool found = path;

	while (found && stat(path, &st) < 0)
		found = cut(path);
	if (!found || geteuid() != 0 || st.st_uid == 0) {
		free(path);
		return true;
	}
	if (!become(st.st_uid, st.st_gid))
		found = enroll_complain("cannot become the user of %s, whose id is %u: %s", path,
					(unsigned)st.st_uid, strerror(errno));
	free(path);
	return found;
}

/* A folder and all that is missing above it. */
static int make_folders(const char *folder)
{
	char *path;
	int r = 0;

	if (mkdir(folder, 0700) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT)
		return -errno;
	path = strdup(folder);
	if (!path || !cut(path))
		r = path ? -ENOENT : -ENOMEM;
	else
		r = make_folders(path);
	free(path);
	if (r == 0 && mkdir(folder, 0700) < 0 && errno != EEXIST)
		r = -errno;
	return r;
}

static bool prepare(const struct enroll_call *call)
{
	const char *folder = call->enrolment->folder;
	int r;

	if (!become_owner(folder))
		return false;
	r = make_folders(folder);
	if (r == 0)
		r = codes_prepare(folder);
	if (r == 0)
		r = issued_prepare(folder);
	if (r < 0)
		return enroll_complain("cannot use the folder %s as the user with the id %u: %s",
				       folder, (unsigned)geteuid(), strerror(-r));
	return true;
}

/* We could, as root did; but could the relay's user? */
static bool is_readable(const char *path)
{
	struct stat st;

	if (!is_another || stat(path, &st) < 0 || st.st_mode & S_IROTH ||
	    (st.st_uid == geteuid() && st.st_mode & S_IRUSR) ||
	    (st.st_gid == getegid() && st.st_mode & S_IRGRP))
		return true;
	return enroll_complain("%s: Permission denied for the user with the id %u, to whom the "
			       "folder of the enrolment belongs",
			       path, (unsigned)geteuid());
}

struct authority *enroll_load(const struct enroll_call *call)
{
	bool exposed;
	char *why;
	struct authority *a;

	if (!is_readable(call->enrolment->ca) || !is_readable(call->enrolment->key))
		return NULL;
	a = authority_load(call->enrolment->ca, call->enrolment->key, &exposed, &why);

	if (a && exposed)
		enroll_complain(
			"%s is a secret that other users of this machine can read: chmod 600 it",
			call->enrolment->key);
	if (!a) {
		enroll_complain_why("", why);
		fprintf(stderr, "If there is no CA yet: attest-relay enroll init --config %s\n",
			call->config_path);
	}
	return a;
}

/* ---- init ---- */

/* For what is to be made: false if something is there. (access(2) goes without capabilities.) */
static bool is_free(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0)
		return enroll_complain("%s is there already, and nothing is ever overwritten",
				       path);
	return errno == ENOENT || enroll_complain("cannot look for %s: %s", path, strerror(errno));
}

static int write_new(const char *path, const char *text, mode_t mode)
{
	char *folder = strdup(path);
	int r = folder && cut(folder) ? make_folders(folder) : 0;

	free(folder);
	if (r == 0)
		r = atomic_file_write(path, text, strlen(text), mode,
				      ATOMIC_FILE_NEW | ATOMIC_FILE_SYNC);
	if (r < 0)
		enroll_complain("cannot write %s as the user with the id %u: %s", path,
				(unsigned)geteuid(), strerror(-r));
	return r;
}

static bool write_ca(const struct enroll_call *call, const struct authority_made *made)
{
	const struct enrolment_config *e = call->enrolment;

	if (!is_free(e->key) || !is_free(e->ca) || write_new(e->key, made->key, 0600) < 0)
		return false;
	if (write_new(e->ca, made->certificate, 0644) == 0)
		return true;
	unlink(e->key); /* it was made just now, and is of no use */
	return false;
}

static bool init(const struct enroll_call *call)
{
	struct authority_made made;
	char name[64];
	bool good;

	/* a common name has 64 characters at most */
	snprintf(name, sizeof(name), "owners of %.50s",
		 call->config->domain ? call->config->domain : "attest-relay");
	if (authority_make(name, call->now, &made) < 0)
		return enroll_complain("libcrypto cannot make a CA");
	good = write_ca(call, &made);
	OPENSSL_cleanse(made.key, strlen(made.key));
	free(made.certificate);
	free(made.key);
	if (good)
		printf("made the CA %s,\nits key is %s, for the relay's user only\n\n"
		       "start the relay, then: attest-relay enroll --config %s OWNER\n",
		       call->enrolment->ca, call->enrolment->key, call->config_path);
	return good;
}

/* ---- a code ---- */

static bool is_wildcard(const struct address *a)
{
	return strcmp(a->name, "0.0.0.0") == 0 || strcmp(a->name, "::") == 0;
}

/* The address by which an owner reaches the relay, as far as the config knows it. */
static void print_relay(const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct address *a = &c->listeners[i].address;
		char text[ADDRESS_TEXT_MAX];

		if (!(c->listeners[i].doors & DOOR_TUNNEL))
			continue;
		if (a->kind == ADDRESS_TCP && c->domain)
			printf("tcp:%s:%u", c->domain, (unsigned)a->port);
		else if (a->kind == ADDRESS_TCP && !is_wildcard(a))
			printf("%s", address_format(a, text, sizeof(text)));
		else if (a->kind == ADDRESS_TCP)
			printf("tcp:RELAY:%u", (unsigned)a->port);
		else
			continue;
		return;
	}
	printf("tcp:RELAY:443");
}

static void print_code(const struct enroll_call *call, const struct codes_grant *grant,
		       const char *code)
{
	char text[CODES_TEXT], until[ISSUED_TIME];

	codes_show(code, text);
	printf("code for the owner %s, good once, until %s; it is not shown again:\n\n"
	       "    %s\n\n"
	       "the owner runs this, and types the code when asked:\n\n"
	       "    attest-tunnel enroll --relay ",
	       grant->owner, issued_time(grant->expires, until), text);
	print_relay(call->config);
	printf("\n\n(with --ca-file FILE, if it was no public CA that signed the relay's own "
	       "certificate)\n");
	OPENSSL_cleanse(text, sizeof(text));
}

static bool add_code(const struct enroll_call *call, const struct codes_grant *grant)
{
	char code[CODES_SIZE];
	int r = codes_new(code);

	if (r < 0)
		return enroll_complain("no random numbers to be had");
	r = codes_add(call->enrolment->folder, code, grant);
	if (r == 0)
		print_code(call, grant, code);
	OPENSSL_cleanse(code, sizeof(code));
	if (r == -EDQUOT)
		enroll_complain(
			"%d codes are pending already, which is the most there may be; they end "
			"by themselves, or by enroll revoke --owner",
			CODES_PENDING_MAX);
	else if (r < 0)
		enroll_complain("cannot keep the code in %s: %s", call->enrolment->folder,
				strerror(-r));
	return r == 0;
}

static bool new_code(const struct enroll_call *call)
{
	const struct owner_config *owner = relay_config_owner(call->config, call->owner);
	struct codes_grant grant = { .expires = call->now +
						(int64_t)(call->enrolment->code_valid / 1000) };
	struct authority *a;

	if (!owner)
		return enroll_complain("%s is no owner in %s; expected one of those under owners",
				       call->owner, call->config_path);
	if (!codes_is_label(call->label))
		return enroll_complain(
			"--label: expected text without control characters, at most %d "
			"bytes",
			CODES_LABEL_MAX - 1);
	a = enroll_load(call); /* before somebody is sent to a relay that cannot sign */
	authority_free(a);
	if (!a)
		return false;
	snprintf(grant.owner, sizeof(grant.owner), "%s", owner->name);
	snprintf(grant.label, sizeof(grant.label), "%s", call->label);
	codes_sweep(call->enrolment->folder, call->now, NULL);
	return add_code(call, &grant);
}

/* ---- the command line ---- */

static bool usage(const char *what)
{
	return enroll_complain("enroll: %s\nTry attest-relay --help.", what);
}

static bool read_options(struct enroll_call *call, int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "label", required_argument, NULL, 'l' },
		{ "owner", required_argument, NULL, 'o' },
		{ 0 },
	};
	int o;

	optind = 0;
	while ((o = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		if (o == 'c')
			call->config_path = optarg;
		else if (o == 'l')
			call->label = optarg;
		else if (o == 'o')
			call->owner = optarg;
		else
			return usage("unknown option");
	}
	call->serials = argv + optind;
	call->n_serials = argc - optind;
	return true;
}

/* What stands there fits the verb. */
static bool check(struct enroll_call *call, enum verb verb)
{
	if (verb == VERB_NEW && call->n_serials == 1 && !call->owner) {
		call->owner = call->serials[0];
		call->n_serials = 0;
	}
	if (verb == VERB_NEW && !call->owner)
		return usage("which owner?");
	if (verb == VERB_REVOKE && !call->owner == !call->n_serials)
		return usage("revoke takes either serials or --owner NAME");
	if (verb != VERB_REVOKE && call->n_serials)
		return usage("too many arguments");
	if (verb == VERB_INIT && call->owner)
		return usage("init is for all owners");
	if (verb != VERB_NEW && call->label)
		return usage("--label is for a new code");
	return true;
}

static bool run(struct enroll_call *call, enum verb verb)
{
	static bool (*const verbs[])(const struct enroll_call *call) = { [VERB_NEW] = new_code,
									 [VERB_INIT] = init,
									 [VERB_LIST] = enroll_list,
									 [VERB_REVOKE] =
										 enroll_revoke };

	call->enrolment = &call->config->enrolment;
	if (!call->enrolment->ca)
		return enroll_complain(
			"%s has no enrolment; expected ca and key under enrolment, see "
			"attest-relay.yaml(5)",
			call->config_path);
	if (!call->label)
		call->label = "";
	call->now = time(NULL);
	return prepare(call) && verbs[verb](call);
}

int enroll_command(int argc, char **argv)
{
	static const char *const names[] = {
		[VERB_INIT] = "init", [VERB_LIST] = "list", [VERB_REVOKE] = "revoke"
	};
	struct enroll_call call = { .config_path = CONFIG_PATH };
	enum verb verb = VERB_NEW;
	struct config_errors errors = { 0 };
	bool good;

	for (unsigned i = VERB_INIT; argc > 1 && i <= VERB_REVOKE; i++) {
		if (strcmp(argv[1], names[i]) == 0) {
			verb = i;
			argc--;
			argv++;
			break;
		}
	}
	if (!read_options(&call, argc, argv) || !check(&call, verb))
		return -1;
	call.config = relay_config_load(call.config_path, &errors);
	config_errors_print(&errors, stderr);
	config_errors_deinit(&errors);
	good = call.config && run(&call, verb);
	relay_config_unref(call.config);
	if (fflush(stdout) != 0)
		good = enroll_complain("cannot write: %s", strerror(errno));
	return good ? 0 : 1;
}
