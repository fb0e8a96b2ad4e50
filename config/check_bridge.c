/*
 * check_bridge: what must hold between the values of qgs-bridge's files, beyond what tables say.
 *
 * Theory of operation: as in check.c. The main file and a drop-in have the same lists, so each list
 * is checked by a function that knows nothing of what is around it. What a flag may add or change
 * is asked again of the whole (check_bridge_run), once no node says any more where a thing stood:
 * then its line does.
 *
 * A key that has a default is there in the struct, whether the file has it or not. So what a
 * listener may not say is looked for in the file; and what it does not make, a file of its own, has
 * its default taken away: else a dump would say what no file may.
 *
 * The worst mistake in here is a key that restricts who may do what and is not in force: so what
 * cannot be (a mode without a file, a rule for a listener that is not there) is an error.
 */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "config/schema_bridge.h"
#include "config/xalloc.h"

/* ---- one listener by itself ---- */

bool check_entrance_makes_file(const struct entrance_config *l)
{
	if (l->socket != SOCKET_LISTEN)
		return false;
	return l->address.kind == ADDRESS_HYBRID ||
	       (l->address.kind == ADDRESS_UNIX && l->address.name[0] == '/');
}

static const char *path_wrong(const char *path, bool listens)
{
	size_t stars = 0;
	bool last = false;

	if (path[0] == '@')
		return strchr(path, '*')
			       ? "has '*', but an abstract name is in no folder; expected "
				 "a path, or no '*'"
			       : NULL;
	if (path[strlen(path) - 1] == '/')
		return "ends in '/'; expected the path of a socket";
	for (const char *at = path + 1;; at++) {
		size_t len = strcspn(at, "/");

		last = memchr(at, '*', len);
		stars += last;
		at += len;
		if (!*at)
			break;
	}
	if (stars > 1)
		return "has '*' in several places; expected it between two '/' only";
	if (last && listens)
		return "has '*' in its last part, where the socket itself is to be made; expected "
		       "it in the name of a folder, such as unix:/run/vms/*/qgs.socket";
	return NULL;
}

char *check_entrance_address(const struct entrance_config *l)
{
	const struct address *a = &l->address;
	bool listens = l->socket == SOCKET_LISTEN;
	char text[ADDRESS_TEXT_MAX];
	const char *wrong = NULL;

	if (a->kind == ADDRESS_TCP && !host_is_loopback(a->name))
		wrong = "is not on loopback, and TCP does not tell who calls; expected 127.0.0.1, "
			"[::1] or localhost";
	else if (a->kind == ADDRESS_VSOCK && a->cid == 0)
		wrong = "is the hypervisor's CID, which nobody listens at; expected any, host, "
			"local or a number";
	else if (a->kind == ADDRESS_UNIX || a->kind == ADDRESS_HYBRID)
		wrong = path_wrong(a->name, listens);
	if (!wrong && !listens && a->kind != ADDRESS_UNIX && a->kind != ADDRESS_HYBRID)
		wrong = "cannot be connected to for a guest; expected unix:/path or "
			"hybrid:/path:PORT, or socket: listen";
	return wrong ? xasprintf("%s %s", address_format(a, text, sizeof(text)), wrong) : NULL;
}

void check_entrance_settle(struct entrance_config *l)
{
	if (check_entrance_makes_file(l))
		return;
	free(l->mode);
	free(l->directory_mode);
	l->mode = l->directory_mode = NULL;
}

bool check_entrances_clash(const struct entrance_config *a, const struct entrance_config *b)
{
	/* Port 0 is another port each time; another namespace has ports of its own. */
	if (a->address.kind == ADDRESS_NONE ||
	    (a->address.kind == ADDRESS_TCP && a->address.port == 0))
		return false;
	return address_equal(&a->address, &b->address) &&
	       strcmp(a->netns ? a->netns : "", b->netns ? b->netns : "") == 0;
}

/* ---- listeners ---- */

/* Where key stands in entry, or else the entry. */
static const struct node *at_key(const struct node *entry, const char *key)
{
	const struct node *node = node_get(entry, key);

	return node ? node : entry;
}

