/*
 * schema_relay: the tables of relay.yaml.
 *
 * Theory of operation: constant data. A key is named as its member of the struct. A new key is a
 * row here, a member in config.h, a line in the manual page and one in the example (a test compares
 * them all). What tables cannot say is in check.c; what other programs' tables need too, in
 * schema_rows.c. Settings that the design knows but this version does not do have rows of type
 * FIELD_REFUSED: most of them restrict who may do what, and dropping such a key in silence would
 * leave open what it was to close.
 *
 * Longer than other files: all settings of the relay stand in one place.
 */
#include <string.h>

#include "config/schema_rows.h"

/* SERVICE.OWNER, of which either may be "*"; or "*" for all. */
static bool is_service_pattern(const char *text)
{
	const char *dot = strchr(text, '.');
	char label[64];

	if (strcmp(text, "*") == 0 || name_is_service(text))
		return true;
	if (!dot || (size_t)(dot - text) >= sizeof(label))
		return false;
	memcpy(label, text, (size_t)(dot - text));
	label[dot - text] = '\0';
	return (strcmp(label, "*") == 0 || name_is_label(label)) &&
	       (strcmp(dot + 1, "*") == 0 || name_is_label(dot + 1));
}
#define EXPECTED_SERVICE_PATTERN "SERVICE.OWNER, *.OWNER, SERVICE.* or *"

/* clang-format off: rows stay rows */

static const struct field relay_timeout_fields[] = {
	TIMEOUT_HANDSHAKE,
	TIMEOUT(pickup, 1, HOUR, "10s", "a client's stream waiting for a tunnel"),
	TIMEOUTS_SHARED,
};

static const struct table relay_timeout_table = { .what = "the timeouts",
						  TABLE(relay_timeout_fields),
						  .size = sizeof(struct timeouts_config),
						  .line = NO_LINE };

static const struct word audit_targets[] = {
	{ "auto", CONFIG_AUDIT_AUTO },
	{ "off", CONFIG_AUDIT_OFF },
	{ "journal", CONFIG_AUDIT_JOURNAL },
	{ "file", CONFIG_AUDIT_FILE },
	{ NULL, 0 },
};

static const struct field audit_fields[] = {
	{ .key = "target",
	  .type = FIELD_ENUM,
	  MEMBER(struct audit_config, target),
	  .def = "auto",
	  .words = audit_targets,
	  .help = "where to; auto is file if there is one, else the journal if the log goes there, "
		  "else nowhere" },
	{ .key = "file",
	  .type = FIELD_TEXT,
	  MEMBER(struct audit_config, file),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "a file that records are added to, a line of JSON each" },
	{ .key = "start_after",
	  .type = FIELD_DURATION,
	  MEMBER(struct audit_config, start_after),
	  .min = SECOND,
	  .max = DAY,
	  .def = "1min",
	  .help = "a stream that lasts so long has a record then, besides that of its end" },
};

static const struct table audit_table = { .what = "the audit settings",
					  TABLE(audit_fields),
					  .size = sizeof(struct audit_config),
					  .line = NO_LINE };

static const struct word doors[] = {
	{ "tunnel", DOOR_TUNNEL },       { "sni", DOOR_SNI }, { "connect", DOOR_CONNECT },
	{ "websocket", DOOR_WEBSOCKET }, { NULL, 0 },
};

