/*
 * check_admin: what must hold for the addresses at which a program is asked about itself.
 *
 * Theory of operation: what changes something is for who can be asked who he is, so for Unix
 * sockets alone; what only shows something is for this machine. No state.
 */
#include <stdlib.h>

#include "config/schema.h"

/* Who may open a path is said by its mode; by TCP nobody could be asked who he is. */
void check_admin(const struct source *s, const struct admin_config *a, const struct node *root)
{
	const struct node *admin = node_get(root, "admin"), *address = node_get(admin, "address");
	bool path = a->address.kind == ADDRESS_UNIX && a->address.name[0] == '/';

	if (a->address.kind == ADDRESS_TCP)
		source_error(s, address ? address : admin,
			     "admin: tcp, where nobody could be asked who he is; expected "
			     "unix:/path");
	if (a->address.kind == ADDRESS_UNIX && !path &&
	    (a->owner || a->group || node_get(admin, "mode")))
		source_error(s, admin,
			     "admin: owner, group and mode are those of a path; expected "
			     "unix:/path, or none of them: root and the process's user are let in");
	if (a->mode && strtoul(a->mode, NULL, 8) & 07)
		source_error(s, node_get(admin, "mode"),
			     "mode: %s lets everybody control this process; expected nothing for "
			     "others, such as \"0660\"",
			     a->mode);
}

/* It shows who is joined to what, to whoever can connect. */
void check_status(const struct source *s, const struct relay_config *c, const struct node *root)
{
	if (c->status.kind == ADDRESS_TCP && !host_is_loopback(c->status.name))
		source_error(s, node_get(root, "status"),
			     "status: this host can be reached from other machines, and nobody "
			     "is asked who he is; expected tcp:127.0.0.1:PORT, tcp:[::1]:PORT or "
			     "unix:/path");
}
