/*
 * schema: the tables of relay.yaml and tunnel.yaml.
 *
 * Theory of operation: constant data. A key is named as its member of the struct. A new key is a
 * row here, a member in config.h, a line in the manual page and one in the example (a test compares
 * them all). What tables cannot say is in check.c; what the bridge's tables need too, in
 * schema_rows.c. Settings that the design knows but this version
 * does not do have rows of type FIELD_REFUSED: most of them restrict who may do what, and dropping
 * such a key in silence would leave open what it was to close.
 *
 * Longer than other files: all settings stand in one place.
 */
#include "config/schema.h"

#include <string.h>

#include "config/no_proxy.h"
#include "config/schema_rows.h"

/* ---- well-formed texts ---- */

/* TLS forbids IP addresses as server names, so a last label of digits is a mistake. */
static bool is_hostname(const char *text)
{
	const char *dot = strrchr(text, '.');
	const char *last = dot ? dot + 1 : text;

	return name_is_host(text) && last[strspn(last, "0123456789")] != '\0';
}

#define EXPECTED_LABEL "1 to 63 letters, digits and '-', neither first nor last '-'"
#define EXPECTED_HOST "a DNS name such as kbs.acme.example"

/* clang-format off: rows stay rows */

/* ---- shared ---- */

#define TIMEOUT_HANDSHAKE \
	TIMEOUT(handshake, 1, HOUR, "10s", "until a peer has said what it wants, TLS included")
#define TIMEOUTS_SHARED                                                                       \
	TIMEOUT(dial, 1, HOUR, "5s", "connecting to one target, over all its addresses"),     \
		TIMEOUT(idle, 1, 365 * DAY, "10min", "a stream without a byte either way"),   \
		TIMEOUT(half_closed, 1, 365 * DAY, "60s",                                     \
			"a stream of which one direction has ended and the other is silent"), \
		TIMEOUT(ping, 10, HOUR, "5s", "between two pings in a tunnel"),               \
		TIMEOUT(dead, SECOND, DAY, "10s",                                                 \
			"a tunnel with nothing received for so long is dead"),                \
		TIMEOUT(drain, 0, DAY, "60s", "for streams to finish when shutting down")

static const struct word proxy_sent[] = {
	{ "off", PROXY_SENT_NONE },
	{ "v1", PROXY_SENT_V1 },
	{ "v2", PROXY_SENT_V2 },
	{ NULL, 0 },
};

#define PROXY_SENT(type_, text)                                                  \
	{                                                                        \
		.key = "proxy_protocol", .type = FIELD_ENUM,                     \
		MEMBER(type_, proxy_protocol), .def = "off", .words = proxy_sent, \
		.help = (text)                                                   \
	}

static const struct field relay_timeout_fields[] = {
	TIMEOUT_HANDSHAKE,
	TIMEOUT(pickup, 1, HOUR, "10s", "a client's stream waiting for a tunnel"),
	TIMEOUTS_SHARED,
};

static const struct table relay_timeout_table = { .what = "the timeouts",
						  TABLE(relay_timeout_fields),
						  .size = sizeof(struct timeouts_config),
						  .line = NO_LINE };

static const struct field tunnel_timeout_fields[] = {
	TIMEOUT_HANDSHAKE,
	TIMEOUT(pickup, 1, HOUR, "10s",
		"a local listener's client waiting for a connection to a relay"),
	TIMEOUTS_SHARED,
};

static const struct table tunnel_timeout_table = { .what = "the timeouts",
						   TABLE(tunnel_timeout_fields),
						   .size = sizeof(struct timeouts_config),
						   .line = NO_LINE };

/* ---- relay.yaml ---- */

static const struct word doors[] = {
	{ "tunnel", DOOR_TUNNEL },
	{ "sni", DOOR_SNI },
	{ "connect", DOOR_CONNECT },
	{ "websocket", DOOR_WEBSOCKET },
	{ NULL, 0 },
};

static const struct word proxy_taken[] = {
	{ "off", PROXY_TAKEN_NEVER },
	{ "optional", PROXY_TAKEN_OPTIONAL },
	{ "required", PROXY_TAKEN_REQUIRED },
	{ NULL, 0 },
};

#define PROXY_NETWORKS_MAX 64 /* each client's address is compared with each */

