/*
 * schema_bridge: the tables of qgs-bridge.yaml and of its drop-ins.
 *
 * Theory of operation: constant data, as in schema_relay.c: a key is a row here, a member in
 * bridge.h, a line in the manual page and one in the example (a test compares them all). A
 * drop-in's lists are read by the very tables of the main file's. What tables cannot say is in
 * check_bridge.c.
 *
 * Longer than other files: all settings stand in one place.
 */
#include "config/schema_bridge.h"

#include <string.h>

#include "config/scalar.h"
#include "config/schema_rows.h"

/* ---- well-formed texts ---- */

/* Whatever passwd(5) can hold: directories of people have stranger names than systems have. */
/* USER:ROLE:TYPE, with MLS or MCS :LEVEL; whether the policy knows it is the kernel's to say. */
static bool is_label(const char *text)
{
	size_t parts = 1;

	if (strlen(text) > 255 || strchr(text, ' ') || text[0] == ':' || strstr(text, "::"))
		return false;
	for (const char *p = text; *p; p++)
		parts += *p == ':';
	return parts >= 3 && text[strlen(text) - 1] != ':';
}

static bool is_forward(const char *text)
{
	return strcmp(text, "by-vm") == 0 ||
	       (strncmp(text, "service:", 8) == 0 && name_is_service(text + 8));
}

static bool is_pattern(const char *text)
{
	return strlen(text) <= 255;
}

static bool is_listener_pattern(const char *text)
{
	char name[65];
	size_t len = strlen(text);

	if (len >= sizeof(name))
		return false;
	for (size_t i = 0; i <= len; i++)
		name[i] = strchr("*?", text[i]) && text[i] ? '_' : text[i];
	return schema_is_word(name);
}

/* KIND:NAME */
static bool is_vm(const char *text)
{
	size_t kind = strspn(text, "abcdefghijklmnopqrstuvwxyz-");

	return kind > 0 && text[kind] == ':' && text[kind + 1] && strlen(text) <= 255;
}

static bool is_vm_pattern(const char *text)
{
	return strlen(text) <= 255 && strpbrk(text, ":*");
}

static bool is_socket_path(const char *text)
{
	return (text[0] == '/' || text[0] == '@') && text[1] && strlen(text) < ADDRESS_TEXT_MAX;
}

#define EXPECTED_FOLDER "the path of a folder"
#define EXPECTED_SELINUX "an SELinux label such as system_u:object_r:container_file_t:s0"
#define EXPECTED_FORWARD "service:SERVICE.OWNER or by-vm"
#define EXPECTED_PATTERN "at most 255 characters, in which * and ? stand for others"
#define EXPECTED_LISTENER "the name of a listener, in which * and ? stand for others"
#define EXPECTED_VM "a VM such as cid:42, pod:UID, domain:NAME or name:NAME"
#define EXPECTED_VM_PATTERN EXPECTED_VM ", in which * and ? stand for others"

/* clang-format off: rows stay rows */

/* ---- listeners ---- */

static const struct word socket_roles[] = {
	{ "listen", SOCKET_LISTEN },
	{ "connect", SOCKET_CONNECT },
	{ NULL, 0 },
};

