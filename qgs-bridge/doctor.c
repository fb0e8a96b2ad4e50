/*
 * doctor: `qgs-bridge doctor`.
 *
 * Theory of operation: the daemon's options make the daemon's config; then QGS, the listeners, what
 * on the node lets VMs reach them or does not, and the relay are looked at. QGS is connected to as
 * the daemon's probe does, and nothing is ever sent to it: a request would take one of its turns,
 * and a broken one hangs it. Nobody connects to CID 2 here: on a host inside a VM it would be
 * another machine.
 */
#include "qgs-bridge/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "config/bridge.h"
#include "qgs-bridge/doctor_node.h"
#include "qgs-bridge/options.h"
#include "relay/doctor.h"
#include "relay/doctor_certificate.h"
#include "relay/doctor_command.h"
#include "relay/doctor_dial.h"
#include "relay/doctor_host.h"
#include "relay/doctor_listen.h"
#include "tunnel/doctor_relay.h"

#define TEXT_MAX 512

/* ---- the machine ---- */

static void check_tdx(struct doctor *d, void *unused)
{
	doctor_node_tdx(d);
}

static void check_vsock(struct doctor *d, void *config)
{
	const struct bridge_config *c = config;
	bool needed = c->qgs.address.kind == ADDRESS_VSOCK;

	for (size_t i = 0; i < c->n_listeners; i++)
		needed |= c->listeners[i].address.kind == ADDRESS_VSOCK;
	if (needed)
		doctor_check_vsock(d);
}

/* ---- QGS ---- */

/* False: it is not there, and that was said. */
static bool check_qgs_path(struct doctor *d, const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		doctor_wrong(d,
			     errno == EACCES ? "make the daemon's user a member of QGS' group "
					       "(SupplementaryGroups=qgsd in its unit)"
					     : "start QGS (systemctl start qgsd); if it listens "
					       "elsewhere, name that (--qgs)",
			     "QGS' socket %s: %s", path, strerror(errno));
		return false;
	}
	if (!S_ISSOCK(st.st_mode)) {
		doctor_wrong(d, "correct qgs.address", "%s is no socket", path);
		return false;
	}
	if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0) {
		doctor_wrong(d,
			     "make the daemon's user a member of the socket's group "
			     "(SupplementaryGroups=qgsd in its unit)",
			     "this user may not connect to QGS' socket %s (uid %u, gid %u, mode "
			     "%04o)",
			     path, (unsigned)st.st_uid, (unsigned)st.st_gid,
			     (unsigned)st.st_mode & 07777);
		return false;
	}
	if (st.st_mode & S_IWOTH)
		doctor_warn(d, "let only the bridge's group in: chmod 660 it (UMask= in QGS' unit)",
			    "any process may go to QGS past the bridge: its socket's mode is %04o",
			    (unsigned)st.st_mode & 07777);
	return true;
}

/* QGS takes connections even if it answers no more; how many it has may tell. */
static void check_qgs_load(struct doctor *d, const struct bridge_config *c)
{
	unsigned n;

	if (c->qgs.address.kind != ADDRESS_UNIX)
		return;
	n = doctor_listen_connections(c->qgs.address.name);
	if (n > c->qgs.in_flight)
		doctor_warn(d,
			    "if it stays so, QGS is stuck, or others than the bridge ask it: see "
			    "its log (journalctl -u qgsd), and restart it",
			    "QGS has %u connections, and qgs.in_flight is %llu", n,
			    (unsigned long long)c->qgs.in_flight);
}

static void check_qgs(struct doctor *d, void *config)
{
	const struct bridge_config *c = config;
	const struct address *a = &c->qgs.address;
	char where[ADDRESS_TEXT_MAX];

	doctor_about(d, "%s", address_format(a, where, sizeof(where)));
	if (a->kind == ADDRESS_VSOCK && a->cid == VMADDR_CID_HOST) {
		doctor_skip(d, "CID 2, which may be another machine and is not connected to here");
		return;
	}
	if (a->kind == ADDRESS_UNIX && a->name[0] == '/' && !check_qgs_path(d, a->name))
		return;
	check_qgs_load(d, c);
	doctor_target(d, a, c->timeouts.common.dial);
}

static void check_command(struct doctor *d, void *config)
{
	const struct bridge_config *c = config;

	if (!c->qgs.stuck_command.n)
		return;
	doctor_about(d, "%s", c->qgs.stuck_command.at[0]);
	if (faccessat(AT_FDCWD, c->qgs.stuck_command.at[0], X_OK, AT_EACCESS) < 0)
		doctor_wrong(d, "correct qgs.stuck_command", "it cannot be run: %s",
			     strerror(errno));
	else
		doctor_ok(d, "it is there; whether the daemon's user may do what it does is not "
			     "tried");
}

/* ---- listeners ---- */

/* One socket for each folder: only what is above the '*' can be looked at. */
static void check_pattern(struct doctor *d, const char *path)
{
	char folder[TEXT_MAX];
	size_t len = strcspn(path, "*");
	struct stat st;

	while (len > 1 && path[len - 1] != '/')
		len--;
	snprintf(folder, sizeof(folder), "%.*s", (int)(len > 1 ? len - 1 : len), path);
	if (stat(folder, &st) < 0)
		doctor_warn(d, "make it; it is waited for",
			    "the folder %s, in which VMs' folders appear, is not there: %s", folder,
			    strerror(errno));
	else if (faccessat(AT_FDCWD, folder, R_OK | X_OK, AT_EACCESS) < 0)
		doctor_wrong(d, "let the daemon's user list it",
			     "this user may not list the folder %s (mode %04o)", folder,
			     (unsigned)st.st_mode & 07777);
	else
		doctor_ok(d, "the folder %s is there; VMs' folders in it are found as they come",
			  folder);
}

