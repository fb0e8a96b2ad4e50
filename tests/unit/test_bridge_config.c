/* qgs-bridge's configs: defaults, every check with its place, flags, drop-ins, dumps that load. */
#include "config/bridge.h"
#include "config/scalar.h"
#include "config/schema_bridge.h"
#include "tests/unit/check.h"

#define LISTENER "listeners: [{name: a, address: 'unix:/run/q/q.socket'}]\n"
#define RELAY "relay: {addresses: ['tcp:relay.example.net:443']}\n"

static struct bridge_config *bridge(const char *text)
{
	struct config_errors e = { 0 };
	struct bridge_config *c = bridge_config_parse("b.yaml", text, strlen(text), &e);

	config_errors_print(&e, stderr);
	CHECK(c);
	CHECK_INT(e.n, 0);
	return c;
}

static void accepts(const char *text)
{
	bridge_config_unref(bridge(text));
}

/* Exactly this one error, which is freed. */
static void one_error(struct config_errors *e, const char *at, const char *what)
{
	if (e->n != 1 || strncmp(e->at[0], at, strlen(at)) != 0 || !strstr(e->at[0], what)) {
		fprintf(stderr, "expected one error at %s that says \"%s\":\n", at, what);
		config_errors_print(e, stderr);
		abort();
	}
	config_errors_deinit(e);
}

static void refuses(const char *text, const char *at, const char *what)
{
	struct config_errors e = { 0 };

	CHECK(!bridge_config_parse("b.yaml", text, strlen(text), &e));
	one_error(&e, at, what);
}

/* Loads, but cannot be run. */
static void run_refuses(const char *text, const char *at, const char *what)
{
	struct bridge_config *c = bridge(text);
	struct config_errors e = { 0 };

	CHECK_INT(bridge_config_check(c, "b.yaml", &e), -EINVAL);
	one_error(&e, at, what);
	bridge_config_unref(c);
}

static void run_accepts(const char *text)
{
	struct bridge_config *c = bridge(text);
	struct config_errors e = { 0 };

	CHECK_INT(bridge_config_check(c, "b.yaml", &e), 0);
	CHECK_INT(e.n, 0);
	bridge_config_unref(c);
}

static void check_defaults(const struct bridge_config *c)
{
	char text[ADDRESS_TEXT_MAX];

	CHECK_INT(c->log.level, CONFIG_LOG_INFO);
	CHECK_INT(c->metrics.kind, ADDRESS_NONE);
	CHECK_STR(address_format(&c->qgs.address, text, sizeof(text)),
		  "unix:/var/run/tdx-qgs/qgs.socket");
	CHECK_INT(c->qgs.framing, FRAMING_QGS);
	CHECK_INT(c->qgs.in_flight, 4);
	CHECK_INT(c->qgs.request_max, 4096);
	CHECK_INT(c->qgs.reply_max, 1 << 20);
	CHECK_INT(c->qgs.stuck_after, 25000);
	CHECK_INT(c->qgs.stuck_count, 3);
	CHECK_INT(c->qgs.stuck_command.n, 0);
	CHECK_INT(c->relay.addresses.n, 0);
	CHECK(!c->relay.server_name && !c->relay.ca_file && !c->relay.certificate && !c->relay.key);
	CHECK_INT(c->relay.connections, 2);
	CHECK_INT(c->relay.streams, 1024);
	CHECK_INT(c->relay.stream_window, 256 << 10);
	CHECK_INT(c->relay.session_window, 32 << 20);
	CHECK_INT(c->n_rules, 0);
	CHECK_INT(c->n_vms, 0);
	CHECK(!c->vms_dir);
	CHECK_INT(c->timeouts.request, 5000);
	CHECK_INT(c->timeouts.queue, 20000);
	CHECK_INT(c->timeouts.reply, 10000);
	CHECK_INT(c->timeouts.common.handshake, 10000);
	CHECK_INT(c->timeouts.common.pickup, 10000);
	CHECK_INT(c->timeouts.common.dial, 5000);
	CHECK_INT(c->timeouts.common.idle, 600000);
	CHECK_INT(c->timeouts.common.half_closed, 60000);
	CHECK_INT(c->timeouts.common.ping, 5000);
	CHECK_INT(c->timeouts.common.dead, 10000);
	CHECK_INT(c->timeouts.common.drain, 35000);
	CHECK_INT(c->limits.connections, 2048);
	CHECK_INT(c->limits.connections_per_vm, 128);
	CHECK_INT(c->limits.queue_per_vm, 64);
	CHECK_INT(c->limits.rate_per_vm, 100);
	CHECK_INT(c->limits.burst_per_vm, 200);
	CHECK_INT(c->limits.vms, 1024);
	CHECK_INT(c->limits.vm_labels, 256);
}