static void check_file_keys(const struct source *s, const struct entrance_config *l,
			    const struct node *entry)
{
	static const char *const of_files[] = { "owner", "group", "mode", "directory_mode",
						"selinux" };
	char text[ADDRESS_TEXT_MAX];

	address_format(&l->address, text, sizeof(text));
	for (size_t i = 0; i < sizeof(of_files) / sizeof(of_files[0]); i++)
		if (!check_entrance_makes_file(l) && node_get(entry, of_files[i]))
			source_error(s, node_get(entry, of_files[i]),
				     "%s: %s makes no file that could have it; expected it left "
				     "out, or unix:/path or hybrid:/path:PORT with socket: listen",
				     of_files[i], text);
	if (l->netns && l->address.kind != ADDRESS_TCP && l->address.kind != ADDRESS_VSOCK)
		source_error(s, node_get(entry, "netns"),
			     "netns: %s is not in a network namespace; expected it left out, or a "
			     "tcp or vsock address",
			     text);
}

static void check_listener(const struct source *s, struct entrance_config *l,
			   const struct node *entry)
{
	char *wrong;

	if (l->address.kind == ADDRESS_NONE)
		return;
	wrong = check_entrance_address(l);
	if (wrong)
		source_error(s, at_key(entry, "address"), "address: %s", wrong);
	free(wrong);
	check_file_keys(s, l, entry);
	if (l->socket == SOCKET_CONNECT && !node_get(entry, "forward"))
		source_error(s, at_key(entry, "socket"),
			     "socket: connect without forward, but QGS takes one request from each "
			     "connection and a VMM's socket is one for good; expected forward: "
			     "service:SERVICE.OWNER or by-vm");
	check_entrance_settle(l);
}

/* Of few, as the table bounds them. */
static void check_unique(const struct source *s, const struct entrance_config *listeners, size_t i,
			 const struct node *entry)
{
	const struct entrance_config *l = &listeners[i];
	char text[ADDRESS_TEXT_MAX];

	for (size_t j = 0; j < i; j++)
		if (l->name && listeners[j].name && strcmp(l->name, listeners[j].name) == 0) {
			source_error(s, at_key(entry, "name"),
				     "name: %s is the name of the listener on line %d already; "
				     "expected another",
				     l->name, listeners[j].line);
			break;
		}
	for (size_t j = 0; j < i; j++)
		if (check_entrances_clash(l, &listeners[j])) {
			source_error(s, at_key(entry, "address"),
				     "address: %s is the address of the listener on line %d "
				     "already; expected another",
				     address_format(&l->address, text, sizeof(text)),
				     listeners[j].line);
			break;
		}
}

/* The first entry of a list, whose order is the struct's; NULL if it is none. */
static const struct node *entries_of(const struct node *root, const char *key)
{
	const struct node *list = node_get(root, key);

	return list && list->type == NODE_LIST ? list->first : NULL;
}

static void check_listeners(const struct source *s, struct entrance_config *listeners, size_t n,
			    const struct node *root)
{
	const struct node *entry = entries_of(root, "listeners");

	for (size_t i = 0; i < n; i++, entry = entry->next) {
		check_listener(s, &listeners[i], entry);
		check_unique(s, listeners, i, entry);
	}
}

/* ---- vms ---- */

/* 0 is any port; a value that was refused has its error already. */
static bool has_port(const struct node *entry)
{
	const struct node *port = node_get(entry, "port");

	return port && (port->type != NODE_SCALAR || strcmp(port->value, "0") != 0);
}

static void check_vms(const struct source *s, const struct vm_config *vms, size_t n,
		      const struct node *root)
{
	static const char *const keys[] = { "listener", "vm", "cid", "path" };
	const struct node *entry = entries_of(root, "vms");

	for (size_t i = 0; i < n; i++, entry = entry->next) {
		bool any = has_port(entry) || entry->type != NODE_MAP;

		for (size_t j = 0; j < sizeof(keys) / sizeof(keys[0]); j++)
			any |= node_get(entry, keys[j]) != NULL;
		if (!any)
			source_error(s, entry,
				     "vms: says nothing of the VM it is for; expected at least one "
				     "of listener, vm, cid, path and port beside service");
	}
}

/* ---- the rest of the main file ---- */

