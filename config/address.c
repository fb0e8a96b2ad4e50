/*
 * address: one notation for every place to listen on or to dial.
 *
 * Theory of operation: the text up to the first ':' names the kind; each kind has one parser that
 * fills a struct of its own, which is copied out only once all of the text was understood. What
 * can be written in several ways is kept in one (IPv6 as inet_ntop writes it, service names in
 * lower case, CIDs with a name by that name), so address_format(address_parse(x)) is a normal form.
 * Whether a kind is allowed in some place is for that place to say, not for the parser.
 */
#include "config/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "config/xalloc.h"

#define LABEL_MAX 63
#define HOST_MAX 253
#define FD_NAME_MAX 255 /* FDNAME_MAX of systemd */
#define ZONE_MAX 15     /* IFNAMSIZ - 1 */
#define UNIX_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

#define CID_ANY UINT32_MAX /* VMADDR_CID_ANY */

static const struct cid_name {
	const char *name;
	uint32_t cid;
} cid_names[] = {
	{ "any", CID_ANY },
	{ "hypervisor", 0 },
	{ "local", 1 },
	{ "host", 2 },
};
#define N_CID_NAMES (sizeof(cid_names) / sizeof(cid_names[0]))

/* Without the locale. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_label_char(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
}

static bool label_ok(const char *text, size_t len)
{
	if (len == 0 || len > LABEL_MAX || text[0] == '-' || text[len - 1] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_label_char(text[i]))
			return false;
	return true;
}

/* How many labels joined by dots; 0: it is not that. */
static size_t labels(const char *text)
{
	for (size_t n = 1;; n++) {
		size_t len = strcspn(text, ".");

		if (!label_ok(text, len))
			return 0;
		if (!text[len])
			return n;
		text += len + 1;
	}
}

bool name_is_label(const char *text)
{
	return label_ok(text, strlen(text));
}

bool name_is_service(const char *text)
{
	return labels(text) == 2;
}

bool name_is_host(const char *text)
{
	return strlen(text) <= HOST_MAX && labels(text) > 0;
}

static void lower(char *text)
{
	for (; *text; text++)
		if (*text >= 'A' && *text <= 'Z')
			*text = (char)(*text - 'A' + 'a');
}

/* Decimal digits only, no sign, no leading zero (which some would read as octal). */
static bool number(const char *text, uint32_t *value)
{
	uint64_t n = 0;

	if (!is_digit(text[0]) || (text[0] == '0' && text[1]))
		return false;
	for (; *text; text++) {
		if (!is_digit(*text))
			return false;
		n = n * 10 + (uint64_t)(*text - '0');
		if (n > UINT32_MAX)
			return false;
	}
	*value = (uint32_t)n;
	return true;
}

/*
 * The parsers return NULL, or what was expected.
 */
static const char *parse_ipv6(struct address *a, const char *text)
{
	static const char expected[] = "an IPv6 address between [ and ], such as tcp:[::1]:443";
	char host[INET6_ADDRSTRLEN + 1 + ZONE_MAX + 1], ip[INET6_ADDRSTRLEN];
	const char *end = strchr(text, ']');
	struct in6_addr in;
	char *zone;

	if (!end || (size_t)(end - text) >= sizeof(host))
		return expected;
	memcpy(host, text, (size_t)(end - text));
	host[end - text] = '\0';
	zone = strchr(host, '%');
	if (zone) {
		*zone++ = '\0';
		if (!*zone || strlen(zone) > ZONE_MAX)
			return "an interface name of 1 to 15 characters after %";
		for (const char *p = zone; *p; p++)
			if (!is_label_char(*p) && *p != '_' && *p != '.')
				return "an interface name of letters, digits, '-', '_', '.' after "
				       "%";
	}
	if (inet_pton(AF_INET6, host, &in) != 1)
		return expected;
	if (end[1] != ':' || !number(end + 2, &a->port) || a->port > UINT16_MAX)
		return "a port from 0 to 65535 after the last ':'";
	inet_ntop(AF_INET6, &in, ip, sizeof(ip));
	a->name = zone ? xasprintf("%s%%%s", ip, zone) : xstrdup(ip);
	return NULL;
}

