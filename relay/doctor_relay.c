/*
 * doctor_relay: `attest-relay doctor`.
 *
 * Theory of operation: the config is loaded as the daemon does it; then the machine, the files, the
 * addresses to listen at and those to connect to are looked at in turn. Without a config only the
 * machine can be. Nobody's tunnel is used, and no client's door connected to.
 */
#include "relay/doctor_relay.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/authority.h"
#include "relay/doctor.h"
#include "relay/doctor_certificate.h"
#include "relay/doctor_command.h"
#include "relay/doctor_dial.h"
#include "relay/doctor_file.h"
#include "relay/doctor_host.h"
#include "relay/doctor_listen.h"
#include "relay/trust.h"

#define PROGRAM "attest-relay"
#define DESCRIPTORS_SPARE 512 /* as the daemon keeps them for itself */
#define PATH_TEXT 600

/* ---- the machine ---- */

/* Of the daemon that runs, or else of us. */
static uint64_t descriptors(struct doctor *d, pid_t *pid)
{
	unsigned long long soft, hard;
	char path[64], line[256];
	struct rlimit own = { 0 };
	uint64_t found = 0;
	uid_t uid;
	FILE *f;

	*pid = doctor_daemon(d->program, &uid);
	snprintf(path, sizeof(path), "/proc/%d/limits", (int)*pid);
	f = *pid ? fopen(path, "re") : NULL;
	while (f && !found && fgets(line, sizeof(line), f))
		if (sscanf(line, "Max open files %llu %llu", &soft, &hard) == 2)
			found = hard;
	if (f)
		fclose(f);
	if (found)
		return found;
	*pid = 0;
	getrlimit(RLIMIT_NOFILE, &own);
	return own.rlim_max;
}

static void check_descriptors(struct doctor *d, void *config)
{
	const struct relay_config *c = config;
	uint64_t needed = 2 * c->limits.connections + DESCRIPTORS_SPARE;
	pid_t pid;
	uint64_t has = descriptors(d, &pid);
	char advice[128];

	snprintf(advice, sizeof(advice), "raise LimitNOFILE= in the unit (ulimit -Hn) to %" PRIu64,
		 needed);
	if (has < needed)
		doctor_warn(d, advice,
			    "limits.connections is %" PRIu64 ", for which %" PRIu64
			    " descriptors are needed, but %s may open %" PRIu64,
			    c->limits.connections, needed, pid ? "the one that runs" : "this shell",
			    has);
	else
		doctor_ok(d, "%" PRIu64 " may be open, %" PRIu64 " are needed at most", has,
			  needed);
}

/* ---- files ---- */

static bool has_sni(const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].doors & DOOR_SNI)
			return true;
	return false;
}

static void check_certificate(struct doctor *d, void *config)
{
	const struct relay_config *c = config;

	if (!c->tls.certificate) {
		doctor_ok(d, "none: nothing here ends TLS");
		return;
	}
	doctor_certificate_server(d, c->tls.certificate, c->tls.key);
	doctor_certificate_names(d, c->tls.certificate, c->domain, has_sni(c));
}

static void check_trust(struct doctor *d, const struct listener_config *l)
{
	char *warning = NULL, *why = NULL;
	struct trust *t;
	bool late;

	doctor_check(d, "client_ca");
	doctor_about(d, "listener %s", l->name);
	if (!doctor_readable(d, l->client_ca) ||
	    (l->client_crl && !doctor_readable(d, l->client_crl)))
		return;
	late = doctor_authorities(d, l->client_ca) != DOCTOR_OK;
	t = trust_new(IDENTITY_CLIENT, l->client_ca, l->client_crl, &warning, &why);
	if (!t)
		doctor_wrong(d, "correct the file; openssl crl -in FILE -text shows a list", "%s",
			     why ? why : "out of memory");
	else if (warning)
		doctor_wrong(d, "have the CA write a new list, and put it there; then reload", "%s",
			     warning);
	else if (!late)
		doctor_ok(d, "%s%s can be used", l->client_ca,
			  l->client_crl ? ", with its revocation lists," : "");
	trust_unref(t);
	free(warning);
	free(why);
}

static void check_trusts(struct doctor *d, void *config)
{
	const struct relay_config *c = config;

	for (size_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].client_ca)
			check_trust(d, &c->listeners[i]);
}

/* The folder of codes: who may write there has certificates signed. */
static void check_folder(struct doctor *d, const char *folder)
{
	struct stat st;

	doctor_about(d, "%s", folder);
	if (stat(folder, &st) < 0 || !S_ISDIR(st.st_mode))
		doctor_wrong(d,
			     "make it, for the daemon's user, with mode 0700 (StateDirectory= "
			     "in the unit does)",
			     "the folder is not there: %s",
			     S_ISDIR(st.st_mode) ? strerror(errno) : "no folder of that name");
	else if (st.st_mode & (S_IWGRP | S_IWOTH))
		doctor_wrong(d, "chmod go-w it",
			     "others than its owner may write into the folder of codes (mode "
			     "%04o): they can have certificates signed",
			     (unsigned)st.st_mode & 07777);
	else if (faccessat(AT_FDCWD, folder, R_OK | W_OK | X_OK, AT_EACCESS) < 0)
		doctor_wrong(d, "chown it to the daemon's user",
			     "this user may not write there (uid %u, mode %04o): %s",
			     (unsigned)st.st_uid, (unsigned)st.st_mode & 07777, strerror(errno));
	else if (st.st_uid != geteuid() && geteuid() != 0)
		doctor_warn(d, "chown it to the daemon's user", "it is another user's (uid %u)",
			    (unsigned)st.st_uid);
	else
		doctor_ok(d, "the folder is there, and only its owner may write to it");
}