static const struct field tls_fields[] = {
	{ .key = "certificate",
	  .type = FIELD_TEXT,
	  MEMBER(struct relay_config, tls.certificate),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the relay's certificate and those between it and the CA" },
	{ .key = "key",
	  .type = FIELD_TEXT,
	  MEMBER(struct relay_config, tls.key),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the certificate's private key" },
	REFUSED("client_ca"),
};

/* Offsets are the whole config's: the member has no type of its own. */
static const struct table tls_table = { .what = "the TLS settings",
					TABLE(tls_fields),
					.size = sizeof(struct relay_config),
					.line = NO_LINE };

static const struct field listener_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct listener_config, name),
	  .flags = FIELD_REQUIRED,
	  .is = schema_is_word,
	  .expected = EXPECTED_WORD,
	  .help = "for logs and metrics; unique" },
	{ .key = "address",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct listener_config, address),
	  .flags = FIELD_REQUIRED,
	  .kinds = KIND(TCP) | KIND(UNIX) | KIND(VSOCK) | KIND(FD),
	  .help = "where to listen; unique" },
	{ .key = "doors",
	  .type = FIELD_FLAGS,
	  MEMBER(struct listener_config, doors),
	  .flags = FIELD_NONEMPTY,
	  .words = doors,
	  .help = "the protocols accepted; either this or service" },
	{ .key = "service",
	  .type = FIELD_TEXT,
	  MEMBER(struct listener_config, service),
	  .flags = FIELD_LOWER,
	  .is = name_is_service,
	  .expected = EXPECTED_SERVICE,
	  .help = "whatever connects is for this service; either this or doors" },
	{ .key = "client_ca",
	  .type = FIELD_TEXT,
	  MEMBER(struct listener_config, client_ca),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the CAs of the certificates that clients need at the doors connect "
		  "and websocket" },
	{ .key = "proxy_protocol",
	  .type = FIELD_ENUM,
	  MEMBER(struct listener_config, proxy_protocol),
	  .def = "off",
	  .words = proxy_taken,
	  .help = "whether a PROXY header comes first, by which a proxy says who the client is" },
	{ .key = "proxy_networks",
	  .type = FIELD_NETWORKS,
	  LIST(struct listener_config, proxy_networks),
	  .flags = FIELD_NONEMPTY,
	  .max = PROXY_NETWORKS_MAX,
	  .help = "the proxies from which a PROXY header is taken" },
};

static const struct table listener_table = { .what = "listener",
					     TABLE(listener_fields),
					     .size = sizeof(struct listener_config),
					     .line = offsetof(struct listener_config, line) };

static const struct field owner_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct owner_config, name),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_label,
	  .expected = EXPECTED_LABEL,
	  .help = "the OWNER of SERVICE.OWNER; unique" },
	{ .key = "tokens",
	  .type = FIELD_HASHES,
	  LIST(struct owner_config, tokens),
	  .flags = FIELD_REQUIRED | FIELD_NONEMPTY,
	  .help = "hashes of the tokens its tunnels may show" },
	{ .key = "services",
	  .type = FIELD_TEXTS,
	  LIST(struct owner_config, services),
	  .flags = FIELD_NONEMPTY | FIELD_LOWER,
	  .is = name_is_label,
	  .expected = EXPECTED_LABEL,
	  .help = "the services its tunnels may offer; left out, any" },
	REFUSED("certificates"),
};

static const struct table owner_table = { .what = "owner",
					  TABLE(owner_fields),
					  .size = sizeof(struct owner_config),
					  .line = offsetof(struct owner_config, line) };

#define TARGETS_MAX 16 /* tried one after the other, each with its own timeout */

static const struct word balances[] = {
	{ "primary", BALANCE_PRIMARY },
	{ "least-streams", BALANCE_LEAST_STREAMS },
	{ "sticky", BALANCE_STICKY },
	{ NULL, 0 },
};

static const struct word checks[] = {
	{ "off", CHECK_NONE },
	{ "tcp", CHECK_TCP },
	{ "tls", CHECK_TLS },
	{ NULL, 0 },
};

static const struct field check_fields[] = {
	{ .key = "kind",
	  .type = FIELD_ENUM,
	  MEMBER(struct check_config, kind),
	  .def = "off",
	  .words = checks,
	  .help = "what targets that are addresses must do to be up" },
	{ .key = "every",
	  .type = FIELD_DURATION,
	  MEMBER(struct check_config, every),
	  .min = 100,
	  .max = HOUR,
	  .def = "5s",
	  .help = "between two checks of a target" },
	{ .key = "server_name",
	  .type = FIELD_TEXT,
	  MEMBER(struct check_config, server_name),
	  .flags = FIELD_LOWER,
	  .is = is_hostname,
	  .expected = EXPECTED_HOST,
	  .help = "for kind tls: the TLS server name to ask for" },
};