static void test_defaults(void)
{
	struct bridge_config *c = bridge_config_new();
	const struct entrance_config *l;

	check_defaults(c);
	CHECK_INT(c->n_listeners, 0);
	CHECK(bridge_config_ref(c) == c);
	CHECK(!bridge_config_unref(c));
	CHECK_INT(c->limits.vms, 1024); /* still there */
	CHECK(!bridge_config_unref(c));
	CHECK(!bridge_config_unref(NULL));
	c = bridge(LISTENER);
	check_defaults(c);
	CHECK_INT(c->n_listeners, 1);
	l = &c->listeners[0];
	CHECK_STR(l->name, "a");
	CHECK_STR(l->address.name, "/run/q/q.socket");
	CHECK_INT(l->socket, SOCKET_LISTEN);
	CHECK(!l->forward && !l->owner && !l->group && !l->selinux && !l->netns);
	CHECK_STR(l->mode, "0660");
	CHECK_STR(l->directory_mode, "0755");
	CHECK_INT(l->line, 1);
	bridge_config_unref(c);
}

static const char whole[] =
	"log: {level: debug, format: json, target: stderr}\n"
	"metrics: tcp:127.0.0.1:0\n"
	"listeners:\n"
	"- {name: vms, address: 'unix:/run/v*s/q', owner: 0, group: a.b@c, mode: 0600,\n"
	"   directory_mode: \"700\", selinux: 'a:b:c:s0:c1,c2'}\n"
	"- {name: h, address: 'hybrid:/run/*/v:4050', socket: listen}\n"
	"- {name: v, address: 'vsock:any:4050'}\n"
	"- {name: w, address: 'vsock:any:4050', netns: ns/pod}\n"
	"- {name: t, address: 'tcp:127.9.9.9:4050', forward: 'service:KBS.Acme', netns: /n}\n"
	"- {name: f, address: 'fd:x', forward: by-vm}\n"
	"- {name: s, address: 'unix:/run/x/com*', socket: connect, forward: by-vm}\n"
	"- {name: s2, address: 'hybrid:/run/x/v:7', socket: connect, forward: by-vm}\n"
	"- {name: s3, address: 'unix:@x', socket: connect, forward: by-vm}\n"
	"- {name: z1, address: 'tcp:localhost:0'}\n"
	"- {name: z2, address: 'tcp:localhost:0'}\n"
	"qgs: {address: 'vsock:local:9', framing: none, in_flight: 1, request_max: 1MiB,\n"
	"      stuck_command: [/bin/x, -y, 'z z']}\n"
	"relay: {addresses: ['tcp:r:1', 'unix:/r'], server_name: R.example, ca_file: ca,\n"
	"        certificate: /c, key: k, connections: 3}\n"
	"rules:\n"
	"- {action: deny, listener: 'v*', vm: 'cid:4?', cid: 40-49, uid: 107, gid: 0-4294967295,\n"
	"   pod: 'x*', domain: 'a b', label: '*:svirt_t:*'}\n"
	"- {action: allow}\n"
	"vms:\n"
	"- {listener: f, vm: 'domain:a b', cid: 42, path: /run/x/com1, port: 7, service: "
	"KBS.Acme}\n"
	"- {path: '@x', service: a.b}\n"
	"vms_dir: vms.d\n"
	"timeouts: {queue: 1s, drain: 0, dead: 6s}\n"
	"limits: {vm_labels: 0}\n";

static void test_values(void)
{
	struct config_errors e = { 0 };
	struct bridge_config *c = bridge_config_parse("/etc/b.yaml", whole, strlen(whole), &e);
	const struct rule_config *rule;
	const struct vm_config *vm;

	config_errors_print(&e, stderr);
	CHECK(c);
	CHECK_INT(c->n_listeners, 11);
	CHECK_STR(c->listeners[0].owner, "0");
	CHECK_STR(c->listeners[0].group, "a.b@c");
	CHECK_STR(c->listeners[0].mode, "0600");
	CHECK_STR(c->listeners[0].directory_mode, "700");
	CHECK_STR(c->listeners[0].selinux, "a:b:c:s0:c1,c2");
	CHECK_INT(c->listeners[0].line, 4);
	CHECK_STR(c->listeners[1].mode, "0660");
	CHECK(!c->listeners[2].mode && !c->listeners[2].directory_mode);
	CHECK_STR(c->listeners[3].netns, "/etc/ns/pod");
	CHECK_STR(c->listeners[4].forward, "service:kbs.acme");
	CHECK(!c->listeners[5].mode);
	CHECK_INT(c->listeners[6].socket, SOCKET_CONNECT);
	CHECK(!c->listeners[6].mode && !c->listeners[7].mode && !c->listeners[8].mode);
	CHECK_INT(c->qgs.framing, FRAMING_NONE);
	CHECK_INT(c->qgs.request_max, 1 << 20);
	CHECK_INT(c->qgs.stuck_command.n, 3);
	CHECK_STR(c->qgs.stuck_command.at[2], "z z");
	CHECK_STR(c->relay.server_name, "r.example");
	CHECK_STR(c->relay.ca_file, "/etc/ca");
	CHECK_STR(c->relay.certificate, "/c");
	CHECK_STR(c->relay.key, "/etc/k");
	rule = &c->rules[0];
	CHECK_INT(rule->action, RULE_DENY);
	CHECK_STR(rule->listener, "v*");
	CHECK_STR(rule->vm, "cid:4?");
	CHECK_STR(rule->gid, "0-4294967295");
	CHECK_INT(rule->line, 21);
	CHECK_INT(c->rules[1].action, RULE_ALLOW);
	CHECK(!c->rules[1].vm);
	vm = &c->vms[0];
	CHECK_INT(vm->port, 7);
	CHECK_STR(vm->service, "kbs.acme");
	CHECK_STR(vm->path, "/run/x/com1");
	CHECK_INT(c->vms[1].port, 0);
	CHECK_STR(c->vms_dir, "/etc/vms.d");
	CHECK_INT(c->timeouts.queue, 1000);
	CHECK_INT(c->timeouts.common.drain, 0);
	CHECK_INT(c->limits.vm_labels, 0);
	CHECK_INT(bridge_config_check(c, "b", &e), 0);
	bridge_config_unref(c);
}