/* A host to dial: as DNS names go, but '_' (container names) and the root's dot are let through. */
static bool dialable_host(const char *text)
{
	size_t len = strlen(text);
	const char *last = text;
	struct in_addr in;

	if (len == 0 || len > HOST_MAX)
		return false;
	for (const char *p = text; *p; p++) {
		if (!is_label_char(*p) && *p != '_' && *p != '.')
			return false;
		if (*p == '.' && (p == text || p[1] == '.'))
			return false;
		if (*p == '.' && p[1])
			last = p + 1;
	}
	/* What ends in a number is an IPv4 address or a mistake, never a name. */
	if (last[strspn(last, "0123456789")] == '\0')
		return inet_pton(AF_INET, text, &in) == 1;
	return text[0] != '-';
}

static const char *parse_tcp(struct address *a, const char *text)
{
	const char *colon = strchr(text, ':');
	char *host;

	if (text[0] == '[')
		return parse_ipv6(a, text + 1);
	if (!colon)
		return "tcp:HOST:PORT";
	if (strchr(colon + 1, ':'))
		return "an IPv6 address in brackets, such as tcp:[::1]:443";
	if (colon == text || (text[0] == '*' && colon == text + 1))
		return "a host; to listen on all addresses write tcp:[::]:PORT or tcp:0.0.0.0:PORT";
	if (!number(colon + 1, &a->port) || a->port > UINT16_MAX)
		return "a port from 0 to 65535 after the last ':'";
	host = xstrndup(text, (size_t)(colon - text));
	if (!dialable_host(host)) {
		free(host);
		return "a host name or an IP address before the port";
	}
	lower(host);
	a->name = host;
	return NULL;
}

static bool printable(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return false;
	return true;
}

static const char *path_wrong(const char *text, size_t len)
{
	if (!printable(text, len))
		return "a path without control characters";
	if (len > UNIX_PATH_MAX)
		return "a path of at most 107 bytes, which is what a Unix socket's address holds";
	return NULL;
}

static const char *parse_unix(struct address *a, const char *text)
{
	const char *wrong = path_wrong(text, strlen(text));

	if ((text[0] != '/' && text[0] != '@') || !text[1])
		return "an absolute path or @NAME after unix:";
	if (wrong)
		return wrong;
	a->name = xstrdup(text);
	return NULL;
}

static const char *parse_vsock(struct address *a, const char *text)
{
	const char *colon = strchr(text, ':');
	char cid[16];
	size_t len, i;

	if (!colon)
		return "vsock:CID:PORT";
	len = (size_t)(colon - text);
	if (len >= sizeof(cid))
		return "a CID: any, hypervisor, local, host or a number";
	memcpy(cid, text, len);
	cid[len] = '\0';
	for (i = 0; i < N_CID_NAMES && strcmp(cid, cid_names[i].name) != 0; i++)
		;
	if (i < N_CID_NAMES)
		a->cid = cid_names[i].cid;
	else if (!number(cid, &a->cid))
		return "a CID: any, hypervisor, local, host or a number";
	/* All ones is VMADDR_PORT_ANY. */
	if (!number(colon + 1, &a->port) || a->port == UINT32_MAX)
		return "a port from 0 to 4294967294 after the CID";
	return NULL;
}

static const char *parse_hybrid(struct address *a, const char *text)
{
	const char *colon = strrchr(text, ':');
	const char *wrong;

	if (text[0] != '/' || !text[1] || !colon || colon == text + 1)
		return "hybrid:/path:PORT, the path absolute";
	wrong = path_wrong(text, (size_t)(colon - text));
	if (wrong)
		return wrong;
	if (!number(colon + 1, &a->port) || a->port == UINT32_MAX)
		return "a port from 0 to 4294967294 after the last ':'";
	a->name = xstrndup(text, (size_t)(colon - text));
	return NULL;
}

static const char *parse_fd(struct address *a, const char *text)
{
	size_t len = strlen(text);

	if (len == 0 || len > FD_NAME_MAX)
		return "the name of a socket of systemd's after fd:, at most 255 characters";
	for (size_t i = 0; i < len; i++)
		if (text[i] < ' ' || text[i] >= 0x7f || text[i] == ':')
			return "the name of a socket of systemd's: ASCII without ':'";
	a->name = xstrdup(text);
	return NULL;
}

static const char *parse_service(struct address *a, const char *text)
{
	if (!name_is_service(text))
		return "SERVICE.OWNER after service:, each of letters, digits and '-'";
	a->name = xstrdup(text);
	lower(a->name);
	return NULL;
}

static const char *parse_tunnel(struct address *a, const char *text)
{
	return *text ? "tunnel alone, with nothing after it" : NULL;
}

