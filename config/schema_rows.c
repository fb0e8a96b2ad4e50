/*
 * schema_rows: rows and checks that the tables of several programs have in common.
 *
 * Theory of operation: constant data, and pure functions over one text each. A key that stands in
 * every program's file means the same in each: so its row is here, once.
 */
#include "config/schema_rows.h"

#include <string.h>

#include "config/scalar.h"

bool schema_is_word(const char *text)
{
	size_t len = strlen(text);

	return len >= 1 && len <= 64 &&
	       strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") ==
		       len;
}

bool schema_is_mode(const char *text)
{
	size_t len = strlen(text);

	return len >= 1 && len <= 4 && strspn(text, "01234567") == len &&
	       (len < 4 || text[0] == '0');
}

bool schema_is_path(const char *text)
{
	return strlen(text) < 4096;
}

bool schema_is_server_name(const char *text)
{
	struct address a;
	char line[300];

	if (strlen(text) > 253)
		return false;
	snprintf(line, sizeof(line), strchr(text, ':') ? "tcp:[%s]:1" : "tcp:%s:1", text);
	if (address_parse(&a, line, NULL) < 0)
		return false;
	address_deinit(&a);
	return true;
}

bool schema_is_hostname(const char *text)
{
	const char *dot = strrchr(text, '.');
	const char *last = dot ? dot + 1 : text;

	return name_is_host(text) && last[strspn(last, "0123456789")] != '\0';
}

bool schema_is_certificate_name(const char *text)
{
	const char *rest = strchr(text, ':');

	if (!rest || strlen(text) > CERTIFICATE_NAME_MAX)
		return false;
	rest++;
	for (const char *p = rest; *p; p++)
		if (*p <= ' ' || *p >= 0x7f || *p == ',')
			return false;
	if (strncmp(text, "dns:", 4) == 0)
		return name_is_host(rest);
	if (strncmp(text, "email:", 6) == 0)
		return strchr(rest, '@') > rest && strchr(rest, '@')[1];
	return strncmp(text, "uri:", 4) == 0 && strchr(rest, ':') > rest;
}

bool schema_is_account(const char *text)
{
	uint64_t id;

	if (text[strspn(text, "0123456789")] == '\0')
		return !scalar_number(text, &id) && id < UINT32_MAX;
	return strlen(text) <= 255 && text[0] != '-' && !strpbrk(text, ":/ ");
}

bool schema_is_range(const char *text)
{
	uint64_t from, to;

	return scalar_range(text, &from, &to) == 0;
}

/* clang-format off: rows stay rows */

const struct word schema_proxy_sent[] = {
	{ "off", PROXY_SENT_NONE },
	{ "v1", PROXY_SENT_V1 },
	{ "v2", PROXY_SENT_V2 },
	{ NULL, 0 },
};

static const struct word log_levels[] = {
	{ "error", CONFIG_LOG_ERROR },
	{ "warning", CONFIG_LOG_WARNING },
	{ "info", CONFIG_LOG_INFO },
	{ "debug", CONFIG_LOG_DEBUG },
	{ NULL, 0 },
};

static const struct word log_formats[] = {
	{ "text", CONFIG_LOG_TEXT },
	{ "json", CONFIG_LOG_JSON },
	{ NULL, 0 },
};

static const struct word log_targets[] = {
	{ "auto", CONFIG_LOG_AUTO },
	{ "stderr", CONFIG_LOG_STDERR },
	{ "journal", CONFIG_LOG_JOURNAL },
	{ NULL, 0 },
};

static const struct field log_fields[] = {
	{ .key = "level",
	  .type = FIELD_ENUM,
	  MEMBER(struct log_config, level),
	  .def = "info",
	  .words = log_levels,
	  .help = "least important lines to write" },
	{ .key = "format",
	  .type = FIELD_ENUM,
	  MEMBER(struct log_config, format),
	  .def = "text",
	  .words = log_formats,
	  .help = "lines for people or for machines" },
	{ .key = "target",
	  .type = FIELD_ENUM,
	  MEMBER(struct log_config, target),
	  .def = "auto",
	  .words = log_targets,
	  .help = "where to; auto is the journal if stderr is connected to it, else stderr" },
};

const struct table log_table = { .what = "the log settings",
					TABLE(log_fields),
					.size = sizeof(struct log_config),
					.line = NO_LINE };

static const struct field admin_fields[] = {
	{ .key = "address",
	  .type = FIELD_ADDRESS,
	  MEMBER(struct admin_config, address),
	  .flags = FIELD_REQUIRED,
	  .kinds = KIND(TCP) | KIND(UNIX), /* check_admin says why it must be unix */
	  .help = "where it is: unix only" },
	{ .key = "owner",
	  .type = FIELD_TEXT,
	  MEMBER(struct admin_config, owner),
	  .is = schema_is_account,
	  .expected = EXPECTED_ACCOUNT,
	  .help = "user that the socket belongs to; left out, the process's" },
	{ .key = "group",
	  .type = FIELD_TEXT,
	  MEMBER(struct admin_config, group),
	  .is = schema_is_account,
	  .expected = EXPECTED_ACCOUNT,
	  .help = "group that the socket belongs to; left out, the process's" },
	{ .key = "mode",
	  .type = FIELD_TEXT,
	  MEMBER(struct admin_config, mode),
	  .def = "0600",
	  .is = schema_is_mode,
	  .expected = EXPECTED_MODE,
	  .help = "of the socket, octal; nothing for others" },
};

const struct table admin_table = { .what = "the admin socket",
				   TABLE(admin_fields),
				   .size = sizeof(struct admin_config),
				   .line = NO_LINE };