static char *dump(const struct bridge_config *c)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	bridge_config_dump(c, f);
	fclose(f);
	return text;
}

/* Takes the reference. */
static void check_dump(struct bridge_config *c)
{
	char *first = dump(c), *second;

	bridge_config_unref(c);
	c = bridge(first);
	second = dump(c);
	CHECK_STR(first, second);
	bridge_config_unref(c);
	free(first);
	free(second);
}

static void test_dump(void)
{
	struct bridge_config *c = bridge_config_new();
	char *why;

	check_dump(bridge(whole));
	check_dump(bridge(LISTENER));
	CHECK_INT(bridge_config_add_listener(c, "vsock:any:4050", &why), 0);
	CHECK_INT(bridge_config_add_listener(c, "unix:/a", &why), 0);
	CHECK_INT(bridge_config_set_mode(c, "0666", &why), 0);
	check_dump(c);
}

static void test_wrong_values(void)
{
	refuses("listener: []\n", "b.yaml:1:1: ", "did you mean listeners?");
	refuses("{listeners: [{name: a}]}\n", "b.yaml:1:14: ", "address: missing");
	refuses("listeners: [{address: 'unix:/a'}]\n", "b.yaml:1:13: ", "name: missing");
	refuses("listeners: [{name: 'a b', address: 'unix:/a'}]\n", "b.yaml:1:20: ", "letters");
	refuses("listeners: [{name: a, address: 'service:a.b'}]\n", "b.yaml:1:32: ", "of a kind");
	refuses("listeners: [{name: a, address: 'unix:/a', socket: x}]\n",
		"b.yaml:1:51: ", "expected listen or connect");
	refuses(LISTENER "metrics: vsock:any:1\n", "b.yaml:2:10: ", "tcp:HOST:PORT or unix:/path");
	refuses(LISTENER "qgs: {address: 'tcp:a:1'}\n", "b.yaml:2:16: ", "of a kind");
	refuses(LISTENER "qgs: {address: 'vsock:any:1'}\n", "b.yaml:2:16: ", "CID any");
	refuses(LISTENER "qgs: {framing: x}\n", "b.yaml:2:16: ", "expected qgs or none");
	refuses(LISTENER "qgs: {in_flight: 0}\n", "b.yaml:2:18: ", "from 1 to 256");
	refuses(LISTENER "qgs: {in_flight: 257}\n", "b.yaml:2:18: ", "too large");
	refuses(LISTENER "qgs: {request_max: 1027}\n", "b.yaml:2:20: ", "from 1028 to 1MiB");
	refuses(LISTENER "qgs: {request_max: 1048577}\n", "b.yaml:2:20: ", "too large");
	refuses(LISTENER "qgs: {reply_max: 1KiB}\n", "b.yaml:2:18: ", "from 4KiB to 64MiB");
	refuses(LISTENER "qgs: {stuck_count: 1001}\n", "b.yaml:2:20: ", "from 1 to 1000");
	refuses(LISTENER "qgs: {stuck_command: []}\n", "b.yaml:2:22: ", "an empty list");
	refuses(LISTENER "qgs: {stuck_command: [systemctl, x]}\n",
		"b.yaml:2:23: ", "stuck_command: systemctl is not the path of a program; expected");
	refuses(LISTENER "limits: {rate_per_vm: 1000001}\n", "b.yaml:2:23: ", "1 to 1000000");
	refuses(LISTENER "limits: {burst_per_vm: 0}\n", "b.yaml:2:24: ", "too small");
	refuses(LISTENER "timeouts: {drain: 25h}\n", "b.yaml:2:19: ", "from 0 to 1d");
	refuses(LISTENER "timeouts: {dead: 5s}\n", "b.yaml:2:18: ", "not longer than ping");
	refuses(LISTENER "relay: {session_window: 64KiB}\n",
		"b.yaml:2:25: ", "smaller than stream_window");
}