/* A VMM's socket that we connect to: never here, for it takes one at a time. */
static void check_chardev(struct doctor *d, const struct address *a)
{
	struct stat st;

	if (stat(a->name, &st) < 0)
		doctor_warn(d, "start the VM; it is waited for", "no VMM listens there yet: %s",
			    strerror(errno));
	else if (faccessat(AT_FDCWD, a->name, W_OK, AT_EACCESS) < 0)
		doctor_wrong(d, "let the daemon's user connect to it",
			     "this user may not connect there (mode %04o)",
			     (unsigned)st.st_mode & 07777);
	else
		doctor_ok(d, "a VMM's socket is there");
}

static void check_open_folder(struct doctor *d, const char *path)
{
	char folder[TEXT_MAX], *slash;
	struct stat st;

	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	if (!slash || slash == folder)
		return;
	*slash = '\0';
	if (stat(folder, &st) == 0 && st.st_mode & S_IWOTH && !(st.st_mode & S_ISVTX))
		doctor_warn(d, "chmod o-w it",
			    "anybody may write to the folder %s (mode %04o), and put a socket of "
			    "his own there",
			    folder, (unsigned)st.st_mode & 07777);
}

static void check_listeners(struct doctor *d, void *config)
{
	const struct bridge_config *c = config;
	char where[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct entrance_config *e = &c->listeners[i];
		const struct doctor_place place = { .netns = e->netns,
						    .makes_folder = e->directory_mode };
		bool path = e->address.kind == ADDRESS_UNIX || e->address.kind == ADDRESS_HYBRID;

		doctor_about(d, "%s at %s", e->name,
			     address_format(&e->address, where, sizeof(where)));
		if (path && strchr(e->address.name, '*')) {
			check_pattern(d, e->address.name);
		} else if (path && e->socket == SOCKET_CONNECT) {
			check_chardev(d, &e->address);
		} else {
			if (path)
				check_open_folder(d, e->address.name);
			doctor_listen(d, &e->address, &place);
		}
	}
}

static void check_accounts(struct doctor *d, void *config)
{
	doctor_node_accounts(d, config);
}

static void check_selinux(struct doctor *d, void *config)
{
	doctor_node_selinux(d, config);
}

static void check_apparmor(struct doctor *d, void *config)
{
	doctor_node_apparmor(d, config);
}

static void check_libvirt(struct doctor *d, void *config)
{
	doctor_node_libvirt(d, config);
}

static void check_metrics(struct doctor *d, void *config)
{
	doctor_listen_own(d, &((const struct bridge_config *)config)->metrics);
}

static void check_admin(struct doctor *d, void *config)
{
	doctor_listen_own(d, &((const struct bridge_config *)config)->admin.address);
}

/* ---- the relay ---- */

static void check_relays(struct doctor *d, void *config)
{
	const struct bridge_config *c = config;
	const struct leg_config *leg = &c->relay;

	if (!leg->addresses.n)
		return;
	doctor_certificate_client(d, leg->certificate, leg->key);
	doctor_certificate_authorities(d, leg->ca_file);
	for (size_t i = 0; i < leg->addresses.n; i++) {
		const struct doctor_relay r = {
			.address = &leg->addresses.at[i],
			.server_name = leg->server_name,
			.ca_file = leg->ca_file,
			.certificate = leg->certificate,
			.key = leg->key,
			.dial_ms = c->timeouts.common.dial,
			.handshake_ms = c->timeouts.common.handshake,
			.connects = true,
		};

		doctor_check_relay(d, &r);
	}
}

static const struct doctor_check machine[] = { { "tdx", check_tdx }, { 0 } };

static const struct doctor_check checks[] = {
	{ "qgs", check_qgs },           { "stuck_command", check_command },
	{ "vsock", check_vsock },       { "listener", check_listeners },
	{ "accounts", check_accounts }, { "selinux", check_selinux },
	{ "apparmor", check_apparmor }, { "libvirt", check_libvirt },
	{ "metrics", check_metrics },   { "admin", check_admin },
	{ "relay", check_relays },      { 0 },
};

/* ---- the command ---- */

int doctor_bridge(int argc, char **argv)
{
	static const struct doctor_plan plan = {
		.program = "qgs-bridge", .machine = machine, .checks = checks, .first = "qgs"
	};
	struct config_errors errors = { 0 };
	struct doctor_case about = { .json = doctor_arguments(&argc, argv), .errors = &errors };
	struct bridge_options o = bridge_options_judge(argc, argv, &errors);
	int status = o.status;

	if (o.action == BRIDGE_DONE && o.status != BRIDGE_FAILED) {
		config_errors_print(&errors, stderr);
	} else {
		about.path = o.path;
		about.patient = o.config;
		status = doctor_examine(&plan, &about);
	}
	config_errors_deinit(&errors);
	bridge_config_unref(o.config);
	return status;
}