static void check_forwards(const struct source *s, const struct bridge_config *c,
			   const struct node *root)
{
	const struct node *entry = entries_of(root, "listeners");

	for (size_t i = 0; i < c->n_listeners; i++, entry = entry->next) {
		const char *forward = c->listeners[i].forward;

		if (forward && !c->relay.addresses.n)
			source_error(s, at_key(entry, "forward"),
				     "forward: %s, but there is no relay to forward to; expected "
				     "relay: {addresses: [\"tcp:HOST:443\"]}",
				     forward);
		if (forward && strcmp(forward, "by-vm") == 0 && !c->n_vms && !c->vms_dir)
			source_error(s, at_key(entry, "forward"),
				     "forward: by-vm, but nothing says which VM has which service; "
				     "expected entries under vms, or vms_dir: FOLDER");
	}
}

static void check_relay_leg(const struct source *s, const struct leg_config *leg,
			    const struct node *relay)
{
	bool certificate = node_get(relay, "certificate"), key = node_get(relay, "key");
	const struct node *addresses = node_get(relay, "addresses");
	char text[ADDRESS_TEXT_MAX];

	if (certificate != key)
		source_error(s, relay, "relay: %s without %s; expected both or neither",
			     certificate ? "certificate" : "key",
			     certificate ? "key" : "certificate");
	for (size_t i = 0; i < leg->addresses.n; i++)
		if (leg->addresses.at[i].kind == ADDRESS_UNIX && !node_get(relay, "server_name"))
			source_error(s, node_at(addresses, i),
				     "addresses: %s has no host name to verify its certificate by; "
				     "expected server_name: NAME beside it",
				     address_format(&leg->addresses.at[i], text, sizeof(text)));
	check_windows(s, leg->stream_window, leg->session_window, relay);
}

static void check_command(const struct source *s, const struct strings *command,
			  const struct node *root)
{
	const struct node *at = node_get(node_get(root, "qgs"), "stuck_command");

	if (command->n && command->at[0] && command->at[0][0] != '/')
		source_error(s, node_at(at, 0),
			     "stuck_command: %s is not the path of a program; expected its "
			     "absolute path first, since no shell looks for it",
			     command->at[0]);
}

/* What else listens: not where guests come in. */
static void check_own(const struct source *s, const struct bridge_config *c,
		      const struct node *root, const char *key, const struct address *address)
{
	struct entrance_config own = { .address = *address };
	char text[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < c->n_listeners; i++)
		if (check_entrances_clash(&own, &c->listeners[i])) {
			source_error(s, node_get(root, key),
				     "%s: %s is the address of the listener on line %d "
				     "already; expected another",
				     key, address_format(address, text, sizeof(text)),
				     c->listeners[i].line);
			return;
		}
}

void check_bridge(const struct source *s, struct bridge_config *c, const struct node *root,
		  bool clean)
{
	check_listeners(s, c->listeners, c->n_listeners, root);
	check_vms(s, c->vms, c->n_vms, root);
	check_relay_leg(s, &c->relay, node_get(root, "relay"));
	check_command(s, &c->qgs.stuck_command, root);
	check_own(s, c, root, "metrics", &c->metrics);
	check_own(s, c, root, "admin", &c->admin.address);
	check_admin(s, &c->admin, root);
	check_timeouts(s, &c->timeouts.common, root);
	if (clean)
		check_forwards(s, c, root);
}

void check_vm_file(const struct source *s, struct vm_file *f, const struct node *root)
{
	check_listeners(s, f->listeners, f->n_listeners, root);
	check_vms(s, f->vms, f->n_vms, root);
}

/* ---- what flags and files say together ---- */

/* Requests for QGS would come back to the bridge itself, over and over. */
static bool is_own_qgs(const struct entrance_config *l, const struct address *qgs)
{
	const char *path = l->address.name, *other = qgs->name;

	if (l->socket != SOCKET_LISTEN || l->address.kind != qgs->kind)
		return false;
	if (qgs->kind == ADDRESS_VSOCK)
		return !l->netns && l->address.port == qgs->port &&
		       (l->address.cid == UINT32_MAX || l->address.cid == qgs->cid);
	if (qgs->kind != ADDRESS_UNIX)
		return false;
	/* /var/run is /run */
	path += strncmp(path, "/var/run/", 9) == 0 ? 4 : 0;
	other += strncmp(other, "/var/run/", 9) == 0 ? 4 : 0;
	/* a '*' might stand for its folder, too */
	return strcmp(path, other) == 0 ||
	       (path[0] == '/' && strchr(path, '*') && fnmatch(path, other, FNM_PATHNAME) == 0);
}

