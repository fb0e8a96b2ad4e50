/*
 * doctor_node: what else is on the node.
 *
 * Theory of operation: files of /sys, /etc and the user database are read; what is not there is no
 * fault unless the config needs it. SELinux is asked whether it knows a type by a context that it
 * is to check, which changes nothing.
 */
#include "qgs-bridge/doctor_node.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "config/bridge.h"
#include "relay/doctor.h"

#define PATH_TEXT 512
#define FILE_TEXT 65536
#define SELINUX "/sys/fs/selinux"
#define POLICY_CONTEXT "system_u:object_r:qgs_bridge_exec_t:s0"
#define HOOK "/etc/libvirt/hooks/qemu.d/qgs-bridge"

/* Up to size - 1 bytes. False: it cannot be read. */
static bool read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n >= 0;
}

/* Where the socket of a listener is, or would be; NULL: it is no path. */
static const char *path_of(const struct entrance_config *e)
{
	return (e->address.kind == ADDRESS_UNIX || e->address.kind == ADDRESS_HYBRID) &&
			       e->address.name[0] == '/'
		       ? e->address.name
		       : NULL;
}

/* The folder of a path, or that above the component with the '*'. */
static void folder_of(const char *path, char folder[PATH_TEXT])
{
	char copy[PATH_TEXT];

	snprintf(copy, sizeof(copy), "%.*s", (int)strcspn(path, "*"), path);
	if (copy[0] && copy[strlen(copy) - 1] == '/')
		copy[strlen(copy) - 1] = '\0';
	snprintf(folder, PATH_TEXT, "%s", strchr(path, '*') ? copy : dirname(copy));
}

/* ---- TDX ---- */

void doctor_node_tdx(struct doctor *d)
{
	char text[16];

	if (!read_text("/sys/module/kvm_intel/parameters/tdx", text, sizeof(text)))
		doctor_ok(d, "for information: this kernel's KVM has no TDX here");
	else
		doctor_ok(d, "for information: TDX is %s in KVM",
			  text[0] == 'Y' || text[0] == '1' ? "on" : "off");
}

/* ---- users and groups ---- */

static bool is_number(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text);
}