static void check_enrolment(struct doctor *d, void *config)
{
	const struct relay_config *c = config;
	const struct enrolment_config *e = &c->enrolment;
	struct authority *a;
	char *why = NULL, *crl;
	bool exposed;

	if (!e->ca)
		return;
	doctor_about(d, "%s", e->ca);
	a = authority_load(e->ca, e->key, &exposed, &why);
	if (!a)
		doctor_wrong(d, "attest-relay enroll init makes a CA", "%s",
			     why ? why : "out of memory");
	else if (doctor_authorities(d, e->ca) == DOCTOR_OK && doctor_secret(d, e->key))
		doctor_ok(d, "the CA for owners and its key can be used");
	authority_free(a);
	free(why);
	why = NULL;
	check_folder(d, e->folder);
	crl = authority_crl_path(c);
	if (crl && authority_crl_look(crl, &why) < 0)
		doctor_wrong(d,
			     "bring it back from a copy: without it what was revoked would be "
			     "good again",
			     "%s", why ? why : "the list of revoked certificates cannot be read");
	free(why);
	free(crl);
}

static void check_audit(struct doctor *d, void *config)
{
	const char *path = ((const struct relay_config *)config)->audit.file;
	char fault[PATH_TEXT];
	struct stat st;

	if (!path)
		return;
	doctor_about(d, "%s", path);
	if (stat(path, &st) == 0) {
		if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0)
			doctor_wrong(d, "let the daemon's user write to it",
				     "this user may not write to it: %s", strerror(errno));
		else
			doctor_ok(d, "it can be written to");
		return;
	}
	doctor_folder_fault(path, false, fault, sizeof(fault));
	if (*fault)
		doctor_wrong(d,
			     "make its folder, for the daemon's user (LogsDirectory= in the "
			     "unit does)",
			     "%s", fault);
	else
		doctor_ok(d, "it is not there yet, and can be made");
}

/* ---- addresses ---- */

static bool is_vsock(const struct relay_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].address.kind == ADDRESS_VSOCK)
			return true;
	for (size_t i = 0; i < c->n_services; i++)
		for (size_t k = 0; k < c->services[i].targets.n; k++)
			if (c->services[i].targets.at[k].kind == ADDRESS_VSOCK)
				return true;
	return false;
}

static void check_vsock(struct doctor *d, void *config)
{
	if (is_vsock(config))
		doctor_check_vsock(d);
}

static void check_listeners(struct doctor *d, void *config)
{
	const struct relay_config *c = config;
	char where[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct listener_config *l = &c->listeners[i];

		doctor_about(d, "%s at %s", l->name,
			     address_format(&l->address, where, sizeof(where)));
		doctor_listen(d, &l->address, NULL);
	}
}

static void check_metrics(struct doctor *d, void *config)
{
	doctor_listen_own(d, &((const struct relay_config *)config)->metrics);
}

static void check_admin(struct doctor *d, void *config)
{
	doctor_listen_own(d, &((const struct relay_config *)config)->admin.address);
}

static void check_targets(struct doctor *d, void *config)
{
	const struct relay_config *c = config;
	char where[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *s = &c->services[i];

		for (size_t k = 0; k < s->targets.n; k++) {
			const struct address *a = &s->targets.at[k];

			if (a->kind == ADDRESS_TUNNEL)
				continue;
			address_format(a, where, sizeof(where));
			doctor_check(d, "resolve");
			doctor_about(d, "%s at %s", s->name, where);
			if (!doctor_resolve(d, a))
				continue;
			doctor_check(d, "target");
			doctor_about(d, "%s at %s", s->name, where);
			doctor_target(d, a, c->timeouts.dial);
		}
	}
}

static const struct doctor_check checks[] = {
	{ "descriptors", check_descriptors },
	{ "certificate", check_certificate },
	{ "client_ca", check_trusts },
	{ "enrolment", check_enrolment },
	{ "audit", check_audit },
	{ "vsock", check_vsock },
	{ "listener", check_listeners },
	{ "metrics", check_metrics },
	{ "admin", check_admin },
	{ "target", check_targets },
	{ 0 },
};

/* ---- the command ---- */

/* The config's path; NULL: wrong usage, and that was said. */
static const char *read_arguments(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		/* the daemon's own, which mean nothing here */
		{ "no-sandbox", no_argument, NULL, 's' },
		{ "takeover", no_argument, NULL, 's' },
		{ "log-level", required_argument, NULL, 's' },
		{ 0 },
	};
	const char *path = NULL;
	int o;

	while ((o = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		if (o == 'c')
			path = optarg;
		else if (o == '?')
			path = NULL;
		if (o == '?')
			break;
	}
	if (path && optind == argc)
		return path;
	fputs("Usage: " PROGRAM " doctor --config FILE [--json]\n", stderr);
	return NULL;
}

int doctor_relay(int argc, char **argv)
{
	static const struct doctor_plan plan = { .program = PROGRAM,
						 .checks = checks,
						 .first = "listener" };
	struct config_errors errors = { 0 };
	struct doctor_case about = { .json = doctor_arguments(&argc, argv), .errors = &errors };
	struct relay_config *config;
	int status;

	about.path = read_arguments(argc, argv);
	if (!about.path)
		return DOCTOR_USAGE;
	config = relay_config_load(about.path, &errors);
	about.patient = config;
	status = doctor_examine(&plan, &about);
	config_errors_deinit(&errors);
	relay_config_unref(config);
	return status;
}