/* "name:line:1", or the name alone of what a flag said. Returns buf. */
static const char *place(char *buf, size_t size, const char *name, int line)
{
	snprintf(buf, size, line > 0 ? "%s:%d:1" : "%s", name, line);
	return buf;
}

#define PLACE_MAX 512 /* a file's name may be longer: then it is cut */

static void check_own_qgs(const char *name, const struct bridge_config *c,
			  const struct entrance_config *l, struct config_errors *e)
{
	char text[ADDRESS_TEXT_MAX], at[PLACE_MAX];

	if (is_own_qgs(l, &c->qgs.address))
		config_errors_add(e,
				  "%s: the listener %s has the address of QGS itself, %s, so that "
				  "the bridge would ask itself; expected another, such as "
				  "unix:/run/qgs-bridge/qgs.socket",
				  place(at, sizeof(at), name, l->line), l->name,
				  address_format(&c->qgs.address, text, sizeof(text)));
}

/* There is one QGS; as part of a file's name it would be a mistake that nobody sees. */
static void check_qgs_address(const char *name, const struct address *a, struct config_errors *e)
{
	char text[ADDRESS_TEXT_MAX];

	if ((a->kind == ADDRESS_UNIX || a->kind == ADDRESS_HYBRID) && strchr(a->name, '*'))
		config_errors_add(e,
				  "%s: QGS's address, %s, has '*', which stands for many only in "
				  "listeners; expected the path of one socket",
				  name, address_format(a, text, sizeof(text)));
}

static void check_listener_named(const char *name, const struct bridge_config *c,
				 const char *pattern, int line, struct config_errors *e)
{
	char at[PLACE_MAX];

	/* Drop-ins may bring listeners of any name. */
	if (!pattern || c->vms_dir)
		return;
	for (size_t i = 0; i < c->n_listeners; i++)
		if (fnmatch(pattern, c->listeners[i].name, 0) == 0)
			return;
	config_errors_add(e, "%s: listener: there is no listener %s; expected the name of one",
			  place(at, sizeof(at), name, line), pattern);
}

void check_bridge_run(const char *name, const struct bridge_config *c, struct config_errors *e)
{
	if (!c->n_listeners && !c->vms_dir)
		config_errors_add(e,
				  "%s: no listener; expected --listen vsock:any:4050 or --listen "
				  "unix:/run/qgs-bridge/qgs.socket, or listeners: [{name: NAME, "
				  "address: ADDRESS}] in the config file",
				  name);
	check_qgs_address(name, &c->qgs.address, e);
	for (size_t i = 0; i < c->n_listeners; i++)
		check_own_qgs(name, c, &c->listeners[i], e);
	for (size_t i = 0; i < c->n_rules; i++)
		check_listener_named(name, c, c->rules[i].listener, c->rules[i].line, e);
	for (size_t i = 0; i < c->n_vms; i++)
		check_listener_named(name, c, c->vms[i].listener, c->vms[i].line, e);
}

/* ---- a drop-in beside the main file ---- */

static void check_beside(const char *name, const struct bridge_config *c,
			 const struct entrance_config *l, struct config_errors *e)
{
	char text[ADDRESS_TEXT_MAX], at[PLACE_MAX];

	place(at, sizeof(at), name, l->line);
	address_format(&l->address, text, sizeof(text));
	for (size_t i = 0; i < c->n_listeners; i++) {
		if (strcmp(l->name, c->listeners[i].name) == 0)
			config_errors_add(e,
					  "%s: name: %s is the name of a listener of the main file "
					  "already; expected another",
					  at, l->name);
		if (check_entrances_clash(l, &c->listeners[i]))
			config_errors_add(e,
					  "%s: address: %s is the address of the listener %s of "
					  "the main file already; expected another",
					  at, text, c->listeners[i].name);
	}
	if (l->forward && !c->relay.addresses.n)
		config_errors_add(e,
				  "%s: forward: %s, but the main file has no relay to forward to; "
				  "expected relay: {addresses: [\"tcp:HOST:443\"]} there",
				  at, l->forward);
	check_own_qgs(name, c, l, e);
}

void check_vm_file_run(const char *name, const struct vm_file *f, const struct bridge_config *c,
		       struct config_errors *e)
{
	for (size_t i = 0; i < f->n_listeners; i++)
		check_beside(name, c, &f->listeners[i], e);
}