static const struct word certificates_wanted[] = {
	{ "required", CERTIFICATES_REQUIRED },
	{ "optional", CERTIFICATES_OPTIONAL },
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
	  .help = "PEM file: the CAs whose certificates clients and tunnels may show" },
	{ .key = "client_crl",
	  .type = FIELD_TEXT,
	  MEMBER(struct listener_config, client_crl),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: those CAs' lists of revoked certificates, one of each CA" },
	{ .key = "client_certificates",
	  .type = FIELD_ENUM,
	  MEMBER(struct listener_config, client_certificates),
	  .def = "required",
	  .words = certificates_wanted,
	  .help = "whether clients at the doors connect and websocket must show one" },
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

const struct table relay_listener_table = { .what = "listener",
					     TABLE(listener_fields),
					     .size = sizeof(struct listener_config),
					     .line = offsetof(struct listener_config, line) };

#define CREDENTIAL_LABEL                                                                     \
	{                                                                                    \
		.key = "label", .type = FIELD_TEXT, MEMBER(struct credential_config, label), \
		.is = schema_is_word, .expected = EXPECTED_WORD,                             \
		.help = "names it in the log and in audit records"                           \
	}
#define CREDENTIAL_EXPIRES                                                                       \
	{                                                                                        \
		.key = "expires", .type = FIELD_TIME, MEMBER(struct credential_config, expires), \
		.help = "from then on it is void, and tunnels by it end"                         \
	}

static const struct field token_fields[] = {
	{ .key = "hash",
	  .type = FIELD_HASH,
	  MEMBER(struct credential_config, hash),
	  .flags = FIELD_REQUIRED,
	  .help = "of the token" },
	CREDENTIAL_LABEL,
	CREDENTIAL_EXPIRES,
};

static const struct table token_table = { .what = "token",
					  TABLE(token_fields),
					  .size = sizeof(struct credential_config),
					  .line = offsetof(struct credential_config, line) };

static const struct field certificate_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct credential_config, name),
	  .flags = FIELD_REQUIRED,
	  .is = schema_is_certificate_name,
	  .expected = EXPECTED_CERTIFICATE_NAME,
	  .help = "a subject alternative name of the certificate, exactly" },
	CREDENTIAL_LABEL,
	CREDENTIAL_EXPIRES,
};

static const struct table certificate_table = { .what = "certificate",
						TABLE(certificate_fields),
						.size = sizeof(struct credential_config),
						.line = offsetof(struct credential_config, line) };

#define TENANT_NUMBER(name, least, value, text)                                         \
	{                                                                               \
		.key = #name, .type = FIELD_NUMBER, MEMBER(struct tenant_limits, name), \
		.min = (least), .max = 1048576, .def = (value), .help = (text)          \
	}
#define TENANT_SIZE(name, least, value, text)                                         \
	{                                                                             \
		.key = #name, .type = FIELD_SIZE, MEMBER(struct tenant_limits, name), \
		.min = (least), .max = 1024 * GIB, .def = (value), .help = (text)     \
	}

static const struct field own_limit_fields[] = {
	TENANT_NUMBER(tunnels, 0, "0", "tunnels at a time"),
	TENANT_NUMBER(streams, 0, "0", "streams at a time, parked ones, too"),
	TENANT_NUMBER(parked, 0, "0", "streams that wait for a tunnel"),
	TENANT_NUMBER(opens_per_second, 0, "0", "streams opened in a second"),
	TENANT_SIZE(bytes_per_second, 0, "0", "both ways together"),
	TENANT_SIZE(memory, 0, "0", "for bytes that wait for readers in its tunnels and streams"),
};

static const struct field client_limit_fields[] = {
	TENANT_NUMBER(streams, 0, "0", "streams at a time, parked ones, too"),
	TENANT_NUMBER(parked, 0, "0", "streams that wait for a tunnel"),
	TENANT_NUMBER(opens_per_second, 0, "0", "streams opened in a second"),
	TENANT_SIZE(bytes_per_second, 0, "0", "both ways together"),
};

static const struct table client_limit_table = { .what = "a client's own limits",
						 TABLE(client_limit_fields),
						 .size = sizeof(struct tenant_limits),
						 .line = NO_LINE };

static const struct table own_limit_table = { .what = "an owner's own limits",
					      TABLE(own_limit_fields),
					      .size = sizeof(struct tenant_limits),
					      .line = NO_LINE };

static const struct field owner_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct owner_config, name),
	  .flags = FIELD_REQUIRED | FIELD_LOWER,
	  .is = name_is_label,
	  .expected = EXPECTED_LABEL,
	  .help = "the OWNER of SERVICE.OWNER; unique" },
	{ .key = "tokens",
	  .type = FIELD_STRUCTS,
	  LIST(struct owner_config, tokens),
	  .flags = FIELD_NONEMPTY | FIELD_SHORT,
	  .table = &token_table,
	  .help = "the tokens its tunnels may show" },
	{ .key = "certificates",
	  .type = FIELD_STRUCTS,
	  LIST(struct owner_config, certificates),
	  .flags = FIELD_NONEMPTY | FIELD_SHORT,
	  .table = &certificate_table,
	  .help = "the certificates its tunnels may show instead" },
	{ .key = "services",
	  .type = FIELD_TEXTS,
	  LIST(struct owner_config, services),
	  .flags = FIELD_NONEMPTY | FIELD_LOWER,
	  .is = name_is_label,
	  .expected = EXPECTED_LABEL,
	  .help = "the services its tunnels may offer; left out, any" },
	{ .key = "limits",
	  .type = FIELD_STRUCT,
	  MEMBER(struct owner_config, limits),
	  .table = &own_limit_table,
	  .help = "its own instead of limits.per_owner, which 0 stands for" },
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
	  .is = schema_is_hostname,
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
	  .is = schema_is_hostname,
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
};

