/*
 * confine: qgs-bridge's sandbox: what a config will need for as long as the program runs.
 *
 * Theory of operation: sockets come and go with QGS and with VMs, in folders that do the same, so
 * the right to make them is for what is above those folders. A drop-in may name any folder: with
 * vms_dir sockets may be made anywhere; and network namespaces entered that ip-netns(8) has made.
 * All else stays forbidden.
 *
 * A sandbox is never widened. What a reload brings that does not fit fails where it is tried; what
 * would fail late and strangely is said at the reload.
 *
 * State: whether the sandbox was entered, and how wide it is. One for the process, as the sandbox.
 */
#include "qgs-bridge/confine.h"

#include <linux/capability.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/bridge.h"
#include "config/xalloc.h"
#include "qgs-bridge/options.h"
#include "relay/log.h"
#include "relay/sandbox.h"

#define NAMESPACES "/run/netns" /* ip-netns(8) mounts them there; links may lead to it */
#define BIT(capability) ((uint64_t)1 << (capability))

static struct {
	bool entered, runs_commands, enters_namespaces;
} in_effect;

/* The folder of a socket, or that above the component with the '*'. */
static char *place_of(const char *path)
{
	size_t len = strcspn(path, "*");

	while (len > 1 && path[len] != '/')
		len--;
	return xstrndup(path, len);
}

/* path: NULL, not known yet. What is mounted there comes and goes; its folder stays. */
static void add_namespace(struct sandbox_spec *s, const char *path)
{
	char *place = path ? place_of(path) : NULL;

	s->enters_namespaces = true;
	sandbox_folder(s, NAMESPACES, SANDBOX_READ);
	if (place)
		sandbox_folder(s, place, SANDBOX_READ);
	free(place);
}

static void add_entrance(struct sandbox_spec *s, const struct entrance_config *e)
{
	const struct address *a = &e->address;
	char *place;

	if (e->netns)
		add_namespace(s, e->netns);
	if ((a->kind != ADDRESS_UNIX && a->kind != ADDRESS_HYBRID) || a->name[0] != '/')
		return;
	place = place_of(a->name);
	sandbox_moving_folder(s, place, SANDBOX_SOCKETS | SANDBOX_LIST);
	sandbox_target(s, a);
	free(place);
}

static void add_all(struct sandbox_spec *s, const struct bridge_config *config)
{
	for (size_t i = 0; i < config->n_listeners; i++)
		add_entrance(s, &config->listeners[i]);
	if (config->vms_dir) {
		sandbox_moving_folder(s, config->vms_dir, SANDBOX_READ | SANDBOX_LIST);
		sandbox_folder(s, "/", SANDBOX_SOCKETS | SANDBOX_LIST);
		add_namespace(s, NULL);
	}
	sandbox_listener(s, &config->metrics);
	sandbox_listener(s, &config->admin.address);
	sandbox_target(s, &config->qgs.address);
	for (size_t i = 0; i < config->relay.addresses.n; i++)
		sandbox_target(s, &config->relay.addresses.at[i]);
	sandbox_file(s, config->relay.ca_file);
	sandbox_file(s, config->relay.certificate);
	sandbox_file(s, config->relay.key);
	sandbox_folder(s, "/proc", SANDBOX_READ); /* who connects: /proc/PID/cgroup */
	s->runs_commands = config->qgs.stuck_command.n;
	/* listeners are opened again and again, and reloads bring others */
	s->keep |= BIT(CAP_CHOWN) | BIT(CAP_NET_BIND_SERVICE);
	if (s->enters_namespaces)
		s->keep |= BIT(CAP_SYS_ADMIN);
	if (geteuid() != 0) /* root has it without having been given it */
		s->keep |= BIT(CAP_SYS_PTRACE);
}

bool confine(const struct bridge_options *o)
{
	struct sandbox_spec s = { .program = SANDBOX_BRIDGE };
	bool good;

	if (o->no_sandbox) {
		sandbox_stay_out();
		return true;
	}
	sandbox_file(&s, o->path);
	add_all(&s, o->config);
	good = sandbox_enter(&s);
	in_effect.entered = true;
	in_effect.runs_commands = s.runs_commands;
	in_effect.enters_namespaces = s.enters_namespaces;
	sandbox_spec_deinit(&s);
	return good;
}

void confine_check(const struct bridge_config *config)
{
	bool namespaces = config->vms_dir != NULL;

	for (size_t i = 0; i < config->n_listeners; i++)
		namespaces |= config->listeners[i].netns != NULL;
	if (!in_effect.entered)
		return;
	if (config->qgs.stuck_command.n && !in_effect.runs_commands)
		log_warning("qgs.stuck_command cannot be run: the sandbox was entered without it; "
			    "restart the program");
	if (namespaces && !in_effect.enters_namespaces)
		log_warning("other network namespaces cannot be entered: the sandbox was entered "
			    "without netns or vms_dir; restart the program");
}