static const struct table check_table = { .what = "the check",
					  TABLE(check_fields),
					  .size = sizeof(struct check_config),
					  .line = NO_LINE };

static const struct field service_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct service_config, name),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_service,
	  .expected = EXPECTED_SERVICE,
	  .help = "SERVICE.OWNER; unique" },
	{ .key = "hostnames",
	  .type = FIELD_TEXTS,
	  LIST(struct service_config, hostnames),
	  .flags = FIELD_LOWER,
	  .is = is_hostname,
	  .expected = EXPECTED_HOST,
	  .help = "TLS server names that lead to it; unique" },
	{ .key = "targets",
	  .type = FIELD_ADDRESSES,
	  LIST(struct service_config, targets),
	  .flags = FIELD_NONEMPTY | FIELD_DIAL,
	  .max = TARGETS_MAX,
	  .def = "tunnel",
	  .kinds = KIND(TUNNEL) | KIND(TCP) | KIND(UNIX) | KIND(VSOCK) | KIND(HYBRID),
	  .help = "where its streams go, tried in order" },
	{ .key = "balance",
	  .type = FIELD_ENUM,
	  MEMBER(struct service_config, balance),
	  .def = "primary",
	  .words = balances,
	  .help = "which of several tunnels that offer it" },
	{ .key = "check",
	  .type = FIELD_STRUCT,
	  MEMBER(struct service_config, check),
	  .table = &check_table,
	  .help = "of targets that are addresses: those that fail are tried last" },
	{ .key = "idle",
	  .type = FIELD_DURATION,
	  MEMBER(struct service_config, idle),
	  .max = 365 * DAY,
	  .def = "0",
	  .help = "instead of timeouts.idle, which 0 stands for" },
	PROXY_SENT(struct service_config,
		   "a PROXY header to targets that are addresses, first of all"),
	REFUSED("clients"),
};

static const struct table service_table = { .what = "service",
					    TABLE(service_fields),
					    .size = sizeof(struct service_config),
					    .line = offsetof(struct service_config, line) };

#define LIMIT(name, kind, least, most, value, text)                                              \
	{                                                                                        \
		.key = #name, .type = (kind), MEMBER(struct relay_limits, name), .min = (least), \
		.max = (most), .def = (value), .help = (text)                                    \
	}

static const struct field relay_limit_fields[] = {
	LIMIT(connections, FIELD_NUMBER, 1, 1048576, "16384",
	      "connections accepted at a time, clients and tunnels together"),
	LIMIT(parked, FIELD_NUMBER, 1, 1048576, "1024", "streams that wait for a tunnel"),
	LIMIT(tunnels, FIELD_NUMBER, 1, 65536, "1024", "tunnels at a time"),
	LIMIT(tunnels_per_owner, FIELD_NUMBER, 1, 65536, "16", "tunnels of one owner at a time"),
	LIMIT(streams_per_tunnel, FIELD_NUMBER, 1, 1048576, "4096",
	      "streams in one tunnel, or of one HTTP/2 client, at a time"),
	LIMIT(streams_per_session, FIELD_NUMBER, 1, (1 << 30) - 1, "536870912",
	      "streams in one session in all; then a fresh session takes over"),
	LIMIT(stream_window, FIELD_SIZE, 16 * KIB, GIB, "256KiB", "unread bytes of one stream"),
	LIMIT(session_window, FIELD_SIZE, 64 * KIB, GIB, "32MiB",
	      "unread bytes of all streams of one tunnel or HTTP/2 client"),
};

static const struct table relay_limit_table = { .what = "the limits",
						TABLE(relay_limit_fields),
						.size = sizeof(struct relay_limits),
						.line = NO_LINE };