const struct table relay_service_table = { .what = "service",
					   TABLE(service_fields),
					   .size = sizeof(struct service_config),
					   .line = offsetof(struct service_config, line) };

#define CLIENT_TEXTS(key_, is_, expected_, text)                                              \
	{                                                                                     \
		.key = #key_, .type = FIELD_TEXTS, LIST(struct client_config, key_),          \
		.flags = FIELD_NONEMPTY, .is = (is_), .expected = (expected_), .help = (text) \
	}

static const struct field client_fields[] = {
	{ .key = "name",
	  .type = FIELD_TEXT,
	  MEMBER(struct client_config, name),
	  .flags = FIELD_REQUIRED,
	  .is = schema_is_word,
	  .expected = EXPECTED_WORD,
	  .help = "for logs, audit records and the owners' own rules; unique" },
	CLIENT_TEXTS(certificates, schema_is_certificate_name, EXPECTED_CERTIFICATE_NAME,
		     "it has shown a certificate with one of these names"),
	{ .key = "networks",
	  .type = FIELD_NETWORKS,
	  LIST(struct client_config, networks),
	  .flags = FIELD_NONEMPTY,
	  .help = "it comes from one of these" },
	CLIENT_TEXTS(listeners, schema_is_word, EXPECTED_WORD,
		     "it comes by one of these listeners"),
	CLIENT_TEXTS(uids, schema_is_range, EXPECTED_RANGE,
		     "it is a process of one of these users, by Unix socket"),
	CLIENT_TEXTS(cids, schema_is_range, EXPECTED_RANGE, "it has one of these vsock CIDs"),
	{ .key = "services",
	  .type = FIELD_TEXTS,
	  LIST(struct client_config, services),
	  .flags = FIELD_REQUIRED | FIELD_NONEMPTY | FIELD_LOWER,
	  .is = is_service_pattern,
	  .expected = EXPECTED_SERVICE_PATTERN,
	  .help = "what it may open" },
	{ .key = "expires",
	  .type = FIELD_TIME,
	  MEMBER(struct client_config, expires),
	  .help = "from then on it may not, and its streams end" },
	{ .key = "limits",
	  .type = FIELD_STRUCT,
	  MEMBER(struct client_config, limits),
	  .table = &client_limit_table,
	  .help = "its own instead of limits.per_client, which 0 stands for" },
};

static const struct table client_table = { .what = "client",
					   TABLE(client_fields),
					   .size = sizeof(struct client_config),
					   .line = offsetof(struct client_config, line) };