static const struct field entrance_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, name),
	  .flags = FIELD_REQUIRED,
	  .is = schema_is_word,
	  .expected = EXPECTED_WORD,
	  .help = "for rules, logs and metrics; unique" },
	{ .key = "address",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct entrance_config, address),
	  .flags = FIELD_REQUIRED,
	  .kinds = KIND(TCP) | KIND(UNIX) | KIND(VSOCK) | KIND(HYBRID) | KIND(FD),
	  .help = "where guests, or the VMM for them, come in; unique" },
	{ .key = "socket",
	  .type = FIELD_ENUM,
	  MEMBER(struct entrance_config, socket),
	  .def = "listen",
	  .words = socket_roles,
	  .help = "who connects: listen waits for the VMM, connect goes to a socket of its" },
	{ .key = "forward",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, forward),
	  .flags = FIELD_LOWER,
	  .is = is_forward,
	  .expected = EXPECTED_FORWARD,
	  .help = "to this service behind the relay, or to what vms says; left out, to QGS" },
	{ .key = "owner",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, owner),
	  .is = schema_is_account,
	  .expected = EXPECTED_ACCOUNT,
	  .help = "user that the socket belongs to; left out, the process's" },
	{ .key = "group",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, group),
	  .is = schema_is_account,
	  .expected = EXPECTED_ACCOUNT,
	  .help = "group that the socket belongs to; left out, the process's" },
	{ .key = "mode",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, mode),
	  .def = "0660",
	  .is = schema_is_mode,
	  .expected = EXPECTED_MODE,
	  .help = "of the socket, octal; to connect takes the right to write" },
	{ .key = "directory_mode",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, directory_mode),
	  .def = "0755",
	  .is = schema_is_mode,
	  .expected = EXPECTED_MODE,
	  .help = "of the socket's folder, octal, if it has to be made" },
	{ .key = "selinux",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, selinux),
	  .is = is_label,
	  .expected = EXPECTED_SELINUX,
	  .help = "label of the socket; left out, the policy's" },
	{ .key = "netns",
	  .type = FIELD_TEXT,
	  MEMBER(struct entrance_config, netns),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "file of the network namespace to listen in; left out, the process's" },
};

static const struct table entrance_table = { .what = "listener",
					     TABLE(entrance_fields),
					     .size = sizeof(struct entrance_config),
					     .line = offsetof(struct entrance_config, line) };

/* ---- qgs ---- */

static const struct word framings[] = {
	{ "qgs", FRAMING_QGS },
	{ "none", FRAMING_NONE },
	{ NULL, 0 },
};

static const struct field qgs_fields[] = {
	{ .key = "address",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct qgs_config, address),
	  .flags = FIELD_DIAL,
	  .def = "unix:/var/run/tdx-qgs/qgs.socket",
	  .kinds = KIND(UNIX) | KIND(VSOCK) | KIND(HYBRID),
	  .help = "where QGS listens" },
	{ .key = "framing",
	  .type = FIELD_ENUM,
	  MEMBER(struct qgs_config, framing),
	  .def = "qgs",
	  .words = framings,
	  .help = "qgs: whole requests and replies; none: bytes as they come" },
	{ .key = "in_flight",
	  .type = FIELD_NUMBER,
	  MEMBER(struct qgs_config, in_flight),
	  .min = 1,
	  .max = 256,
	  .def = "4",
	  .help = "requests in QGS at a time: as many as it has threads (number_threads)" },
	{ .key = "in_flight_per_vm",
	  .type = FIELD_NUMBER,
	  MEMBER(struct qgs_config, in_flight_per_vm),
	  .min = 1,
	  .max = 256,
	  .def = "3",
	  .help = "of one VM: with less than in_flight, no VM keeps all others waiting" },
	{ .key = "request_max",
	  .type = FIELD_SIZE,
	  MEMBER(struct qgs_config, request_max),
	  .min = KIB + 4,
	  .max = MIB,
	  .def = "4KiB",
	  .help = "longest request passed on, its length included; usual are 1052 bytes. QGS up to "
		  "DCAP 1.25 reads 4096 bytes and hangs on more; with 1.26 it may be 1MiB" },
	{ .key = "reply_max",
	  .type = FIELD_SIZE,
	  MEMBER(struct qgs_config, reply_max),
	  .min = 4 * KIB,
	  .max = 64 * MIB,
	  .def = "1MiB",
	  .help = "longest reply; usual are 5 KB, with collateral more" },
	{ .key = "stuck_after",
	  .type = FIELD_DURATION,
	  MEMBER(struct qgs_config, stuck_after),
	  .min = 1,
	  .max = HOUR,
	  .def = "25s",
	  .help = "a request without a reply is given up, before its client does at 30s" },
	{ .key = "stuck_count",
	  .type = FIELD_NUMBER,
	  MEMBER(struct qgs_config, stuck_count),
	  .min = 1,
	  .max = 1000,
	  .def = "3",
	  .help = "so many given up in a row: QGS counts as wedged" },
	{ .key = "stuck_command",
	  .type = FIELD_TEXTS,
	  LIST(struct qgs_config, stuck_command),
	  .flags = FIELD_NONEMPTY,
	  .max = 64,
	  .is = schema_is_path,
	  .expected = "a program and its arguments",
	  .help = "run when QGS becomes wedged: a program and its arguments, without a shell" },
};

