/*
 * codes: what an owner types once, and the folder of those pending.
 *
 * Theory of operation: FOLDER/codes has a file for each code, named by its SHA-256 in hex, with
 * three lines: when it expires, the owner, the label. Whoever reads the folder cannot tell a code:
 * it has 128 random bits, so one round of SHA-256 is enough. To claim one is to rename it to
 * NAME.claimed: rename(2) succeeds for one caller only, and before anything is done with it. Then
 * it is read, and removed when what it is good for has been done: if it is not there any more by
 * then, it was taken back meanwhile. A file that cannot be read as one is no code: it is claimed in
 * vain.
 * (Within its folder: a sandbox may forbid moving files between folders.)
 */
#include "relay/codes.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/atomic_file.h"
#include "relay/token.h"

#define CODE_BYTES 16
#define RANDOM_SYMBOLS 26 /* of five bits; the last has three, and two zeros */
#define KIND "codes"
#define PENDING ""
#define CLAIMED ".claimed"
#define NAME_LEN (2 * TOKEN_HASH_BYTES)
#define FILE_TEXT_MAX (32 + CODES_OWNER_MAX + CODES_LABEL_MAX)

static const char symbols[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/* ---- texts ---- */

/* The two last symbols: ten bits of a hash of the others. False: libcrypto would not. */
static bool check_symbols(const char *code, char out[2])
{
	uint8_t hash[TOKEN_HASH_BYTES];

	if (token_hash(code, RANDOM_SYMBOLS, hash) < 0)
		return false;
	out[0] = symbols[hash[0] & 31];
	out[1] = symbols[hash[1] & 31];
	return true;
}

int codes_new(char code[CODES_SIZE])
{
	uint8_t bytes[CODE_BYTES];
	unsigned bits = 0, held = 0;
	char *p = code;

	if (RAND_priv_bytes(bytes, sizeof(bytes)) != 1)
		return -EIO;
	for (size_t i = 0; i < sizeof(bytes); i++) {
		bits = (bits << 8 | bytes[i]) & 0xffff;
		for (held += 8; held >= 5; held -= 5)
			*p++ = symbols[bits >> (held - 5) & 31];
	}
	*p++ = symbols[bits << (5 - held) & 31];
	OPENSSL_cleanse(bytes, sizeof(bytes));
	code[CODES_SYMBOLS] = '\0';
	return check_symbols(code, p) ? 0 : -EIO;
}

void codes_show(const char code[CODES_SIZE], char text[CODES_TEXT])
{
	for (unsigned i = 0; i < CODES_SYMBOLS; i++) {
		if (i && i % 4 == 0)
			*text++ = '-';
		*text++ = code[i];
	}
	*text = '\0';
}

/* The symbol that a character stands for, or NUL. */
static char symbol_of(char ch)
{
	if (ch >= 'a' && ch <= 'z')
		ch = (char)(ch - 'a' + 'A');
	if (ch == 'O')
		return '0';
	if (ch == 'I' || ch == 'L')
		return '1';
	return ch && strchr(symbols, ch) ? ch : '\0';
}

bool codes_read(const char *text, size_t len, char code[CODES_SIZE])
{
	char read[CODES_SIZE] = { 0 }, check[2];
	bool good = true;
	size_t n = 0;

	for (size_t i = 0; i < len && good; i++) {
		if (strchr("- \t\r\n", text[i]) && text[i])
			continue;
		good = n < CODES_SYMBOLS && symbol_of(text[i]);
		if (good)
			read[n++] = symbol_of(text[i]);
	}
	good = good && n == CODES_SYMBOLS && check_symbols(read, check) &&
	       memcmp(check, read + RANDOM_SYMBOLS, sizeof(check)) == 0;
	if (good)
		memcpy(code, read, sizeof(read));
	OPENSSL_cleanse(read, sizeof(read));
	return good;
}

/* Length of the UTF-8 character at p, which is no control character; 0: it is none. */
static unsigned character_at(const unsigned char *p)
{
	unsigned len = *p < 0x80   ? 1
		       : *p < 0xc2 ? 0
		       : *p < 0xe0 ? 2
		       : *p < 0xf0 ? 3
		       : *p < 0xf5 ? 4
				   : 0;

	if (len == 1)
		return *p >= ' ' && *p != 0x7f;
	for (unsigned i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if (len == 2 && *p == 0xc2 && p[1] < 0xa0)
		return 0; /* C1 */
	if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xf0 && p[1] < 0x90) ||
	    (*p == 0xed && p[1] > 0x9f) || (*p == 0xf4 && p[1] > 0x8f))
		return 0; /* overlong, a surrogate, beyond Unicode */
	if (*p == 0xef && ((p[1] == 0xbb && p[2] == 0xbf) || (p[1] == 0xbf && p[2] >= 0xbe)))
		return 0; /* U+FEFF, and what is no character: a record with it could not be read */
	return len;
}