static const struct field relay_fields[] = {
	{ .key = "workers",
	  .type = FIELD_NUMBER,
	  MEMBER(struct relay_config, workers),
	  .flags = FIELD_AUTO,
	  .min = 1,
	  .max = 256,
	  .def = "auto",
	  .help = "threads; auto is one per core" },
	{ .key = "domain",
	  .type = FIELD_TEXT,
	  MEMBER(struct relay_config, domain),
	  .flags = FIELD_LOWER,
	  .is = is_hostname,
	  .expected = "a DNS name such as relay.example.net",
	  .help = "the relay's own name; SERVICE.OWNER.DOMAIN leads to services by TLS server "
		  "name" },
	{ .key = "tls",
	  .type = FIELD_STRUCT,
	  .table = &tls_table,
	  .help = "for the TLS the relay itself ends; both keys or neither" },
	{ .key = "metrics",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct relay_config, metrics),
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where to serve metrics for Prometheus" },
	{ .key = "log",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, log),
	  .table = &log_table,
	  .help = "what to write, and where" },
	{ .key = "listeners",
	  .type = FIELD_STRUCTS,
	  .flags = FIELD_REQUIRED | FIELD_NONEMPTY,
	  .offset = offsetof(struct relay_config, listeners),
	  .count = offsetof(struct relay_config, n_listeners),
	  .max = 1024,
	  .table = &listener_table,
	  .help = "where clients and tunnels connect" },
	{ .key = "owners",
	  .type = FIELD_STRUCTS,
	  .offset = offsetof(struct relay_config, owners),
	  .count = offsetof(struct relay_config, n_owners),
	  .table = &owner_table,
	  .help = "who may open tunnels" },
	{ .key = "services",
	  .type = FIELD_STRUCTS,
	  .offset = offsetof(struct relay_config, services),
	  .count = offsetof(struct relay_config, n_services),
	  .table = &service_table,
	  .help = "what differs from the defaults: owners' services need no entry" },
	{ .key = "timeouts",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, timeouts),
	  .table = &relay_timeout_table,
	  .help = "how long things may take" },
	{ .key = "limits",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, limits),
	  .table = &relay_limit_table,
	  .help = "how much there may be" },
	REFUSED("clients"),
	REFUSED("client_ca"),
	REFUSED("admin"),
	REFUSED("audit"),
};

const struct table relay_table = { .what = "the relay's config",
				   TABLE(relay_fields),
				   .size = sizeof(struct relay_config),
				   .line = NO_LINE };

/* ---- tunnel.yaml ---- */

static const struct word transports[] = {
	{ "auto", TRANSPORT_AUTO },
	{ "direct", TRANSPORT_DIRECT },
	{ "websocket", TRANSPORT_WEBSOCKET },
	{ NULL, 0 },
};

static const struct word dial_modes[] = {
	{ "first-byte", DIAL_LAZY },
	{ "eager", DIAL_EAGER },
	{ NULL, 0 },
};

static const struct field offer_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct offer_config, name),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_label,
	  .expected = EXPECTED_LABEL,
	  .help = "the SERVICE of SERVICE.OWNER; the owner is the token's; unique" },
	{ .key = "target",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct offer_config, target),
	  .flags = FIELD_REQUIRED | FIELD_DIAL,
	  .kinds = KIND(TCP) | KIND(UNIX) | KIND(VSOCK) | KIND(HYBRID),
	  .help = "where the service listens" },
	{ .key = "dial",
	  .type = FIELD_ENUM,
	  MEMBER(struct offer_config, dial),
	  .def = "first-byte",
	  .words = dial_modes,
	  .help = "when to connect to the target: eager if the server speaks first" },
	{ .key = "idle",
	  .type = FIELD_DURATION,
	  MEMBER(struct offer_config, idle),
	  .max = 365 * DAY,
	  .def = "0",
	  .help = "instead of timeouts.idle, which 0 stands for" },
	PROXY_SENT(struct offer_config, "a PROXY header to the target, first of all"),
};

static const struct table offer_table = { .what = "service",
					  TABLE(offer_fields),
					  .size = sizeof(struct offer_config),
					  .line = offsetof(struct offer_config, line) };

static const struct field local_fields[] = {
	{ .key = "address",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct local_config, address),
	  .flags = FIELD_REQUIRED,
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where to listen, on this machine only" },
	{ .key = "service",
	  .type = FIELD_TEXT,
	  MEMBER(struct local_config, service),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_service,
	  .expected = EXPECTED_SERVICE,
	  .help = "the service behind the relay that it leads to" },
};

static const struct table local_table = { .what = "local listener",
					  TABLE(local_fields),
					  .size = sizeof(struct local_config),
					  .line = offsetof(struct local_config, line) };

static const struct field tunnel_limit_fields[] = {
	{ .key = "streams",
	  .type = FIELD_NUMBER,
	  MEMBER(struct tunnel_config, limits.streams),
	  .min = 1,
	  .max = 1048576,
	  .def = "4096",
	  .help = "streams at a time, from relays and from local listeners each" },
	{ .key = "stream_window",
	  .type = FIELD_SIZE,
	  MEMBER(struct tunnel_config, limits.stream_window),
	  .min = 16 * KIB,
	  .max = GIB,
	  .def = "256KiB",
	  .help = "unread bytes of one stream" },
	{ .key = "session_window",
	  .type = FIELD_SIZE,
	  MEMBER(struct tunnel_config, limits.session_window),
	  .min = 64 * KIB,
	  .max = GIB,
	  .def = "32MiB",
	  .help = "unread bytes of all streams" },
};