/* A listener at address with these keys more has this error there. */
static void listener(const char *address, const char *keys, const char *at, const char *what)
{
	char text[300];

	snprintf(text, sizeof(text),
		 RELAY
		 "listeners:\n- name: a\n  address: '%s'\n%s\nvms: [{cid: 1, service: a.b}]\n",
		 address, keys);
	if (at)
		refuses(text, at, what);
	else
		accepts(text);
}

static void test_addresses(void)
{
	listener("tcp:127.0.0.1:1", "", NULL, NULL);
	listener("tcp:[::1]:1", "", NULL, NULL);
	listener("tcp:0.0.0.0:1", "", "b.yaml:4:12: ", "0.0.0.0:1 is not on loopback, and TCP");
	listener("tcp:[::]:1", "", "b.yaml:4:12: ", "is not on loopback");
	listener("tcp:128.0.0.1:1", "", "b.yaml:4:12: ", "is not on loopback");
	listener("tcp:kbs:1", "", "b.yaml:4:12: ", "expected 127.0.0.1, [::1] or localhost");
	listener("vsock:local:1", "", NULL, NULL);
	listener("vsock:host:1", "", NULL, NULL);
	listener("vsock:3:1", "", NULL, NULL);
	listener("vsock:hypervisor:1", "",
		 "b.yaml:4:12: ", "expected any, host, local or a number");
	listener("unix:/run/*/q", "", NULL, NULL);
	listener("unix:/run/a*b*/q", "", NULL, NULL);
	listener("unix:/*/q", "", NULL, NULL);
	listener("unix:/run/*/*/q", "", "b.yaml:4:12: ", "has '*' in several places");
	listener("hybrid:/run/*/x*/q:1", "", "b.yaml:4:12: ", "has '*' in several places");
	listener("unix:/run/x/*", "", "b.yaml:4:12: ", "'*' in its last part, where the socket");
	listener("hybrid:/run/x/*:1", "", "b.yaml:4:12: ", "expected it in the name of a folder");
	listener("unix:/run/*/", "", "b.yaml:4:12: ", "ends in '/'");
	listener("unix:@*", "", "b.yaml:4:12: ", "an abstract name is in no folder");
	listener("unix:@a/b", "", NULL, NULL);
	listener("unix:/run/x/*", "  socket: connect\n  forward: by-vm", NULL, NULL);
	listener("unix:/run/*/*", "  socket: connect\n  forward: by-vm",
		 "b.yaml:4:12: ", "has '*' in several places");
	listener("hybrid:/run/x:1", "  socket: connect\n  forward: service:a.b", NULL, NULL);
	listener("vsock:3:1", "  socket: connect\n  forward: by-vm",
		 "b.yaml:4:12: ", "vsock:3:1 cannot be connected to for a guest; expected unix:");
	listener("fd:x", "  socket: connect\n  forward: by-vm",
		 "b.yaml:4:12: ", "cannot be connected to");
	listener("unix:/x", "  socket: connect",
		 "b.yaml:5:11: ", "socket: connect without forward");
}

static void test_file_keys(void)
{
	static const char *const keys[] = { "owner: a", "group: '0'", "mode: '0660'",
					    "directory_mode: '0755'", "selinux: a:b:c" };
	static const char *const others[] = { "tcp:[::1]:1", "vsock:any:1", "fd:x", "unix:@x" };
	char line[100], what[100];

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const char *after = strchr(keys[i], ' ');
		size_t len = (size_t)(after - keys[i]);
		char at[40];

		snprintf(line, sizeof(line), "  %s", keys[i]);
		snprintf(at, sizeof(at), "b.yaml:5:%zu: ", len + 4);
		listener("unix:/x", line, NULL, NULL);
		listener("hybrid:/x:1", line, NULL, NULL);
		for (size_t j = 0; j < sizeof(others) / sizeof(others[0]); j++) {
			snprintf(what, sizeof(what), "%.*s %s makes no file", (int)len, keys[i],
				 others[j]);
			listener(others[j], line, at, what);
		}
		snprintf(line, sizeof(line), "  %s\n  socket: connect\n  forward: by-vm", keys[i]);
		listener("unix:/x", line, at, "makes no file that could have it; expected it left");
	}
	listener("tcp:[::1]:1", "  netns: /x", NULL, NULL);
	listener("vsock:any:1", "  netns: /x", NULL, NULL);
	listener("unix:/x", "  netns: /x", "b.yaml:5:10: ", "is not in a network namespace");
	listener("hybrid:/x:1", "  netns: /x", "b.yaml:5:10: ", "tcp or vsock address");
	listener("fd:x", "  netns: /x", "b.yaml:5:10: ", "expected it left out");
}

