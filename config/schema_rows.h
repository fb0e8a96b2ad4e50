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

#define SECOND UINT64_C(1000)
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)
#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Whether a text is well-formed (struct field's is), and what is expected of it. */
bool schema_is_word(const char *text);
bool schema_is_path(const char *text);
/* Verified against a certificate, where an IP address may stand too. */
bool schema_is_server_name(const char *text);
#define EXPECTED_WORD "1 to 64 letters, digits, '.', '_' and '-'"
#define EXPECTED_PATH "the path of a file"
#define EXPECTED_SERVER_NAME "a DNS name or IP address, as in the relay's certificate"
#define EXPECTED_SERVICE "SERVICE.OWNER, each of letters, digits and '-'"

extern const struct table log_table;

#endif