bool codes_is_label(const char *text)
{
	const unsigned char *p = (const unsigned char *)text;
	unsigned len;

	for (; *p; p += len) {
		len = character_at(p);
		if (!len)
			return false;
	}
	return (size_t)(p - (const unsigned char *)text) < CODES_LABEL_MAX;
}

/* ---- files ---- */

/* FOLDER/codes/NAME, to be freed; state: what is behind the name. NULL: no memory. */
static char *path_of(const char *folder, const char *name, const char *state)
{
	char *path;

	return asprintf(&path, "%s/" KIND "/%s%s", folder, name, state) < 0 ? NULL : path;
}

static bool name_of(const char code[CODES_SIZE], char name[NAME_LEN + 1])
{
	uint8_t hash[TOKEN_HASH_BYTES];

	if (token_hash(code, CODES_SYMBOLS, hash) < 0)
		return false;
	for (size_t i = 0; i < sizeof(hash); i++)
		sprintf(name + 2 * i, "%02x", hash[i]);
	return true;
}

/* Copies a line that fits; the place behind it, or NULL. */
static const char *take_line(const char *text, char *to, size_t size)
{
	const char *end = strchr(text, '\n');

	if (!end || (size_t)(end - text) >= size)
		return NULL;
	memcpy(to, text, (size_t)(end - text));
	to[end - text] = '\0';
	return end + 1;
}

/* Whatever it holds, it cannot be more than a grant. */
static int read_grant(const char *path, struct codes_grant *grant)
{
	char text[FILE_TEXT_MAX], number[32], *end;
	struct codes_grant g;
	const char *p = text;
	ssize_t n = atomic_file_read(path, text, sizeof(text));

	if (n < 0)
		return n == -EFBIG ? -ENOENT : (int)n;
	p = take_line(p, number, sizeof(number));
	p = p ? take_line(p, g.owner, sizeof(g.owner)) : NULL;
	p = p ? take_line(p, g.label, sizeof(g.label)) : NULL;
	if (!p || !*number)
		return -ENOENT;
	g.expires = strtoll(number, &end, 10);
	if (*end)
		return -ENOENT;
	*grant = g;
	return 0;
}

int codes_prepare(const char *folder)
{
	char *path = path_of(folder, "", "");
	int r = 0;

	if (!path)
		return -ENOMEM;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		r = -errno;
	free(path);
	return r;
}

struct count {
	unsigned n;
};

static void count_one(const struct codes_grant *grant, void *arg)
{
	((struct count *)arg)->n++;
}

int codes_add(const char *folder, const char code[CODES_SIZE], const struct codes_grant *grant)
{
	char text[FILE_TEXT_MAX], name[NAME_LEN + 1], *path;
	struct count pending = { 0 };
	int len = snprintf(text, sizeof(text), "%" PRId64 "\n%s\n%s\n", grant->expires,
			   grant->owner, grant->label);
	int r = codes_each(folder, INT64_MIN, count_one, &pending);

	if (r < 0)
		return r;
	if (pending.n >= CODES_PENDING_MAX)
		return -EDQUOT;
	if (!name_of(code, name))
		return -EIO;
	path = path_of(folder, name, PENDING);
	if (!path)
		return -ENOMEM;
	r = atomic_file_write(path, text, (size_t)len, 0600, ATOMIC_FILE_NEW | ATOMIC_FILE_SYNC);
	free(path);
	return r;
}

