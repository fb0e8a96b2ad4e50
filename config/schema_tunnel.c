/*
 * schema_tunnel: the tables of tunnel.yaml.
 *
 * Theory of operation: constant data, as in schema_relay.c. What tables cannot say is in tunnel.c.
 */
#include <string.h>

#include "config/no_proxy.h"
#include "config/schema_rows.h"

/* A relay's name for a client, or a name in its certificate. */
static bool is_allowed(const char *text)
{
	return strncmp(text, "client:", 7) == 0 ? schema_is_word(text + 7) :
						  schema_is_certificate_name(text);
}

/* clang-format off: rows stay rows */

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
	{ .key = "allow",
	  .type = FIELD_TEXTS,
	  LIST(struct offer_config, allow),
	  .flags = FIELD_NONEMPTY,
	  .max = 1024,
	  .is = is_allowed,
	  .expected = "client:NAME, dns:NAME, uri:URI or email:ADDRESS",
	  .help = "the clients that may use it, as the relay has verified them; left out, all "
		  "that the relay lets in" },
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
	  .kinds = KIND(TCP) | KIND(UNIX) | KIND(FD),
	  .help = "where to listen, on this machine only" },
	{ .key = "service",
	  .type = FIELD_TEXT,
	  MEMBER(struct local_config, service),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_service,
	  .expected = EXPECTED_SERVICE,
	  .help = "the service behind the relay that it leads to" },
	{ .key = "mode",
	  .type = FIELD_TEXT,
	  MEMBER(struct local_config, mode),
	  .is = schema_is_mode,
	  .expected = EXPECTED_MODE,
	  .help = "of a unix path, octal, by which users may connect; left out, the umask's" },
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
	  .help = "file with the token; with services this or certificate is needed" },
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
	  .flags = FIELD_HIDDEN,
	  .is = schema_is_path, /* check_proxy says what is wrong, and does not quote it either */
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
	{ .key = "metrics",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct tunnel_config, metrics),
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where to serve metrics for Prometheus, and health" },
	ADMIN(struct tunnel_config),
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
	  .help = "PEM file: what is shown to relays; left out, nothing is" },
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

_Static_assert(sizeof(tunnel_fields) / sizeof(tunnel_fields[0]) <= TABLE_FIELDS_MAX,
	       "seen[] holds it");