static const struct kind {
	const char *prefix;
	const char *(*parse)(struct address *a, const char *text);
} kinds[] = {
	[ADDRESS_TCP] = { "tcp:", parse_tcp },
	[ADDRESS_UNIX] = { "unix:", parse_unix },
	[ADDRESS_VSOCK] = { "vsock:", parse_vsock },
	[ADDRESS_HYBRID] = { "hybrid:", parse_hybrid },
	[ADDRESS_FD] = { "fd:", parse_fd },
	[ADDRESS_SERVICE] = { "service:", parse_service },
	[ADDRESS_TUNNEL] = { "tunnel", parse_tunnel },
};
_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == ADDRESS_KINDS, "a parser for each kind");

bool address_has_kind(const char *text)
{
	for (int kind = ADDRESS_NONE + 1; kind < ADDRESS_KINDS; kind++)
		if (strncmp(text, kinds[kind].prefix, strlen(kinds[kind].prefix)) == 0)
			return true;
	return false;
}

int address_parse(struct address *a, const char *text, char **why)
{
	const char *expected = "tcp:HOST:PORT, unix:/path, unix:@name, vsock:CID:PORT, "
			       "hybrid:/path:PORT, fd:NAME, service:SERVICE.OWNER or tunnel";
	struct address found = { .kind = ADDRESS_NONE };

	if (strlen(text) >= ADDRESS_TEXT_MAX)
		expected = "an address of less than 512 bytes";
	else
		for (int kind = ADDRESS_NONE + 1; kind < ADDRESS_KINDS; kind++) {
			size_t len = strlen(kinds[kind].prefix);

			if (strncmp(text, kinds[kind].prefix, len) != 0)
				continue;
			expected = kinds[kind].parse(&found, text + len);
			found.kind = (enum address_kind)kind;
			break;
		}
	if (expected) {
		if (why)
			*why = xasprintf("expected %s", expected);
		return -EINVAL;
	}
	*a = found;
	return 0;
}

static const char *cid_text(uint32_t cid, char *buf, size_t size)
{
	for (size_t i = 0; i < N_CID_NAMES; i++)
		if (cid_names[i].cid == cid)
			return cid_names[i].name;
	snprintf(buf, size, "%u", cid);
	return buf;
}

const char *address_format(const struct address *a, char *buf, size_t size)
{
	char cid[16];

	switch (a->kind) {
	case ADDRESS_TCP:
		if (strchr(a->name, ':'))
			snprintf(buf, size, "tcp:[%s]:%u", a->name, a->port);
		else
			snprintf(buf, size, "tcp:%s:%u", a->name, a->port);
		break;
	case ADDRESS_VSOCK:
		snprintf(buf, size, "vsock:%s:%u", cid_text(a->cid, cid, sizeof(cid)), a->port);
		break;
	case ADDRESS_HYBRID:
		snprintf(buf, size, "hybrid:%s:%u", a->name, a->port);
		break;
	case ADDRESS_UNIX:
	case ADDRESS_FD:
	case ADDRESS_SERVICE:
		snprintf(buf, size, "%s%s", kinds[a->kind].prefix, a->name);
		break;
	case ADDRESS_TUNNEL:
		snprintf(buf, size, "tunnel");
		break;
	case ADDRESS_NONE:
	case ADDRESS_KINDS:
		snprintf(buf, size, "none");
		break;
	}
	return buf;
}

int address_copy(struct address *to, const struct address *from)
{
	struct address copy = *from;

	if (from->name) {
		copy.name = strdup(from->name);
		if (!copy.name)
			return -ENOMEM;
	}
	*to = copy;
	return 0;
}

bool address_equal(const struct address *a, const struct address *b)
{
	if (a->kind != b->kind || a->cid != b->cid || a->port != b->port)
		return false;
	if (!a->name || !b->name)
		return a->name == b->name;
	return strcmp(a->name, b->name) == 0;
}

bool host_is_loopback(const char *host)
{
	struct in_addr in;

	if (inet_pton(AF_INET, host, &in) == 1)
		return ntohl(in.s_addr) >> 24 == 127;
	return strcmp(host, "::1") == 0 || strcasecmp(host, "localhost") == 0;
}

const char *host_plain(const char *host, char buf[HOST_SIZE])
{
	size_t len = strnlen(host, HOST_SIZE - 1);

	if (len > 1 && host[len - 1] == '.')
		len--;
	memcpy(buf, host, len);
	buf[len] = '\0';
	return buf;
}

void address_deinit(struct address *a)
{
	free(a->name);
	*a = (struct address){ .kind = ADDRESS_NONE };
}
