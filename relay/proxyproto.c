/*
 * proxyproto: the header of the PROXY protocol, read and written.
 *
 * Theory of operation: the signatures ("PROXY " and twelve bytes that no text protocol begins with)
 * differ in their first byte, so a comparison as far as the bytes go tells the versions from each
 * other and from anything else. Version 1 is decoded when its CR LF is there; a byte that cannot
 * stand in the line ends it at once. Version 2 is checked field by field as far as it has come, and
 * its addresses and TLVs when all of it is there, inside the length that it announced. TLVs are
 * stepped over, but a checksum among them must be right. What is ignored by the specification
 * (LOCAL, UNSPEC, UNKNOWN) is not looked at. No state.
 */
#include "relay/proxyproto.h"

#include <arpa/inet.h>
#include <endian.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Bytes of version 2. */
#define HEAD 16 /* signature, version and command, family and protocol, length */
#define AT_COMMAND 12
#define AT_FAMILY 13
#define AT_LENGTH 14
#define VERSION_2 0x20
#define COMMAND_LOCAL 0
#define COMMAND_PROXY 1
#define TRANSPORT_STREAM 1
#define INET_STREAM 0x11
#define INET6_STREAM 0x21

#define TLV_HEAD 3
#define TLV_AUTHORITY 0x02
#define TLV_CRC32C 0x03
#define TLV_UNIQUE_ID 0x05
#define TLV_SSL 0x20
#define TLV_SSL_VERSION 0x21
#define TLV_SSL_CN 0x22
#define CLIENT_SSL 0x01       /* it came by TLS */
#define CLIENT_CERT_CONN 0x02 /* it showed a certificate in this connection, */
#define CLIENT_CERT_SESS 0x04 /* and in this session */

/* In the TLVs that are sent; together with the rest within PROXYPROTO_SENT_MAX. */
#define AUTHORITY_MAX 255
#define UNIQUE_ID_MAX 128 /* the specification's */
#define TLS_VERSION_MAX 16
#define SUBJECT_MAX 256

static const char signature_1[] = "PROXY ";
static const uint8_t signature_2[AT_COMMAND] = { '\r', '\n', '\r', '\n', 0,   '\r',
						 '\n', 'Q',  'U',  'I',  'T', '\n' };

/* By the family in the high nibble: what the addresses take, source and destination together. */
static const struct {
	int family;
	size_t ip, all;
} families[] = {
	{ AF_UNSPEC, 0, 0 },
	{ AF_INET, 4, 12 },
	{ AF_INET6, 16, 36 },
	{ AF_UNIX, 0, 216 },
};
#define FAMILIES (sizeof(families) / sizeof(families[0]))
#define TRANSPORTS 3 /* unspecified, stream, datagram */

static enum proxyproto_result bad(struct proxyproto *out, const char *why)
{
	out->why = why;
	return PROXYPROTO_BAD;
}

/* ---- version 1 ---- */

/* Cuts the next word off, at one space or at the end. NULL: there is none. */
static char *word(char **rest)
{
	char *at = *rest, *space;

	if (!at || !*at)
		return NULL;
	space = strchr(at, ' ');
	if (space)
		*space = '\0';
	*rest = space ? space + 1 : NULL;
	return at;
}

static bool port_1(const char *text, uint16_t *port)
{
	unsigned n = 0;

	if (!text || !*text || strlen(text) > 5 || (text[0] == '0' && text[1]))
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		n = n * 10 + (unsigned)(*text - '0');
	}
	*port = (uint16_t)n;
	return n <= UINT16_MAX;
}

static bool addresses_1(int family, char *rest, struct peer *from, struct peer *to)
{
	const char *source = word(&rest), *destination = word(&rest);
	const char *source_port = word(&rest), *destination_port = word(&rest);
	uint8_t ip[2][16];
	uint16_t port[2];

	if (!source || !destination || rest || inet_pton(family, source, ip[0]) != 1 ||
	    inet_pton(family, destination, ip[1]) != 1 || !port_1(source_port, &port[0]) ||
	    !port_1(destination_port, &port[1]))
		return false;
	peer_set_ip(from, family, ip[0], port[0]);
	peer_set_ip(to, family, ip[1], port[1]);
	return true;
}

/* A whole line, without its CR LF, behind the signature. */
static enum proxyproto_result line_1(const char *text, size_t len, struct proxyproto *out)
{
	char copy[PROXYPROTO_V1_MAX + 1], *rest = copy, *family;

	memcpy(copy, text, len);
	copy[len] = '\0';
	family = word(&rest);
	if (!family)
		return bad(out, "PROXY without a family");
	if (strcmp(family, "UNKNOWN") == 0) /* what follows says nothing */
		return PROXYPROTO_OK;
	if (strcmp(family, "TCP4") != 0 && strcmp(family, "TCP6") != 0)
		return bad(out, "a PROXY line of another family than TCP4, TCP6 and UNKNOWN");
	if (!addresses_1(family[3] == '4' ? AF_INET : AF_INET6, rest, &out->from, &out->to))
		return bad(out, "a PROXY line without two addresses and two ports");
	return PROXYPROTO_OK;
}

