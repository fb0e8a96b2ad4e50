/*
 * schema_rows: what the tables of all programs are written with. For the schema files only.
 */
#ifndef CONFIG_SCHEMA_ROWS_H
#define CONFIG_SCHEMA_ROWS_H

#include "config/schema.h"

#define KIND(k) (1u << ADDRESS_##k)
#define MEMBER(type, member) .offset = offsetof(type, member), .width = sizeof(((type *)0)->member)
#define LIST(type, member) .offset = offsetof(type, member.at), .count = offsetof(type, member.n)
#define TABLE(rows) .fields = rows, .n = sizeof(rows) / sizeof((rows)[0])
#define REFUSED(name)                              \
	{                                          \
		.key = name, .type = FIELD_REFUSED \
	}
#define TIMEOUT(name, least, most, value, text)                                             \
	{                                                                                   \
		.key = #name, .type = FIELD_DURATION, MEMBER(struct timeouts_config, name), \
		.min = (least), .max = (most), .def = (value), .help = (text)               \
	}

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

#define SECOND UINT64_C(1000)
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)
#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Whether a text is well-formed (struct field's is), and what is expected of it. */
bool schema_is_word(const char *text);
bool schema_is_path(const char *text);
bool schema_is_mode(const char *text);
#define EXPECTED_MODE "an octal mode from 0 to 0777, such as \"0660\""
/* Verified against a certificate, where an IP address may stand too. */
bool schema_is_server_name(const char *text);
/* TLS forbids IP addresses as server names, so a last label of digits is a mistake. */
bool schema_is_hostname(const char *text);
/* A subject alternative name. */
bool schema_is_certificate_name(const char *text);
#define EXPECTED_CERTIFICATE_NAME "dns:NAME, uri:URI or email:ADDRESS, as in the certificate"
bool schema_is_range(const char *text);
#define EXPECTED_RANGE "a number up to 4294967295, or a range such as 40-49"
#define EXPECTED_WORD "1 to 64 letters, digits, '.', '_' and '-'"
#define EXPECTED_PATH "the path of a file"
#define EXPECTED_SERVER_NAME "a DNS name or IP address, as in the relay's certificate"
#define EXPECTED_LABEL "1 to 63 letters, digits and '-', neither first nor last '-'"
#define EXPECTED_HOST "a DNS name such as kbs.acme.example"
#define EXPECTED_SERVICE "SERVICE.OWNER, each of letters, digits and '-'"

/* A PROXY header to a target. */
extern const struct word schema_proxy_sent[];
#define PROXY_SENT(type_, text)                                                  \
	{                                                                        \
		.key = "proxy_protocol", .type = FIELD_ENUM,                     \
		MEMBER(type_, proxy_protocol), .def = "off", .words = schema_proxy_sent, \
		.help = (text)                                                   \
	}

extern const struct table log_table;

/* A user or group of the system. */
bool schema_is_account(const char *text);
#define EXPECTED_ACCOUNT "a name, or a number up to 4294967294"
extern const struct table admin_table;
#define ADMIN(of)                                                                        \
	{                                                                                \
		.key = "admin", .type = FIELD_STRUCT, MEMBER(of, admin),                 \
		.flags = FIELD_SHORT | FIELD_RESTART, .table = &admin_table,             \
		.help = "the socket at which attestctl, and who may open it, asks and controls" \
	}

#endif