static const struct table qgs_table = { .what = "the settings of QGS",
					TABLE(qgs_fields),
					.size = sizeof(struct qgs_config),
					.line = NO_LINE };

/* ---- relay ---- */

static const struct field leg_fields[] = {
	{ .key = "addresses",
	  .type = FIELD_ADDRESSES,
	  LIST(struct leg_config, addresses),
	  .flags = FIELD_DIAL,
	  .max = 64,
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where the relay listens, tried in order; needed by forward" },
	{ .key = "server_name",
	  .type = FIELD_TEXT,
	  MEMBER(struct leg_config, server_name),
	  .flags = FIELD_LOWER,
	  .is = schema_is_server_name,
	  .expected = EXPECTED_SERVER_NAME,
	  .help = "the name the relay's certificate must have; left out, the host of its address" },
	{ .key = "ca_file",
	  .type = FIELD_TEXT,
	  MEMBER(struct leg_config, ca_file),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file of the CAs to trust; left out, the system's" },
	{ .key = "certificate",
	  .type = FIELD_TEXT,
	  MEMBER(struct leg_config, certificate),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the node's certificate and those between it and the CA" },
	{ .key = "key",
	  .type = FIELD_TEXT,
	  MEMBER(struct leg_config, key),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the certificate's private key" },
	{ .key = "connections",
	  .type = FIELD_NUMBER,
	  MEMBER(struct leg_config, connections),
	  .min = 1,
	  .max = 64,
	  .def = "2",
	  .help = "sessions with the relay at a time" },
	{ .key = "streams",
	  .type = FIELD_NUMBER,
	  MEMBER(struct leg_config, streams),
	  .min = 1,
	  .max = 1048576,
	  .def = "1024",
	  .help = "streams in one session at a time" },
	{ .key = "stream_window",
	  .type = FIELD_SIZE,
	  MEMBER(struct leg_config, stream_window),
	  .min = 16 * KIB,
	  .max = GIB,
	  .def = "256KiB",
	  .help = "unread bytes of one stream" },
	{ .key = "session_window",
	  .type = FIELD_SIZE,
	  MEMBER(struct leg_config, session_window),
	  .min = 64 * KIB,
	  .max = GIB,
	  .def = "32MiB",
	  .help = "unread bytes of all streams of one session" },
};

static const struct table leg_table = { .what = "the settings of the relay",
					TABLE(leg_fields),
					.size = sizeof(struct leg_config),
					.line = NO_LINE };

/* ---- rules ---- */

static const struct word actions[] = {
	{ "allow", RULE_ALLOW },
	{ "deny", RULE_DENY },
	{ NULL, 0 },
};

#define RULE(name, check, words, text)                                              \
	{                                                                           \
		.key = #name, .type = FIELD_TEXT, MEMBER(struct rule_config, name), \
		.is = (check), .expected = (words), .help = (text)                  \
	}

static const struct field rule_fields[] = {
	{ .key = "action",
	  .type = FIELD_ENUM,
	  MEMBER(struct rule_config, action),
	  .flags = FIELD_REQUIRED,
	  .words = actions,
	  .help = "what becomes of those that all of the other keys hold for" },
	RULE(listener, is_listener_pattern, EXPECTED_LISTENER, "came in by this listener"),
	RULE(vm, is_vm_pattern, EXPECTED_VM_PATTERN, "is this VM, as log lines name it"),
	RULE(cid, schema_is_range, EXPECTED_RANGE, "has this vsock CID"),
	RULE(uid, schema_is_range, EXPECTED_RANGE, "is a process of this user, by Unix socket"),
	RULE(gid, schema_is_range, EXPECTED_RANGE, "is a process of this group, by Unix socket"),
	RULE(pod, is_pattern, EXPECTED_PATTERN, "is a process of the Kubernetes pod with this uid"),
	RULE(domain, is_pattern, EXPECTED_PATTERN, "is the libvirt domain of this name"),
	RULE(label, is_pattern, EXPECTED_PATTERN, "is a process with this SELinux label"),
};

static const struct table rule_table = { .what = "rule",
					 TABLE(rule_fields),
					 .size = sizeof(struct rule_config),
					 .line = offsetof(struct rule_config, line) };

/* ---- vms ---- */

static const struct field vm_fields[] = {
	{ .key = "listener",
	  .type = FIELD_TEXT,
	  MEMBER(struct vm_config, listener),
	  .is = schema_is_word,
	  .expected = EXPECTED_WORD,
	  .help = "came in by the listener of this name" },
	{ .key = "vm",
	  .type = FIELD_TEXT,
	  MEMBER(struct vm_config, vm),
	  .is = is_vm,
	  .expected = EXPECTED_VM,
	  .help = "is this VM, as log lines name it" },
	{ .key = "cid",
	  .type = FIELD_TEXT,
	  MEMBER(struct vm_config, cid),
	  .is = schema_is_range,
	  .expected = EXPECTED_RANGE,
	  .help = "has this vsock CID" },
	{ .key = "path",
	  .type = FIELD_TEXT,
	  MEMBER(struct vm_config, path),
	  .is = is_socket_path,
	  .expected = "the path of a Unix socket, absolute or @NAME",
	  .help = "came in by the Unix or hybrid socket of this path" },
	{ .key = "port",
	  .type = FIELD_NUMBER,
	  MEMBER(struct vm_config, port),
	  .max = UINT32_MAX - 1,
	  .def = "0",
	  .help = "came in by this port of TCP, vsock or hybrid; 0 is any" },
	{ .key = "service",
	  .type = FIELD_TEXT,
	  MEMBER(struct vm_config, service),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_service,
	  .expected = EXPECTED_SERVICE,
	  .help = "the service behind the relay that its streams go to" },
};

static const struct table vm_table = { .what = "VM",
				       TABLE(vm_fields),
				       .size = sizeof(struct vm_config),
				       .line = offsetof(struct vm_config, line) };

/* ---- timeouts and limits ---- */

#define BRIDGE_TIMEOUT(name, member, least, most, value, text)                                \
	{                                                                                     \
		.key = #name, .type = FIELD_DURATION, MEMBER(struct bridge_timeouts, member), \
		.min = (least), .max = (most), .def = (value), .help = (text)                 \
	}

static const struct field timeout_fields[] = {
	BRIDGE_TIMEOUT(request, request, 1, HOUR, "5s",
		       "from a connection for QGS to its whole request"),
	BRIDGE_TIMEOUT(queue, queue, 1, HOUR, "20s", "a whole request waiting for its turn at QGS"),
	BRIDGE_TIMEOUT(reply, reply, 1, HOUR, "10s", "a client taking its reply"),
	BRIDGE_TIMEOUT(handshake, common.handshake, 1, HOUR, "10s",
		       "until the relay has accepted a session, TLS included"),
	BRIDGE_TIMEOUT(pickup, common.pickup, 1, HOUR, "10s",
		       "a stream waiting for a session with the relay"),
	BRIDGE_TIMEOUT(dial, common.dial, 1, HOUR, "5s",
		       "connecting to QGS, or to one address of the relay"),
	BRIDGE_TIMEOUT(idle, common.idle, 1, 365 * DAY, "10min",
		       "a stream without a byte either way"),
	BRIDGE_TIMEOUT(half_closed, common.half_closed, 1, 365 * DAY, "60s",
		       "a stream of which one direction has ended and the other is silent"),
	BRIDGE_TIMEOUT(ping, common.ping, 10, HOUR, "5s", "between two pings in a session"),
	BRIDGE_TIMEOUT(dead, common.dead, SECOND, DAY, "10s",
		       "a session with nothing received for so long is dead"),
	BRIDGE_TIMEOUT(drain, common.drain, 0, DAY, "35s",
		       "for requests and streams to finish when shutting down: QGS' 30s and more"),
};

static const struct table timeout_table = { .what = "the timeouts",
					    TABLE(timeout_fields),
					    .size = sizeof(struct bridge_timeouts),
					    .line = NO_LINE };

#define LIMIT(name, least, most, value, text)                                           \
	{                                                                               \
		.key = #name, .type = FIELD_NUMBER, MEMBER(struct bridge_limits, name), \
		.min = (least), .max = (most), .def = (value), .help = (text)           \
	}

static const struct field limit_fields[] = {
	LIMIT(connections, 1, 1048576, "2048", "connections from guests at a time, all together"),
	LIMIT(connections_per_vm, 1, 65536, "128",
	      "connections of one VM at a time; QEMU alone may have 16"),
	LIMIT(queue_per_vm, 1, 65536, "64", "whole requests of one VM waiting for QGS"),
	LIMIT(rate_per_vm, 1, 1000000, "100",
	      "requests of one VM to QGS a second, on average; more wait"),
	LIMIT(burst_per_vm, 1, 1000000, "200", "requests of one VM to QGS at once, before that"),
	LIMIT(vms, 1, 65536, "1024", "VMs known at a time, and folders of one pattern"),
	LIMIT(vm_labels, 0, 65536, "256",
	      "VMs with metrics of their own; further ones share those of \"other\""),
};

static const struct table limit_table = { .what = "the limits",
					  TABLE(limit_fields),
					  .size = sizeof(struct bridge_limits),
					  .line = NO_LINE };

/* ---- the files ---- */

#define LISTENERS(of, text)                                                                   \
	{                                                                                     \
		.key = "listeners", .type = FIELD_STRUCTS, .offset = offsetof(of, listeners), \
		.count = offsetof(of, n_listeners), .max = 1024, .table = &entrance_table,    \
		.help = (text)                                                                \
	}
#define VMS(of, text)                                                             \
	{                                                                         \
		.key = "vms", .type = FIELD_STRUCTS, .offset = offsetof(of, vms), \
		.count = offsetof(of, n_vms), .table = &vm_table, .help = (text)  \
	}

static const struct field bridge_fields[] = {
	{ .key = "log",
	  .type = FIELD_STRUCT,
	  MEMBER(struct bridge_config, log),
	  .table = &log_table,
	  .help = "what to write, and where" },
	{ .key = "metrics",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct bridge_config, metrics),
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where to serve metrics for Prometheus, and health" },
	ADMIN(struct bridge_config),
	LISTENERS(struct bridge_config,
		  "where guests come in; at least one, here, by --listen or in vms_dir"),
	{ .key = "qgs",
	  .type = FIELD_STRUCT,
	  MEMBER(struct bridge_config, qgs),
	  .table = &qgs_table,
	  .help = "the Quote Generation Service of this node" },
	{ .key = "relay",
	  .type = FIELD_STRUCT,
	  MEMBER(struct bridge_config, relay),
	  .table = &leg_table,
	  .help = "the relay that listeners with forward lead to" },
	{ .key = "rules",
	  .type = FIELD_STRUCTS,
	  .offset = offsetof(struct bridge_config, rules),
	  .count = offsetof(struct bridge_config, n_rules),
	  .max = 4096,
	  .table = &rule_table,
	  .help = "who may use what: the first that holds decides; if there are rules and none "
		  "holds, nobody" },
	VMS(struct bridge_config,
	    "for forward: by-vm, which service; the first that holds decides"),
	{ .key = "vms_dir",
	  .type = FIELD_TEXT,
	  MEMBER(struct bridge_config, vms_dir),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_FOLDER,
	  .help = "folder of files NAME.yaml, each with vms and listeners of its own" },
	{ .key = "timeouts",
	  .type = FIELD_STRUCT,
	  MEMBER(struct bridge_config, timeouts),
	  .table = &timeout_table,
	  .help = "how long things may take" },
	{ .key = "limits",
	  .type = FIELD_STRUCT,
	  MEMBER(struct bridge_config, limits),
	  .table = &limit_table,
	  .help = "how much there may be" },
};

const struct table bridge_table = { .what = "the bridge's config",
				    TABLE(bridge_fields),
				    .size = sizeof(struct bridge_config),
				    .line = NO_LINE };

static const struct field vm_file_fields[] = {
	VMS(struct vm_file, "before those of the main file"),
	LISTENERS(struct vm_file, "besides those of the main file"),
};

const struct table vm_file_table = { .what = "a drop-in",
				     TABLE(vm_file_fields),
				     .size = sizeof(struct vm_file),
				     .line = NO_LINE };

_Static_assert(sizeof(entrance_fields) / sizeof(entrance_fields[0]) <= TABLE_FIELDS_MAX,
	       "seen[] holds it");
_Static_assert(sizeof(timeout_fields) / sizeof(timeout_fields[0]) <= TABLE_FIELDS_MAX, "and it");