/* Offsets are the whole config's: the member has no type of its own. */
static const struct table tunnel_limit_table = { .what = "the limits",
						 TABLE(tunnel_limit_fields),
						 .size = sizeof(struct tunnel_config),
						 .line = NO_LINE };

static const struct field tunnel_fields[] = {
	{ .key = "relays",
	  .type = FIELD_ADDRESSES,
	  LIST(struct tunnel_config, relays),
	  .flags = FIELD_DIAL,
	  .max = 64,
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where relays listen; at least one, here or by --relay" },
	{ .key = "server_name",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, server_name),
	  .flags = FIELD_LOWER,
	  .is = schema_is_server_name,
	  .expected = EXPECTED_SERVER_NAME,
	  .help = "the name the relay's certificate must have; left out, the host of its address" },
	{ .key = "token_file",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, token_file),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "file with the token; required with services, here or by --token-file" },
	{ .key = "ca_file",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, ca_file),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file of the CAs to trust; left out, the system's" },
	{ .key = "proxy",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, proxy),
	  .is = schema_is_path, /* check_proxy says what is wrong, and does not quote it */
	  .expected = "SCHEME://[USER@]HOST:PORT, or none",
	  .help = "the proxy to go through; left out, the environment's; none for none" },
	{ .key = "proxy_credentials_file",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, proxy_credentials_file),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "file with USER:PASSWORD for the proxy, on one line" },
	{ .key = "proxy_ca_file",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, proxy_ca_file),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file of the CAs to trust for an https proxy; left out, the system's" },
	{ .key = "no_proxy",
	  .type = FIELD_TEXTS,
	  LIST(struct tunnel_config, no_proxy),
	  .max = 1024,
	  .is = no_proxy_is_entry,
	  .expected = "a host, an address, ADDRESS/BITS, each with or without :PORT, or *",
	  .help = "relays that are connected to without that proxy" },
	{ .key = "transport",
	  .type = FIELD_ENUM,
	  MEMBER(struct tunnel_config, transport),
	  .def = "auto",
	  .words = transports,
	  .help = "auto tries direct TLS, then WebSocket" },
	{ .key = "instance",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, instance),
	  .is = schema_is_word,
	  .expected = EXPECTED_WORD,
	  .help = "stable name of this agent; left out, made from machine-id and services" },
	{ .key = "log",
	  .type = FIELD_STRUCT,
	  MEMBER(struct tunnel_config, log),
	  .table = &log_table,
	  .help = "what to write, and where" },
	{ .key = "services",
	  .type = FIELD_STRUCTS,
	  .offset = offsetof(struct tunnel_config, services),
	  .count = offsetof(struct tunnel_config, n_services),
	  .max = 1024,
	  .table = &offer_table,
	  .help = "what to offer; one here, or by --service, or a local listener at least" },
	{ .key = "local",
	  .type = FIELD_STRUCTS,
	  .offset = offsetof(struct tunnel_config, locals),
	  .count = offsetof(struct tunnel_config, n_locals),
	  .max = 1024,
	  .table = &local_table,
	  .help = "listeners on this machine that lead to services behind a relay" },
	{ .key = "certificate",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, certificate),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: what is shown to relays for local listeners; left out, nothing is" },
	{ .key = "key",
	  .type = FIELD_TEXT,
	  MEMBER(struct tunnel_config, key),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the certificate's private key" },
	{ .key = "timeouts",
	  .type = FIELD_STRUCT,
	  MEMBER(struct tunnel_config, timeouts),
	  .table = &tunnel_timeout_table,
	  .help = "how long things may take" },
	{ .key = "limits",
	  .type = FIELD_STRUCT,
	  .table = &tunnel_limit_table,
	  .help = "how much there may be" },
};

const struct table tunnel_table = { .what = "the tunnel's config",
				    TABLE(tunnel_fields),
				    .size = sizeof(struct tunnel_config),
				    .line = NO_LINE };

_Static_assert(sizeof(relay_fields) / sizeof(relay_fields[0]) <= TABLE_FIELDS_MAX,
	       "seen[] holds it");
_Static_assert(sizeof(tunnel_fields) / sizeof(tunnel_fields[0]) <= TABLE_FIELDS_MAX, "and it");