static void test_texts(void)
{
	static const char *const modes[] = { "'0'", "'7'", "'0777'", "666", "0660" };
	static const char *const wrong_modes[] = { "'1000'", "'0o660'", "'0888'", "rw", "'00660'" };
	static const char *const accounts[] = { "root", "'107'", "a.b@c", "x$", "DOM\\u" };
	static const char *const wrong_accounts[] = { "'4294967295'", "-x", "a:b", "a b", "'007'" };
	char line[60];

	for (size_t i = 0; i < 5; i++) {
		snprintf(line, sizeof(line), "  mode: %s", modes[i]);
		listener("unix:/x", line, NULL, NULL);
		snprintf(line, sizeof(line), "  mode: %s", wrong_modes[i]);
		listener("unix:/x", line, "b.yaml:5:9: ", "expected an octal mode from 0 to 0777");
		snprintf(line, sizeof(line), "  group: %s", accounts[i]);
		listener("unix:/x", line, NULL, NULL);
		snprintf(line, sizeof(line), "  owner: %s", wrong_accounts[i]);
		listener("unix:/x", line, "b.yaml:5:10: ", "expected a name, or a number up to");
	}
	listener("unix:/x", "  selinux: a:b", "b.yaml:5:12: ", "expected an SELinux label");
	listener("unix:/x", "  selinux: 'a::b'", "b.yaml:5:12: ", "expected an SELinux label");
	listener("unix:/x", "  selinux: 'a:b:c:'", "b.yaml:5:12: ", "expected an SELinux label");
	listener("unix:/x", "  forward: service:a.b", NULL, NULL);
	listener("unix:/x", "  forward: a.b", "b.yaml:5:12: ", "service:SERVICE.OWNER or by-vm");
	listener("unix:/x", "  forward: service:a", "b.yaml:5:12: ", "is not well-formed");
}

static void test_listeners(void)
{
	refuses("listeners:\n- {name: a, address: 'unix:/a'}\n- {name: a, address: 'unix:/b'}\n",
		"b.yaml:3:10: ", "name: a is the name of the listener on line 2 already");
	refuses("listeners:\n- {name: a, address: 'unix:/a'}\n- {name: b, address: 'unix:/a'}\n",
		"b.yaml:3:22: ", "unix:/a is the address of the listener on line 2 already");
	refuses("listeners:\n- {name: a, address: 'vsock:any:1', netns: /x}\n"
		"- {name: b, address: 'vsock:any:1', netns: /x}\n",
		"b.yaml:3:22: ", "line 2 already");
	accepts("listeners:\n- {name: a, address: 'vsock:any:1', netns: /x}\n"
		"- {name: b, address: 'vsock:any:1', netns: /y}\n"
		"- {name: c, address: 'vsock:any:1'}\n");
	refuses("metrics: unix:/a\nlisteners: [{name: a, address: 'unix:/a'}]\n",
		"b.yaml:1:10: ", "metrics: unix:/a is the address of the listener on line 2");
	refuses("listeners: [{name: a, address: 'unix:/a', forward: 'service:a.b'}]\n",
		"b.yaml:1:52: ", "forward: service:a.b, but there is no relay to forward to");
	refuses(RELAY "listeners: [{name: a, address: 'unix:/a', forward: by-vm}]\n",
		"b.yaml:2:52: ", "by-vm, but nothing says which VM has which service");
	accepts(RELAY "listeners: [{name: a, address: 'unix:/a', forward: by-vm}]\nvms_dir: d\n");
	accepts(RELAY "listeners: [{name: a, address: 'unix:/a', forward: by-vm}]\nvms: []\n"
		      "vms_dir: d\n");
}

static void test_relay(void)
{
	refuses(LISTENER "relay: {certificate: c}\n", "b.yaml:2:8: ", "certificate without key");
	refuses(LISTENER "relay: {key: c}\n", "b.yaml:2:8: ", "key without certificate");
	refuses(LISTENER "relay: {addresses: ['tcp:a:1', 'unix:/r']}\n",
		"b.yaml:2:32: ", "unix:/r has no host name to verify its certificate by");
	accepts(LISTENER "relay: {addresses: ['unix:/r'], server_name: x}\n");
	refuses(LISTENER "relay: {addresses: ['tcp:a:0']}\n", "b.yaml:2:21: ", "port 0");
	refuses(LISTENER "relay: {addresses: ['vsock:3:1']}\n", "b.yaml:2:21: ", "of a kind");
}

