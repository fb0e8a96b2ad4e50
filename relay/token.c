/*
 * token: the bearer secret of an owner.
 *
 * Theory of operation: plain functions without state. Every buffer here that held a token or the
 * bytes it is made of is wiped before return; what is handed out is the caller's to wipe.
 */
#include "relay/token.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKEN_PREFIX "art_"
#define TOKEN_BYTES 32
#define TOKEN_SPACE_AROUND 64 /* a token file's line ends and the like */

static void base64url(const uint8_t *bytes, size_t len, char *out)
{
	static const char digit[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	unsigned bits = 0, held = 0;

	for (size_t i = 0; i < len; i++) {
		bits = (bits << 8 | bytes[i]) & 0xffff;
		for (held += 8; held >= 6; held -= 6)
			*out++ = digit[bits >> (held - 6) & 63];
	}
	if (held)
		*out++ = digit[bits << (6 - held) & 63];
	*out = '\0';
}

int token_new(char out[TOKEN_TEXT_MAX])
{
	uint8_t bytes[TOKEN_BYTES];

	if (RAND_priv_bytes(bytes, sizeof(bytes)) != 1)
		return -EIO;
	memcpy(out, TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1);
	base64url(bytes, sizeof(bytes), out + sizeof(TOKEN_PREFIX) - 1);
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return 0;
}

int token_hash(const char *token, size_t len, uint8_t out[TOKEN_HASH_BYTES])
{
	uint8_t hash[EVP_MAX_MD_SIZE];
	unsigned size = 0;

	if (EVP_Digest(token, len, hash, &size, EVP_sha256(), NULL) != 1 ||
	    size != TOKEN_HASH_BYTES)
		return -EIO;
	memcpy(out, hash, TOKEN_HASH_BYTES);
	return 0;
}

bool token_equal(const uint8_t a[TOKEN_HASH_BYTES], const uint8_t b[TOKEN_HASH_BYTES])
{
	return CRYPTO_memcmp(a, b, TOKEN_HASH_BYTES) == 0;
}

void token_format_hash(const uint8_t hash[TOKEN_HASH_BYTES], char out[TOKEN_HASH_TEXT])
{
	char *p = out + sprintf(out, "sha256:");

	for (size_t i = 0; i < TOKEN_HASH_BYTES; i++)
		p += sprintf(p, "%02x", hash[i]);
}

void token_wipe(char token[TOKEN_TEXT_MAX])
{
	OPENSSL_cleanse(token, TOKEN_TEXT_MAX);
}

/* Reads the whole file, size bytes at most. Its length, or -errno (-EFBIG: it is longer). */
static ssize_t read_all(const char *path, char *buf, size_t size, bool *exposed)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat st;
	size_t len = 0;
	ssize_t n = 0;
	int r = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	*exposed = r == 0 && S_ISREG(st.st_mode) && (st.st_mode & S_IROTH);
	while (r == 0 && len < size) {
		n = read(fd, buf + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	close(fd);
	if (r == 0 && len == size)
		r = -EFBIG;
	return r ? r : (ssize_t)len;
}

static bool is_space(char ch)
{
	return ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n';
}

const char *token_parse(const char *text, size_t len, char out[TOKEN_TEXT_MAX])
{
	while (len > 0 && is_space(text[len - 1]))
		len--;
	/* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): set; no errno is below zero */
	for (; len > 0 && is_space(*text); text++)
		len--;
	if (len == 0)
		return "it is empty; write the token into it, alone on one line";
	if (len >= TOKEN_TEXT_MAX)
		return "its token is longer than 255 characters; is this the right file?";
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return "it holds more than one word, or characters that are not printable "
			       "ASCII; it must hold the token and nothing else";
	memcpy(out, text, len);
	out[len] = '\0';
	return NULL;
}

int token_read_file(const char *path, char out[TOKEN_TEXT_MAX], bool *exposed, char **why)
{
	char buf[TOKEN_TEXT_MAX + TOKEN_SPACE_AROUND];
	bool open_to_all = false;
	ssize_t n = read_all(path, buf, sizeof(buf), &open_to_all);
	const char *fault;
	int r = 0;

	if (n == -EFBIG)
		fault = "it is too long for a token; is this the right file?";
	else if (n < 0)
		fault = strerror((int)-n);
	else
		fault = token_parse(buf, (size_t)n, out);
	if (!fault)
		*exposed = open_to_all;
	else
		r = n < 0 && n != -EFBIG ? (int)n : -EINVAL;
	if (r && asprintf(why, "token file %s: %s", path, fault) < 0)
		*why = NULL;
	OPENSSL_cleanse(buf, sizeof(buf));
	return r;
}
