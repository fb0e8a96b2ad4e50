/* token: made, hashed, compared, and read from files good and bad. */
#include "relay/token.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/check.h"

static char path[] = "/tmp/test_token.XXXXXX";

static void test_new(void)
{
	char a[TOKEN_TEXT_MAX], b[TOKEN_TEXT_MAX];
	unsigned char seen[256] = { 0 };
	unsigned kinds = 0;

	CHECK_INT(token_new(b), 0);
	for (int i = 0; i < 200; i++) {
		CHECK_INT(token_new(a), 0);
		CHECK_INT(strlen(a), 4 + 43);
		CHECK(strncmp(a, "art_", 4) == 0);
		CHECK(strcmp(a, b) != 0);
		for (const char *p = a + 4; *p; p++)
			seen[(unsigned char)*p] = 1;
		strcpy(b, a);
	}
	for (int ch = 0; ch < 256; ch++) {
		bool digit = strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789-_",
				    ch) &&
			     ch;

		CHECK(digit || !seen[ch]);
		kinds += seen[ch];
	}
	CHECK_INT(kinds, 64);
	token_wipe(a);
	for (size_t i = 0; i < sizeof(a); i++)
		CHECK_INT(a[i], 0);
}

static void test_hash(void)
{
	uint8_t a[TOKEN_HASH_BYTES], b[TOKEN_HASH_BYTES];
	char text[TOKEN_HASH_TEXT];

	CHECK_INT(token_hash("abc", 3, a), 0);
	token_format_hash(a, text);
	CHECK_STR(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	CHECK_INT(strlen(text) + 1, TOKEN_HASH_TEXT);
	CHECK_INT(token_hash("abcd", 3, b), 0);
	CHECK(token_equal(a, b));
	for (size_t i = 0; i < sizeof(b); i++) {
		b[i] ^= 0x10;
		CHECK(!token_equal(a, b));
		b[i] ^= 0x10;
	}
}

static void write_file(const char *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	CHECK(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
	close(fd);
}

static void reads(const char *bytes, const char *token)
{
	char out[TOKEN_TEXT_MAX], *why = NULL;
	bool exposed = true;

	write_file(bytes, strlen(bytes));
	CHECK_INT(token_read_file(path, out, &exposed, &why), 0);
	CHECK_STR(out, token);
	CHECK(!exposed && !why);
}

static void refuses(const char *bytes, size_t len, const char *expected)
{
	char out[TOKEN_TEXT_MAX] = "as before", *why = NULL;
	bool exposed = true;

	write_file(bytes, len);
	CHECK_INT(token_read_file(path, out, &exposed, &why), -EINVAL);
	CHECK_STR(out, "as before");
	CHECK(exposed);
	CHECK(why && strstr(why, path) && strstr(why, expected));
	free(why);
}

static void test_file(void)
{
	char out[TOKEN_TEXT_MAX], longest[TOKEN_TEXT_MAX + 200], *why;
	bool exposed;
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	close(fd);
	reads("art_x", "art_x");
	reads("art_x\n", "art_x");
	reads(" art_x \r\n\n", "art_x");
	memset(longest, 'a', sizeof(longest));
	longest[TOKEN_TEXT_MAX - 1] = '\0';
	reads(longest, longest);
	longest[TOKEN_TEXT_MAX - 1] = 'a';
	refuses(longest, TOKEN_TEXT_MAX, "longer than");
	refuses(longest, sizeof(longest), "too long");
	refuses("", 0, "empty");
	refuses(" \n", 2, "empty");
	refuses("a b", 3, "nothing else");
	refuses("a\nb\n", 4, "nothing else");
	refuses("a\0b", 3, "nothing else");
	refuses("a\xc3\xa4", 3, "nothing else");
	refuses("a\x7f", 2, "nothing else");

	write_file("a\n", 2);
	CHECK_INT(chmod(path, 0644), 0);
	CHECK_INT(token_read_file(path, out, &exposed, &why), 0);
	CHECK(exposed);
	CHECK_INT(chmod(path, 0640), 0);
	CHECK_INT(token_read_file(path, out, &exposed, &why), 0);
	CHECK(!exposed);
	CHECK_INT(unlink(path), 0);
	CHECK_INT(token_read_file(path, out, &exposed, &why), -ENOENT);
	CHECK(strstr(why, path) && strstr(why, "No such file"));
	free(why);
	CHECK_INT(token_read_file("/", out, &exposed, &why), -EISDIR);
	free(why);
}

int main(void)
{
	test_new();
	test_hash();
	test_file();
	return 0;
}