static void test_rules(void)
{
	accepts(LISTENER "rules: [{action: allow}]\n");
	refuses(LISTENER "rules: [{vm: 'cid:1'}]\n", "b.yaml:2:9: ", "action: missing");
	refuses(LISTENER "rules: [{action: drop}]\n", "b.yaml:2:18: ", "allow or deny");
	refuses(LISTENER "rules: [{action: deny, cid: 9-8}]\n", "b.yaml:2:29: ", "such as 40-49");
	refuses(LISTENER "rules: [{action: deny, uid: root}]\n", "b.yaml:2:29: ", "a number up to");
	refuses(LISTENER "rules: [{action: deny, gid: '4294967296'}]\n", "b.yaml:2:29: ", "up to");
	refuses(LISTENER "rules: [{action: deny, vm: web-1}]\n", "b.yaml:2:28: ", "cid:42");
	refuses(LISTENER "rules: [{action: deny, listener: 'a/*'}]\n",
		"b.yaml:2:34: ", "the name of a listener, in which");
	refuses(LISTENER "rules: [{action: deny, user: x}]\n", "b.yaml:2:24: ", "unknown key");
	run_accepts(LISTENER "rules: [{action: deny, listener: '?'}]\n");
	run_refuses(LISTENER "rules:\n- {action: deny, listener: 'b*'}\n",
		    "b.yaml:3:1: ", "there is no listener b*; expected the name of one");
	run_accepts(LISTENER "vms_dir: d\nrules: [{action: deny, listener: b}]\n");
}

static void test_vms(void)
{
	refuses(LISTENER "vms: [{cid: 1}]\n", "b.yaml:2:7: ", "service: missing");
	refuses(LISTENER "vms: [{cid: 1, service: a}]\n", "b.yaml:2:25: ", "SERVICE.OWNER");
	refuses(LISTENER "vms: [{service: a.b}]\n", "b.yaml:2:7: ", "at least one of listener, vm");
	refuses(LISTENER "vms: [{port: 0, service: a.b}]\n", "b.yaml:2:7: ", "at least one of");
	refuses(LISTENER "vms: [{vm: '*', service: a.b}]\n",
		"b.yaml:2:12: ", "a VM such as cid:42");
	refuses(LISTENER "vms: [{cid: any, service: a.b}]\n", "b.yaml:2:13: ", "a range such as");
	refuses(LISTENER "vms: [{path: x, service: a.b}]\n", "b.yaml:2:14: ", "absolute or @NAME");
	refuses(LISTENER "vms: [{port: 4294967295, service: a.b}]\n",
		"b.yaml:2:14: ", "4294967294");
	accepts(LISTENER "vms: [{port: 1, service: a.b}, {listener: a, service: a.b}]\n");
	run_refuses(LISTENER "vms: [{listener: b, service: a.b}]\n",
		    "b.yaml:2:1: ", "listener: there is no listener b");
}

static void test_run(void)
{
	run_refuses("log: {level: info}\n", "b.yaml: no listener; ", "expected --listen vsock:any");
	run_accepts("vms_dir: d\n");
	run_refuses("listeners: [{name: a, address: 'unix:/run/tdx-qgs/qgs.socket'}]\n",
		    "b.yaml:1:1: ", "the listener a has the address of QGS itself");
	run_refuses(LISTENER "qgs: {address: 'unix:/run/q/q.socket'}\n", "b.yaml:1:1: ", "itself");
	run_refuses("listeners: [{name: a, address: 'unix:/var/run/*/qgs.socket'}]\n",
		    "b.yaml:1:1: ", "ask itself"); /* as soon as QGS is away */
	run_accepts("listeners: [{name: a, address: 'unix:/run/*/x/qgs.socket'}]\n");
	refuses("listeners: [{name: a, address: 'unx:/a'}]\n", "b.yaml:1:32: ",
		"expected tcp:HOST:PORT, unix:/path, vsock:CID:PORT, hybrid:/path:PORT or fd:NAME");
	refuses(LISTENER "qgs: {address: 'unx:/a'}\n", "b.yaml:2:16: ",
		"expected unix:/path, vsock:CID:PORT or hybrid:/path:PORT");
	run_refuses(LISTENER "qgs: {address: 'unix:/run/*/qgs.socket'}\n",
		    "b.yaml: QGS's address, unix:/run/*/qgs.socket, has '*'", "of one socket");
	run_refuses(LISTENER "qgs: {address: 'hybrid:/run/*/v:1'}\n", "b.yaml: ", "has '*'");
	run_refuses("listeners: [{name: a, address: 'vsock:any:1'}]\n"
		    "qgs: {address: 'vsock:local:1'}\n",
		    "b.yaml:1:1: ", "ask itself");
	run_refuses("listeners: [{name: a, address: 'vsock:local:1'}]\n"
		    "qgs: {address: 'vsock:local:1'}\n",
		    "b.yaml:1:1: ", "ask itself");
	run_accepts("listeners: [{name: a, address: 'vsock:any:1', netns: /x}]\n"
		    "qgs: {address: 'vsock:local:1'}\n");
	run_accepts("listeners: [{name: a, address: 'vsock:any:2'}]\n"
		    "qgs: {address: 'vsock:local:1'}\n");
	run_accepts("listeners: [{name: a, address: 'vsock:3:1'}]\n"
		    "qgs: {address: 'vsock:local:1'}\n");
}