static const struct field enrolment_fields[] = {
	{ .key = "ca",
	  .type = FIELD_TEXT,
	  MEMBER(struct enrolment_config, ca),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: the certificate of the CA that signs owners' certificates" },
	{ .key = "key",
	  .type = FIELD_TEXT,
	  MEMBER(struct enrolment_config, key),
	  .flags = FIELD_PATH,
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "PEM file: that CA's private key" },
	{ .key = "folder",
	  .type = FIELD_TEXT,
	  MEMBER(struct enrolment_config, folder),
	  .flags = FIELD_PATH,
	  .def = "/var/lib/attest-relay/enrolment",
	  .is = schema_is_path,
	  .expected = EXPECTED_PATH,
	  .help = "where codes, records of certificates and the list of revoked ones are kept" },
	{ .key = "certificate_valid",
	  .type = FIELD_DURATION,
	  MEMBER(struct enrolment_config, certificate_valid),
	  .min = SECOND,
	  .max = 3650 * DAY,
	  .def = "90d",
	  .help = "how long a certificate is good, if the CA's is for so long" },
	{ .key = "code_valid",
	  .type = FIELD_DURATION,
	  MEMBER(struct enrolment_config, code_valid),
	  .min = SECOND,
	  .max = 7 * DAY,
	  .def = "15min",
	  .help = "how long a code is good, if it is not used before" },
};

static const struct table enrolment_table = { .what = "the enrolment",
					      TABLE(enrolment_fields),
					      .size = sizeof(struct enrolment_config),
					      .line = NO_LINE };

/*
 * The rule behind the defaults: a source or a client gets at most a quarter of what
 * there is for all, an owner at most half, so that none alone keeps out the others. What a busy NAT
 * or a load balancer needs is well below.
 */
static const struct field per_source_fields[] = {
	TENANT_NUMBER(connections, 1, "4096",
		      "connections, and streams in HTTP/2 connections, at a time"),
	TENANT_NUMBER(handshakes, 1, "1024", "connections that have not said yet what they want"),
	TENANT_NUMBER(streams, 1, "4096", "streams at a time, parked ones, too"),
	TENANT_NUMBER(parked, 1, "256", "streams that wait for a tunnel"),
	TENANT_NUMBER(opens_per_second, 1, "5000", "streams opened in a second"),
	TENANT_SIZE(bytes_per_second, 0, "0", "both ways together; 0: no limit"),
	TENANT_SIZE(memory, MIB, "128MiB", "for bytes that wait for readers in its streams"),
};

static const struct table per_source_table = { .what = "a source's limits",
					       TABLE(per_source_fields),
					       .size = sizeof(struct tenant_limits),
					       .line = NO_LINE };

static const struct field per_owner_fields[] = {
	TENANT_NUMBER(tunnels, 1, "16", "tunnels at a time"),
	TENANT_NUMBER(streams, 1, "8192", "streams at a time, parked ones, too"),
	TENANT_NUMBER(parked, 1, "512", "streams that wait for a tunnel"),
	TENANT_NUMBER(opens_per_second, 1, "10000", "streams opened in a second"),
	TENANT_SIZE(bytes_per_second, 0, "0", "both ways together; 0: no limit"),
	TENANT_SIZE(memory, MIB, "256MiB",
		    "for bytes that wait for readers in its tunnels and streams"),
};

static const struct table per_owner_table = { .what = "an owner's limits",
					      TABLE(per_owner_fields),
					      .size = sizeof(struct tenant_limits),
					      .line = NO_LINE };

static const struct field per_client_fields[] = {
	TENANT_NUMBER(streams, 1, "4096", "streams at a time, parked ones, too"),
	TENANT_NUMBER(parked, 1, "256", "streams that wait for a tunnel"),
	TENANT_NUMBER(opens_per_second, 1, "5000", "streams opened in a second"),
	TENANT_SIZE(bytes_per_second, 0, "0", "both ways together; 0: no limit"),
};

static const struct table per_client_table = { .what = "a client's limits",
					       TABLE(per_client_fields),
					       .size = sizeof(struct tenant_limits),
					       .line = NO_LINE };

static const struct field penalty_fields[] = {
	{ .key = "failures",
	  .type = FIELD_NUMBER,
	  MEMBER(struct penalties_config, failures),
	  .max = 1000000,
	  .def = "10",
	  .help = "to authenticate, of one source, after which it is blocked; 0: it never is" },
	{ .key = "half_life",
	  .type = FIELD_DURATION,
	  MEMBER(struct penalties_config, half_life),
	  .min = SECOND,
	  .max = DAY,
	  .def = "60s",
	  .help = "then a failure counts half" },
	{ .key = "block",
	  .type = FIELD_DURATION,
	  MEMBER(struct penalties_config, block),
	  .min = SECOND,
	  .max = DAY,
	  .def = "10s",
	  .help = "how long for the first time; each further time is twice as long" },
	{ .key = "block_max",
	  .type = FIELD_DURATION,
	  MEMBER(struct penalties_config, block_max),
	  .min = SECOND,
	  .max = DAY,
	  .def = "10min",
	  .help = "but no longer than this" },
	{ .key = "exempt",
	  .type = FIELD_NETWORKS,
	  LIST(struct penalties_config, exempt),
	  .flags = FIELD_NONEMPTY,
	  .max = PROXY_NETWORKS_MAX,
	  .help = "never blocked" },
};

static const struct table penalty_table = { .what = "the penalties",
					    TABLE(penalty_fields),
					    .size = sizeof(struct penalties_config),
					    .line = NO_LINE };

#define LIMIT(name, kind, least, most, value, text)                                              \
	{                                                                                        \
		.key = #name, .type = (kind), MEMBER(struct relay_limits, name), .min = (least), \
		.max = (most), .def = (value), .help = (text)                                    \
	}

static const struct field relay_limit_fields[] = {
	LIMIT(connections, FIELD_NUMBER, 1, 1048576, "16384",
	      "connections accepted at a time, clients and tunnels together"),
	LIMIT(handshakes, FIELD_NUMBER, 1, 1048576, "4096",
	      "of these, those that have not said yet what they want"),
	LIMIT(parked, FIELD_NUMBER, 1, 1048576, "1024", "streams that wait for a tunnel"),
	LIMIT(tunnels, FIELD_NUMBER, 1, 65536, "1024", "tunnels at a time"),
	LIMIT(memory, FIELD_SIZE, MIB, 1024 * GIB, "1GiB",
	      "for bytes that wait for readers in all tunnels and streams together"),
	LIMIT(streams_per_tunnel, FIELD_NUMBER, 1, 1048576, "4096",
	      "streams in one tunnel, or of one HTTP/2 client, at a time"),
	LIMIT(streams_per_session, FIELD_NUMBER, 1, (1 << 30) - 1, "536870912",
	      "streams in one session in all; then a fresh session takes over"),
	LIMIT(stream_window, FIELD_SIZE, 16 * KIB, GIB, "256KiB", "unread bytes of one stream"),
	LIMIT(session_window, FIELD_SIZE, 64 * KIB, GIB, "32MiB",
	      "unread bytes of all streams of one tunnel or HTTP/2 client"),
	{ .key = "per_source",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_limits, per_source),
	  .table = &per_source_table,
	  .help = "what one source address may have" },
	{ .key = "per_owner",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_limits, per_owner),
	  .table = &per_owner_table,
	  .help = "what one owner may have: its tunnels, and clients for its services" },
	{ .key = "per_client",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_limits, per_client),
	  .table = &per_client_table,
	  .help = "what one entry of clients may have, wherever it comes from" },
};