static enum proxyproto_result parse_1(const uint8_t *data, size_t len, struct proxyproto *out)
{
	const size_t skip = sizeof(signature_1) - 1;
	enum proxyproto_result r;

	out->version = 1;
	for (size_t i = skip; i < len && i < PROXYPROTO_V1_MAX; i++) {
		if (data[i - 1] == '\r' && data[i] == '\n') {
			r = line_1((const char *)data + skip, i - 1 - skip, out);
			out->len = r == PROXYPROTO_OK ? i + 1 : 0;
			return r;
		}
		if (data[i - 1] == '\r' || (data[i] != '\r' && (data[i] < ' ' || data[i] > '~')))
			return bad(out, "a PROXY line with a byte that cannot stand there");
	}
	if (len >= PROXYPROTO_V1_MAX)
		return bad(out, "a PROXY line longer than 107 bytes");
	return PROXYPROTO_MORE;
}

/* ---- version 2 ---- */

static uint16_t get_16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

/* RFC 3720 B.4's polynomial, reflected; bit by bit, since a header is short and comes once. */
static uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		crc ^= data[i];
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
	}
	return crc;
}

/* The checksum at sum, of the whole header with zeros in its place. */
static bool checksum_right(const uint8_t *data, size_t len, size_t sum)
{
	static const uint8_t zeros[4];
	uint32_t told, crc = crc32c(UINT32_MAX, data, sum);

	crc = crc32c(crc, zeros, sizeof(zeros));
	crc = ~crc32c(crc, data + sum + sizeof(zeros), len - sum - sizeof(zeros));
	memcpy(&told, data + sum, sizeof(told));
	return be32toh(told) == crc;
}

static enum proxyproto_result tlvs(const uint8_t *data, size_t at, size_t len,
				   struct proxyproto *out)
{
	bool summed = false;

	while (at < len) {
		size_t value;

		if (len - at < TLV_HEAD)
			return bad(out, "a TLV of a PROXY header is cut short");
		value = get_16(data + at + 1);
		if (value > len - at - TLV_HEAD)
			return bad(out, "a TLV of a PROXY header is longer than the header");
		if (data[at] == TLV_CRC32C) {
			if (summed || value != 4 || !checksum_right(data, len, at + TLV_HEAD))
				return bad(out, "the checksum of a PROXY header is wrong");
			summed = true;
		}
		at += TLV_HEAD + value;
	}
	return PROXYPROTO_OK;
}

static void addresses_2(const uint8_t *at, unsigned family, struct proxyproto *out)
{
	size_t ip = families[family].ip;

	if (families[family].family == AF_UNIX) {
		peer_set_unix(&out->from);
		peer_set_unix(&out->to);
		return;
	}
	peer_set_ip(&out->from, families[family].family, at, get_16(at + 2 * ip));
	peer_set_ip(&out->to, families[family].family, at + ip, get_16(at + 2 * ip + 2));
}

/* The whole header. */
static enum proxyproto_result body_2(const uint8_t *data, size_t len, struct proxyproto *out)
{
	unsigned family = data[AT_FAMILY] >> 4, transport = data[AT_FAMILY] & 0xf;
	enum proxyproto_result r;

	/* what the specification has us ignore may be of any form */
	if ((data[AT_COMMAND] & 0xf) == COMMAND_LOCAL || !family || !transport)
		return PROXYPROTO_OK;
	if (len - HEAD < families[family].all)
		return bad(out, "a PROXY header is too short for its addresses");
	r = tlvs(data, HEAD + families[family].all, len, out);
	if (r == PROXYPROTO_OK && transport == TRANSPORT_STREAM)
		addresses_2(data + HEAD, family, out);
	return r;
}

static enum proxyproto_result parse_2(const uint8_t *data, size_t len, struct proxyproto *out)
{
	enum proxyproto_result r;
	size_t all;

	out->version = 2;
	if (len > AT_COMMAND && (data[AT_COMMAND] & 0xf0) != VERSION_2)
		return bad(out, "a PROXY header of an unknown version");
	if (len > AT_COMMAND && (data[AT_COMMAND] & 0xf) > COMMAND_PROXY)
		return bad(out, "a PROXY header with an unknown command");
	if (len > AT_FAMILY && (data[AT_COMMAND] & 0xf) == COMMAND_PROXY &&
	    (data[AT_FAMILY] >> 4 >= FAMILIES || (data[AT_FAMILY] & 0xf) >= TRANSPORTS))
		return bad(out, "a PROXY header of an unknown family or protocol");
	if (len < HEAD)
		return PROXYPROTO_MORE;
	all = HEAD + get_16(data + AT_LENGTH);
	if (all > PROXYPROTO_MAX)
		return PROXYPROTO_TOO_LARGE;
	if (len < all)
		return PROXYPROTO_MORE;
	r = body_2(data, all, out);
	out->len = r == PROXYPROTO_OK ? all : 0;
	return r;
}

/* ---- either ---- */