static void test_range(void)
{
	static const char *const wrong[] = { "",   "-",    "1-",  "-1", "2-1", "4294967296", "01",
					     "1 ", "1--2", "any", "+1", "0x1", "1-2-3" };
	uint64_t from = 7, to = 7;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK_INT(scalar_range(wrong[i], &from, &to), -EINVAL);
	CHECK_INT(from, 7);
	CHECK_INT(to, 7);
	CHECK_INT(scalar_range("42", &from, &to), 0);
	CHECK_INT(from, 42);
	CHECK_INT(to, 42);
	CHECK_INT(scalar_range("0-4294967295", &from, &to), 0);
	CHECK_INT(from, 0);
	CHECK_INT(to, 4294967295);
}

/* how(text) is refused, and the config is as before. */
static void flag_refused(int (*how)(struct bridge_config *c, const char *text, char **why),
			 struct bridge_config *c, const char *text, const char *what)
{
	char *before = dump(c), *after, *why = NULL;

	CHECK_INT(how(c, text, &why), -EINVAL);
	if (strncmp(why, text, strlen(text)) != 0 || !strstr(why, what)) {
		fprintf(stderr, "\"%s\" does not say \"%s\"\n", why, what);
		abort();
	}
	after = dump(c);
	CHECK_STR(before, after);
	free(before);
	free(after);
	free(why);
}

static void test_flags(void)
{
	struct bridge_config *c =
		bridge("metrics: unix:/m\nlisteners:\n"
		       "- {name: listener-2, address: 'unix:/a', mode: '0600'}\n");
	char *why = NULL;

	flag_refused(bridge_config_set_mode, c, "0600", "no socket that could have it; expected");
	CHECK_INT(bridge_config_add_listener(c, "vsock:any:4050", &why), 0);
	flag_refused(bridge_config_set_group, c, "kvm", "expected --listen unix:/path");
	CHECK_INT(bridge_config_add_listener(c, "unix:/b", &why), 0);
	CHECK_INT(bridge_config_add_listener(c, "hybrid:/run/*/v:1", &why), 0);
	CHECK_INT(c->n_listeners, 4);
	CHECK_STR(c->listeners[1].name, "listener-1");
	CHECK_STR(c->listeners[2].name, "listener-3");
	CHECK_INT(c->listeners[2].line, 0);
	CHECK(!c->listeners[1].mode);
	CHECK_STR(c->listeners[2].mode, "0660");
	CHECK_STR(c->listeners[2].directory_mode, "0755");
	CHECK_INT(bridge_config_set_mode(c, "666", &why), 0);
	CHECK_INT(bridge_config_set_group(c, "107", &why), 0);
	CHECK_STR(c->listeners[0].mode, "0600"); /* the file's own */
	CHECK(!c->listeners[0].group && !c->listeners[1].mode && !c->listeners[1].group);
	CHECK_STR(c->listeners[2].mode, "666");
	CHECK_STR(c->listeners[3].group, "107");
	CHECK_INT(bridge_config_set_qgs(c, "vsock:local:4051", &why), 0);
	CHECK_INT(c->qgs.address.kind, ADDRESS_VSOCK);
	flag_refused(bridge_config_add_listener, c, "unix:/a",
		     "of the listener listener-2 already");
	flag_refused(bridge_config_add_listener, c, "unix:/m", "is the address of metrics already");
	flag_refused(bridge_config_add_listener, c, "4050", "expected tcp:HOST:PORT");
	flag_refused(bridge_config_add_listener, c, "tunnel", "of a kind that cannot stand here");
	flag_refused(bridge_config_add_listener, c, "tcp:0.0.0.0:1", "is not on loopback");
	flag_refused(bridge_config_add_listener, c, "unix:/x/*", "in its last part");
	flag_refused(bridge_config_set_qgs, c, "tcp:127.0.0.1:1", "of a kind that cannot stand");
	flag_refused(bridge_config_set_qgs, c, "vsock:any:1", "CID any");
	flag_refused(bridge_config_set_mode, c, "1777", "expected an octal mode from 0 to 0777");
	flag_refused(bridge_config_set_mode, c, "", "expected an octal mode");
	flag_refused(bridge_config_set_group, c, "a:b", "expected a name, or a number");
	bridge_config_unref(c);
	c = bridge_config_new();
	for (int i = 1; i <= 1024; i++) {
		char address[40];

		snprintf(address, sizeof(address), "vsock:any:%d", i);
		CHECK_INT(bridge_config_add_listener(c, address, &why), 0);
	}
	flag_refused(bridge_config_add_listener, c, "unix:/a", "expected at most 1024");
	bridge_config_unref(c);
}

static struct vm_file *drop_in(const char *text, struct config_errors *e)
{
	return vm_file_parse("/v/x.yaml", text, strlen(text), e);
}