static bool may_give_to(gid_t gid)
{
	gid_t groups[256];
	int n = getgroups(256, groups);

	if (geteuid() == 0 || gid == getegid())
		return true;
	for (int i = 0; i < n; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

/* True: said something. */
static bool check_owner(struct doctor *d, const char *owner)
{
	const struct passwd *p = is_number(owner) ? NULL : getpwnam(owner);
	uid_t uid = p ? p->pw_uid : (uid_t)strtoul(owner, NULL, 10);

	if (!is_number(owner) && !p)
		doctor_wrong(d, "make it, or correct its name", "there is no user %s", owner);
	else if (uid != geteuid() && geteuid() != 0)
		doctor_warn(d, "give the daemon CAP_CHOWN (AmbientCapabilities= in its unit)",
			    "this user may not give a socket to the user %s", owner);
	else
		return false;
	return true;
}

static bool check_group(struct doctor *d, const char *group)
{
	const struct group *g = is_number(group) ? NULL : getgrnam(group);
	gid_t gid = g ? g->gr_gid : (gid_t)strtoul(group, NULL, 10);

	if (!is_number(group) && !g)
		doctor_wrong(d, "make it, or correct its name", "there is no group %s", group);
	else if (!may_give_to(gid))
		doctor_warn(d,
			    "make the daemon's user a member (SupplementaryGroups= in its "
			    "unit), or give it CAP_CHOWN",
			    "this user is no member of the group %s, and may not give a socket to "
			    "it",
			    group);
	else
		return false;
	return true;
}

void doctor_node_accounts(struct doctor *d, const struct bridge_config *c)
{
	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct entrance_config *e = &c->listeners[i];
		bool said = false;

		if (!e->owner && !e->group)
			continue;
		doctor_about(d, "%s", e->name);
		if (e->owner)
			said = check_owner(d, e->owner);
		if (e->group)
			said = check_group(d, e->group) || said;
		if (!said)
			doctor_ok(d, "user and group are there, and may be given the socket");
	}
}

/* ---- SELinux ---- */

/* Does the policy know the type? The kernel checks the context, and keeps nothing. */
static bool knows(const char *context)
{
	int fd = open(SELINUX "/context", O_RDWR | O_CLOEXEC);
	bool known = fd >= 0 && write(fd, context, strlen(context) + 1) > 0;

	if (fd >= 0)
		close(fd);
	return known;
}

static void check_label(struct doctor *d, const struct entrance_config *e)
{
	const char *path = path_of(e);
	char label[256];
	ssize_t n = path ? lgetxattr(path, "security.selinux", label, sizeof(label) - 1) : -1;

	if (n < 0)
		return; /* no file, or no labels there */
	label[n] = '\0';
	doctor_about(d, "%s", path);
	if (e->selinux && strcmp(label, e->selinux) != 0)
		doctor_wrong(d, "restart qgs-bridge, which labels it; restorecon would undo that",
			     "the socket's label is %s, and is to be %s", label, e->selinux);
	else
		doctor_ok(d, "the socket's label is %s", label);
}

void doctor_node_selinux(struct doctor *d, const struct bridge_config *c)
{
	char enforce[8];

	if (!read_text(SELINUX "/enforce", enforce, sizeof(enforce))) {
		doctor_ok(d, "this machine has no SELinux");
		return;
	}
	if (enforce[0] != '1')
		doctor_ok(d, "SELinux does not enforce");
	else if (knows(POLICY_CONTEXT))
		doctor_ok(d, "SELinux enforces, and the policy module qgs_bridge is loaded");
	else
		doctor_warn(d,
			    "load the module in contrib/selinux; in Kubernetes the DaemonSet "
			    "runs as spc_t and needs none",
			    "SELinux enforces, without the policy module qgs_bridge: VMs may not "
			    "be let to the socket");
	for (size_t i = 0; i < c->n_listeners; i++)
		check_label(d, &c->listeners[i]);
}

/* ---- AppArmor ---- */

static bool mentions(const char *file, const char *folder)
{
	static char text[FILE_TEXT];
	const char *short_form = strncmp(folder, "/run/", 5) == 0 ? folder + 4 : folder;

	return read_text(file, text, sizeof(text)) && strstr(text, short_form);
}

void doctor_node_apparmor(struct doctor *d, const struct bridge_config *c)
{
	static const char *const files[] = {
		"/etc/apparmor.d/abstractions/libvirt-qemu",
		"/etc/apparmor.d/local/abstractions/libvirt-qemu",
		"/etc/apparmor.d/abstractions/libvirt-qemu.d/qgs-bridge",
	};
	char enabled[8] = "";

	if (!read_text("/sys/module/apparmor/parameters/enabled", enabled, sizeof(enabled)) ||
	    enabled[0] != 'Y' || access(files[0], F_OK) < 0) {
		doctor_ok(d, "AppArmor does not confine libvirt's VMs here");
		return;
	}
	for (size_t i = 0; i < c->n_listeners; i++) {
		const char *path = path_of(&c->listeners[i]);
		char folder[PATH_TEXT];
		bool found = false;

		if (!path)
			continue;
		folder_of(path, folder);
		for (unsigned k = 0; k < sizeof(files) / sizeof(*files); k++)
			found = found || mentions(files[k], folder);
		doctor_about(d, "%s", path);
		if (found)
			doctor_ok(d, "libvirt's AppArmor profile names this folder");
		else
			doctor_warn(d,
				    "add a line \"<folder>/** rw,\" to "
				    "/etc/apparmor.d/local/abstractions/libvirt-qemu, if VMs are "
				    "denied it (dmesg)",
				    "libvirt's AppArmor profile does not name %s", folder);
	}
}

/* ---- libvirt ---- */

void doctor_node_libvirt(struct doctor *d, const struct bridge_config *c)
{
	struct stat st;

	if (!c->vms_dir)
		return;
	doctor_about(d, "%s", c->vms_dir);
	if (stat(c->vms_dir, &st) < 0)
		doctor_warn(d, "make it, for who writes drop-ins there",
			    "vms_dir is not there yet (it is waited for): %s", strerror(errno));
	else if (!S_ISDIR(st.st_mode) ||
		 faccessat(AT_FDCWD, c->vms_dir, R_OK | X_OK, AT_EACCESS) < 0)
		doctor_wrong(d, "chmod o+rx it, or give it to the daemon's group",
			     "this user may not list vms_dir (mode %04o)",
			     (unsigned)st.st_mode & 07777);
	else if (st.st_mode & S_IWOTH)
		doctor_wrong(d, "chmod o-w it",
			     "anybody may write to vms_dir, and so say where VMs' streams go");
	else
		doctor_ok(d, "vms_dir is there, and can be read");
	doctor_about(d, "%s", HOOK);
	if (access("/etc/libvirt", F_OK) < 0)
		return; /* somebody else writes the drop-ins */
	if (access(HOOK, F_OK) < 0)
		doctor_warn(d,
			    "install contrib/libvirt/hook there, and restart libvirtd, unless "
			    "something else writes the drop-ins",
			    "libvirt is here, without the hook that writes drop-ins");
	else if (stat(HOOK, &st) == 0 && !(st.st_mode & S_IXUSR))
		doctor_wrong(d, "chmod 755 it, and restart libvirtd",
			     "libvirt's hook is no executable");
	else
		doctor_ok(d, "libvirt's hook is installed");
}