/* Does data, as far as it goes, begin like this? */
static bool begins(const uint8_t *data, size_t len, const void *with, size_t all)
{
	return memcmp(data, with, len < all ? len : all) == 0;
}

enum proxyproto_result proxyproto_parse(const uint8_t *data, size_t len, struct proxyproto *out)
{
	const size_t one = sizeof(signature_1) - 1, two = sizeof(signature_2);

	*out = (struct proxyproto){ .why = "" };
	if (len == 0)
		return PROXYPROTO_MORE;
	if (begins(data, len, signature_1, one))
		return len < one ? PROXYPROTO_MORE : parse_1(data, len, out);
	if (begins(data, len, signature_2, two))
		return len < two ? PROXYPROTO_MORE : parse_2(data, len, out);
	return PROXYPROTO_NONE;
}

/* ---- writing ---- */

static bool is_ip(const struct peer *p)
{
	return p->family == AF_INET || p->family == AF_INET6;
}

static size_t encode_1(uint8_t *to, const struct proxyproto_about *about)
{
	const struct peer nowhere = { .family = about->from->family };
	const struct peer *from = about->from;
	const struct peer *where = about->to->family == from->family ? about->to : &nowhere;
	char source[INET6_ADDRSTRLEN], destination[INET6_ADDRSTRLEN];
	char line[PROXYPROTO_V1_MAX + 1] = "PROXY UNKNOWN\r\n";
	size_t len;

	if (is_ip(from))
		snprintf(line, sizeof(line), "PROXY TCP%c %s %s %u %u\r\n",
			 from->family == AF_INET ? '4' : '6',
			 inet_ntop(from->family, from->ip, source, sizeof(source)),
			 inet_ntop(where->family, where->ip, destination, sizeof(destination)),
			 from->port, where->port);
	len = strlen(line);
	memcpy(to, line, len);
	return len;
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t len)
{
	memcpy(at, bytes, len);
	return at + len;
}

static uint8_t *put_16(uint8_t *at, size_t value)
{
	const uint8_t bytes[] = { (uint8_t)(value >> 8), (uint8_t)value };

	return put(at, bytes, sizeof(bytes));
}

/* A text that is there and fits. */
static uint8_t *put_text(uint8_t *at, uint8_t type, const char *text, size_t max)
{
	size_t len = text ? strlen(text) : 0;

	if (len == 0 || len > max)
		return at;
	*at++ = type;
	return put(put_16(at, len), text, len);
}

static uint8_t *put_addresses(uint8_t *at, const struct peer *from, const struct peer *to)
{
	const struct peer nowhere = { .family = from->family };
	size_t len = from->family == AF_INET ? 4 : 16;

	if (to->family != from->family)
		to = &nowhere;
	at = put(put(at, from->ip, len), to->ip, len);
	return put_16(put_16(at, from->port), to->port);
}

static uint8_t *put_tls(uint8_t *at, const struct proxyproto_about *about)
{
	uint8_t *head = at, *end;
	bool verified = about->tls_subject;

	if (!about->tls_version)
		return at;
	*at++ = TLV_SSL;
	at += 2; /* its length, when it is known */
	*at++ = CLIENT_SSL | (verified ? CLIENT_CERT_CONN | CLIENT_CERT_SESS : 0);
	at = put(at, verified ? "\0\0\0" : "\0\0\0\1", 4); /* 0: shown and verified */
	at = put_text(at, TLV_SSL_VERSION, about->tls_version, TLS_VERSION_MAX);
	end = put_text(at, TLV_SSL_CN, about->tls_subject, SUBJECT_MAX);
	put_16(head + 1, (size_t)(end - head - TLV_HEAD));
	return end;
}

static size_t encode_2(uint8_t *to, const struct proxyproto_about *about)
{
	uint8_t *at = put(to, signature_2, sizeof(signature_2));

	/* as haproxy does it; it refuses PROXY without addresses */
	*at++ = VERSION_2 | (is_ip(about->from) ? COMMAND_PROXY : COMMAND_LOCAL);
	*at++ = about->from->family == AF_INET    ? INET_STREAM
		: about->from->family == AF_INET6 ? INET6_STREAM
						  : 0;
	at += 2; /* the length, when it is known */
	if (is_ip(about->from))
		at = put_addresses(at, about->from, about->to);
	at = put_text(at, TLV_AUTHORITY, about->authority, AUTHORITY_MAX);
	at = put_text(at, TLV_UNIQUE_ID, about->id, UNIQUE_ID_MAX);
	at = put_tls(at, about);
	put_16(to + AT_LENGTH, (size_t)(at - to) - HEAD);
	return (size_t)(at - to);
}

size_t proxyproto_encode(uint8_t to[PROXYPROTO_SENT_MAX], unsigned version,
			 const struct proxyproto_about *about)
{
	_Static_assert(HEAD + 36 + 5 * TLV_HEAD + 5 + AUTHORITY_MAX + UNIQUE_ID_MAX +
				       TLS_VERSION_MAX + SUBJECT_MAX <=
			       PROXYPROTO_SENT_MAX,
		       "all of it fits");
	return version == 1 ? encode_1(to, about) : encode_2(to, about);
}