static const struct table relay_limit_table = { .what = "the limits",
						TABLE(relay_limit_fields),
						.size = sizeof(struct relay_limits),
						.line = NO_LINE };

static const struct field relay_fields[] = {
	{ .key = "workers",
	  .type = FIELD_NUMBER,
	  MEMBER(struct relay_config, workers),
	  .flags = FIELD_AUTO | FIELD_RESTART,
	  .min = 1,
	  .max = 256,
	  .def = "auto",
	  .help = "threads; auto is one per core that it may run on" },
	{ .key = "domain",
	  .type = FIELD_TEXT,
	  MEMBER(struct relay_config, domain),
	  .flags = FIELD_LOWER,
	  .is = schema_is_hostname,
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
	  .flags = FIELD_RESTART,
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where to serve metrics for Prometheus, and health" },
	{ .key = "status",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct relay_config, status),
	  .flags = FIELD_RESTART,
	  .kinds = KIND(TCP) | KIND(UNIX),
	  .help = "where to serve a page of the relay's state, to be read only" },
	ADMIN(struct relay_config),
	{ .key = "log",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, log),
	  .table = &log_table,
	  .help = "what to write, and where" },
	{ .key = "audit",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, audit),
	  .table = &audit_table,
	  .help = "records of who was joined to what, and of who was refused" },
	{ .key = "listeners",
	  .type = FIELD_STRUCTS,
	  .flags = FIELD_REQUIRED | FIELD_NONEMPTY,
	  .offset = offsetof(struct relay_config, listeners),
	  .count = offsetof(struct relay_config, n_listeners),
	  .max = 1024,
	  .table = &relay_listener_table,
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
	  .table = &relay_service_table,
	  .help = "what differs from the defaults: owners' services need no entry" },
	{ .key = "clients",
	  .type = FIELD_STRUCTS,
	  .flags = FIELD_NONEMPTY,
	  .offset = offsetof(struct relay_config, clients),
	  .count = offsetof(struct relay_config, n_clients),
	  .table = &client_table,
	  .help = "who may open streams to what; left out, any client to any service" },
	{ .key = "enrolment",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, enrolment),
	  .table = &enrolment_table,
	  .help = "certificates for owners' agents, asked for with a code that is good once" },
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
	{ .key = "penalties",
	  .type = FIELD_STRUCT,
	  MEMBER(struct relay_config, penalties),
	  .table = &penalty_table,
	  .help = "for sources that fail to authenticate again and again" },
	REFUSED("client_ca"),
};

const struct table relay_table = { .what = "the relay's config",
				   TABLE(relay_fields),
				   .size = sizeof(struct relay_config),
				   .line = NO_LINE };

_Static_assert(sizeof(relay_fields) / sizeof(relay_fields[0]) <= TABLE_FIELDS_MAX,
	       "seen[] holds it");