static void drop_in_refused(const char *text, const char *at, const char *what)
{
	struct config_errors e = { 0 };

	CHECK(!drop_in(text, &e));
	one_error(&e, at, what);
}

static void beside_refused(const struct bridge_config *c, const char *text, const char *what)
{
	struct config_errors e = { 0 };
	struct vm_file *f = drop_in(text, &e);

	CHECK(f);
	CHECK_INT(vm_file_check(f, c, "/v/x.yaml", &e), -EINVAL);
	one_error(&e, "/v/x.yaml:1:1: ", what);
	vm_file_free(f);
}

static void test_drop_ins(void)
{
	struct bridge_config *c = bridge(LISTENER "vms_dir: d\n");
	struct config_errors e = { 0 };
	struct vm_file *f = drop_in("vms: [{cid: 42, service: A.b}]\n"
				    "listeners:\n"
				    "- {name: n, address: 'unix:/n', forward: by-vm}\n"
				    "- {name: o, address: 'vsock:any:1', netns: ns}\n",
				    &e);

	CHECK(f);
	CHECK_INT(f->n_vms, 1);
	CHECK_STR(f->vms[0].service, "a.b");
	CHECK_INT(f->n_listeners, 2);
	CHECK_STR(f->listeners[0].mode, "0660");
	CHECK(!f->listeners[1].mode);
	CHECK_STR(f->listeners[1].netns, "/v/ns");
	CHECK(!vm_file_free(f));
	CHECK(!vm_file_free(NULL));
	f = drop_in("{}\n", &e);
	CHECK(f && !f->n_vms && !f->n_listeners);
	CHECK_INT(vm_file_check(f, c, "x", &e), 0);
	vm_file_free(f);
	drop_in_refused("log: {level: info}\n",
			"/v/x.yaml:1:1: ", "expected one of vms, listeners");
	drop_in_refused("- x\n", "/v/x.yaml:1:1: ", "expected the keys of a drop-in");
	drop_in_refused("vms: [{service: a.b}]\n", "/v/x.yaml:1:7: ", "at least one of");
	drop_in_refused("listeners: [{name: a, address: 'tcp:0.0.0.0:1'}]\n",
			"/v/x.yaml:1:32: ", "not on loopback");
	drop_in_refused("listeners: [{name: a, address: 'vsock:any:1', mode: 0600}]\n",
			"/v/x.yaml:1:53: ", "makes no file");
	drop_in_refused("listeners: [{name: a, address: 'fd:a'}, {name: a, address: 'fd:b'}]\n",
			"/v/x.yaml:1:48: ", "line 1 already");
	beside_refused(c, "listeners: [{name: a, address: 'fd:a'}]\n", "the main file already");
	beside_refused(c, "listeners: [{name: b, address: 'unix:/run/q/q.socket'}]\n",
		       "unix:/run/q/q.socket is the address of the listener a of the main file");
	beside_refused(c, "listeners: [{name: b, address: 'fd:b', forward: by-vm}]\n",
		       "forward: by-vm, but the main file has no relay");
	beside_refused(c, "listeners: [{name: b, address: 'unix:/var/run/tdx-qgs/qgs.socket'}]\n",
		       "the address of QGS itself");
	bridge_config_unref(c);
	CHECK(!vm_file_load("/nonexistent/x.yaml", &e));
	one_error(&e, "/nonexistent/x.yaml:1:1: ", "cannot be opened");
}

/* A drop-in's lists mean what the main file's do: they are read by the same rows. */
static void test_same_rows(void)
{
	for (size_t i = 0; i < vm_file_table.n; i++) {
		const struct field *f = &vm_file_table.fields[i], *main_file = NULL;

		for (size_t j = 0; j < bridge_table.n; j++)
			if (strcmp(bridge_table.fields[j].key, f->key) == 0)
				main_file = &bridge_table.fields[j];
		CHECK(main_file && main_file->table == f->table && main_file->max == f->max);
	}
}

/* All wrong at once: each said once, nothing as the echo of another. */
static void test_many_errors(void)
{
	static const char text[] = "listeners:\n"
				   "- {name: a, address: bad, mode: x, forward: by-vm}\n"
				   "- x\n"
				   "- {name: a, socket: connect}\n"
				   "relay: {addresses: [bad], certificate: c}\n"
				   "vms: [1, {service: a.b}]\n"
				   "rules: {}\n";
	struct config_errors e = { 0 };

	CHECK(!bridge_config_parse("b.yaml", text, strlen(text), &e));
	config_errors_print(&e, stdout);
	CHECK_INT(e.n, 10);
	config_errors_deinit(&e);
}

int main(void)
{
	test_defaults();
	test_values();
	test_dump();
	test_wrong_values();
	test_addresses();
	test_file_keys();
	test_texts();
	test_listeners();
	test_relay();
	test_rules();
	test_vms();
	test_run();
	test_range();
	test_flags();
	test_drop_ins();
	test_same_rows();
	test_many_errors();
	return 0;
}