static int still_good(int r, const struct codes_grant *grant, int64_t now)
{
	return r == 0 && grant->expires <= now ? -ENOENT : r;
}

int codes_look(const char *folder, const char code[CODES_SIZE], int64_t now,
	       struct codes_grant *grant)
{
	char name[NAME_LEN + 1], *path;
	struct codes_grant g;
	int r;

	if (!name_of(code, name))
		return -EIO;
	path = path_of(folder, name, PENDING);
	if (!path)
		return -ENOMEM;
	r = still_good(read_grant(path, &g), &g, now);
	free(path);
	if (r == 0)
		*grant = g;
	return r;
}

int codes_claim(const char *folder, const char code[CODES_SIZE], int64_t now,
		struct codes_grant *grant)
{
	char name[NAME_LEN + 1], *from, *to;
	struct codes_grant g;
	int r;

	if (!name_of(code, name))
		return -EIO;
	from = path_of(folder, name, PENDING);
	to = path_of(folder, name, CLAIMED);
	if (!from || !to) {
		r = -ENOMEM;
	} else if (rename(from, to) < 0) {
		r = -errno; /* what is at to, if anything, is the winner's */
	} else {
		r = still_good(read_grant(to, &g), &g, now);
		if (r < 0)
			unlink(to);
	}
	free(from);
	free(to);
	if (r == 0)
		*grant = g;
	return r;
}

int codes_finish(const char *folder, const char code[CODES_SIZE])
{
	char name[NAME_LEN + 1], *path;
	int r;

	if (!name_of(code, name))
		return -EIO;
	path = path_of(folder, name, CLAIMED);
	if (!path)
		return -ENOMEM;
	r = unlink(path) < 0 ? -errno : 0;
	free(path);
	return r;
}

/* ---- all of them ---- */

static bool is_code_file(const char *name, const char *state)
{
	return strspn(name, "0123456789abcdef") == NAME_LEN && strcmp(name + NAME_LEN, state) == 0;
}

/* Calls file for each one in this state; one that goes meanwhile is passed over. 0 or -errno. */
static int walk(const char *folder, const char *state,
		void (*file)(const char *path, const struct codes_grant *grant, void *arg),
		void *arg)
{
	char *path = path_of(folder, "", "");
	DIR *d = path ? opendir(path) : NULL;
	int r = d ? 0 : path ? -errno : -ENOMEM;
	struct dirent *e;

	free(path);
	while (d && (e = readdir(d))) {
		struct codes_grant grant;

		if (!is_code_file(e->d_name, state))
			continue;
		path = path_of(folder, e->d_name, "");
		if (path && read_grant(path, &grant) == 0)
			file(path, &grant, arg);
		free(path);
	}
	if (d)
		closedir(d);
	return r;
}

struct listing {
	int64_t now;
	void (*each)(const struct codes_grant *grant, void *arg);
	void *arg;
};

static void list_one(const char *path, const struct codes_grant *grant, void *arg)
{
	const struct listing *l = arg;

	if (grant->expires > l->now)
		l->each(grant, l->arg);
}

int codes_each(const char *folder, int64_t now,
	       void (*each)(const struct codes_grant *grant, void *arg), void *arg)
{
	struct listing l = { now, each, arg };

	return walk(folder, PENDING, list_one, &l);
}

struct sweeping {
	int64_t now;
	const char *owner; /* or NULL */
	int removed;       /* of the owner */
};

static void sweep_one(const char *path, const struct codes_grant *grant, void *arg)
{
	struct sweeping *s = arg;
	bool owners = s->owner && strcmp(grant->owner, s->owner) == 0;

	if ((owners || grant->expires <= s->now) && unlink(path) == 0)
		s->removed += owners;
}

int codes_sweep(const char *folder, int64_t now, const char *owner)
{
	struct sweeping s = { now, owner, 0 };
	int r = walk(folder, PENDING, sweep_one, &s);

	if (r == 0)
		r = walk(folder, CLAIMED, sweep_one, &s);
	return r < 0 ? r : s.removed;
}
