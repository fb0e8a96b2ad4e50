/* codes: made, shown, read, kept, claimed once: by many at a time, and by one who is killed. */
#include "relay/codes.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/check.h"

#define CLAIMERS 8
#define NOW 1000

static char folder[] = "/tmp/test_codes.XXXXXX";

static const struct codes_grant acme = { .owner = "acme", .label = "B\xc3\xbcro", .expires = 2000 };

static void test_text(void)
{
	char code[CODES_SIZE], again[CODES_SIZE], text[CODES_TEXT], last[CODES_SIZE] = "";

	for (int i = 0; i < 200; i++) {
		CHECK_INT(codes_new(code), 0);
		CHECK_INT(strlen(code), CODES_SYMBOLS);
		CHECK(strcmp(code, last) != 0);
		strcpy(last, code);
		CHECK_INT(strspn(code, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), CODES_SYMBOLS);
		codes_show(code, text);
		CHECK_INT(strlen(text), CODES_TEXT - 1);
		CHECK(codes_read(text, strlen(text), again));
		CHECK_STR(again, code);
		for (char *p = text; *p; p++) /* as people write it */
			*p = *p == '0'   ? 'o'
			     : *p == '1' ? (i & 1 ? 'l' : 'I')
			     : *p == '-' ? ' '
			     : *p >= 'A' ? (char)(*p | 32)
					 : *p;
		CHECK(codes_read(text, strlen(text), again));
		CHECK_STR(again, code);
	}
}

static void test_mistyped(void)
{
	char code[CODES_SIZE], out[CODES_SIZE] = "as before", wrong[CODES_SIZE + 1];
	unsigned missed = 0, tried = 0;

	CHECK_INT(codes_new(code), 0);
	for (unsigned i = 0; i < CODES_SYMBOLS; i++) {
		for (const char *p = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; *p; p++) {
			strcpy(wrong, code);
			wrong[i] = *p;
			tried += *p != code[i];
			missed += *p != code[i] && codes_read(wrong, CODES_SYMBOLS, out);
		}
	}
	CHECK(tried == CODES_SYMBOLS * 31 && missed <= 12); /* expected: 0.8 */
	strcpy(out, "as before");
	CHECK(!codes_read(code, CODES_SYMBOLS - 1, out));
	snprintf(wrong, sizeof(wrong), "%s0", code);
	CHECK(!codes_read(wrong, CODES_SYMBOLS + 1, out));
	CHECK(!codes_read("", 0, out));
	strcpy(wrong, code);
	wrong[3] = 'U'; /* not a symbol, so that no code is a rude word */
	CHECK(!codes_read(wrong, CODES_SYMBOLS, out));
	wrong[3] = '\0';
	CHECK(!codes_read(wrong, CODES_SYMBOLS, out));
	CHECK_STR(out, "as before");
}

static void test_labels(void)
{
	char longest[CODES_LABEL_MAX + 1];

	CHECK(codes_is_label("") && codes_is_label("B\xc3\xbcro, 2nd \"floor\" \\") &&
	      codes_is_label("\xf0\x9f\x94\x91"));
	CHECK(!codes_is_label("a\nb") && !codes_is_label("\x7f") && !codes_is_label("\x1b[2J") &&
	      !codes_is_label("\xc3") && !codes_is_label("\xc2\x85") &&
	      !codes_is_label("\xc0\x8a") && !codes_is_label("\xed\xa0\x80") &&
	      !codes_is_label("\xff") && !codes_is_label("\xef\xbf\xbf") &&
	      !codes_is_label("\xef\xbb\xbf"));
	memset(longest, 'a', sizeof(longest));
	longest[CODES_LABEL_MAX - 1] = '\0';
	CHECK(codes_is_label(longest));
	longest[CODES_LABEL_MAX - 1] = 'a';
	longest[CODES_LABEL_MAX] = '\0';
	CHECK(!codes_is_label(longest));
}

static void count(const struct codes_grant *grant, void *arg)
{
	(*(unsigned *)arg)++;
}

static unsigned pending(int64_t now)
{
	unsigned n = 0;

	CHECK_INT(codes_each(folder, now, count, &n), 0);
	return n;
}

/* Files in a subfolder; each private, none named by a code or holding one. */
static unsigned files(const char *kind, const char *code)
{
	char path[512];
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s/%s", folder, kind);
	d = opendir(path);
	CHECK(d);
	while ((e = readdir(d))) {
		struct stat st;

		if (e->d_name[0] == '.')
			continue;
		n++;
		snprintf(path, sizeof(path), "%s/%s/%s", folder, kind, e->d_name);
		CHECK_INT(stat(path, &st), 0);
		CHECK_INT(st.st_mode & 07777, 0600);
		CHECK(!strstr(e->d_name, code));
	}
	closedir(d);
	return n;
}

static void test_once(void)
{
	char code[CODES_SIZE], other[CODES_SIZE];
	struct codes_grant g = { .owner = "before" };

	CHECK_INT(codes_new(code), 0);
	CHECK_INT(codes_new(other), 0);
	CHECK_INT(codes_look(folder, code, NOW, &g), -ENOENT);
	CHECK_INT(codes_add(folder, code, &acme), 0);
	CHECK_INT(codes_add(folder, code, &acme), -EEXIST);
	CHECK_INT(files("codes", code), 1);
	CHECK_INT(codes_look(folder, other, NOW, &g), -ENOENT);
	CHECK_INT(codes_claim(folder, other, NOW, &g), -ENOENT);
	CHECK_STR(g.owner, "before");
	CHECK_INT(codes_look(folder, code, NOW, &g), 0); /* as often as one likes */
	CHECK_INT(codes_look(folder, code, NOW, &g), 0);
	CHECK_STR(g.owner, "acme");
	CHECK_STR(g.label, acme.label);
	CHECK_INT(g.expires, 2000);
	CHECK_INT(codes_claim(folder, code, NOW, &g), 0);
	CHECK_STR(g.owner, "acme");
	CHECK_INT(codes_claim(folder, code, NOW, &g), -ENOENT);
	CHECK_INT(codes_look(folder, code, NOW, &g), -ENOENT);
	CHECK_INT(codes_finish(folder, code), 0);
	CHECK_INT(files("codes", code), 0);
	CHECK_INT(codes_finish(folder, code), -ENOENT);
}

/* Taken back while who has claimed it is at work: he is told, and nobody else's. */
static void test_taken_back(void)
{
	char code[CODES_SIZE];
	struct codes_grant g;

	for (int i = 0; i < 2; i++) {
		CHECK_INT(codes_new(code), 0);
		CHECK_INT(codes_add(folder, code, &acme), 0);
		CHECK_INT(codes_claim(folder, code, NOW, &g), 0);
		CHECK_INT(codes_sweep(folder, NOW, i ? "acme" : "other"), i);
		CHECK_INT(codes_finish(folder, code), i ? -ENOENT : 0);
		CHECK_INT(files("codes", code), 0);
	}
}

static void test_expiry(void)
{
	char code[CODES_SIZE];
	struct codes_grant g = { .owner = "before" };

	CHECK_INT(codes_new(code), 0);
	CHECK_INT(codes_add(folder, code, &acme), 0);
	CHECK_INT(pending(1999), 1);
	CHECK_INT(pending(2000), 0);
	CHECK_INT(codes_look(folder, code, 2000, &g), -ENOENT);
	CHECK_INT(codes_claim(folder, code, 2000, &g), -ENOENT);
	CHECK_STR(g.owner, "before");
	CHECK_INT(codes_look(folder, code, 1999, &g), -ENOENT); /* it was a claim all the same */

	CHECK_INT(codes_add(folder, code, &acme), 0);
	CHECK_INT(codes_sweep(folder, 1999, NULL), 0);
	CHECK_INT(pending(0), 1);
	CHECK_INT(codes_sweep(folder, 1999, "other"), 0);
	CHECK_INT(pending(0), 1);
	CHECK_INT(codes_sweep(folder, 1999, "acme"), 1);
	CHECK_INT(pending(0), 0);
	CHECK_INT(codes_add(folder, code, &acme), 0);
	CHECK_INT(codes_sweep(folder, 2000, NULL), 0);
	CHECK_INT(files("codes", code), 0);
}

/* Processes that claim the same code at the same moment: how many win. */
static unsigned race(const char *code)
{
	pid_t child[CLAIMERS];
	int gate[2], status;
	unsigned won = 0;
	char go;

	CHECK_INT(pipe(gate), 0);
	for (int i = 0; i < CLAIMERS; i++) {
		child[i] = fork();
		CHECK(child[i] >= 0);
		if (child[i] == 0) {
			struct codes_grant g;

			close(gate[1]);
			_exit(read(gate[0], &go, 1) == 0 &&
					      codes_claim(folder, code, NOW, &g) == 0 &&
					      codes_finish(folder, code) == 0
				      ? 1
				      : 0);
		}
	}
	close(gate[0]);
	close(gate[1]); /* all of them */
	for (int i = 0; i < CLAIMERS; i++) {
		CHECK(waitpid(child[i], &status, 0) == child[i] && WIFEXITED(status));
		won += WEXITSTATUS(status) == 1;
	}
	return won;
}

static void test_race(void)
{
	char code[CODES_SIZE];

	for (int i = 0; i < 100; i++) {
		CHECK_INT(codes_new(code), 0);
		CHECK_INT(codes_add(folder, code, &acme), 0);
		CHECK_INT(race(code), 1);
	}
}

/* Killed between the claim and whatever was to follow: the code is gone. */
static void test_killed(void)
{
	char code[CODES_SIZE], ready;
	struct codes_grant g;
	int told[2], status;
	pid_t child;

	CHECK_INT(codes_new(code), 0);
	CHECK_INT(codes_add(folder, code, &acme), 0);
	CHECK_INT(pipe(told), 0);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		if (codes_claim(folder, code, NOW, &g) == 0 && write(told[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	CHECK_INT(read(told[0], &ready, 1), 1);
	CHECK_INT(kill(child, SIGKILL), 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	CHECK_INT(codes_claim(folder, code, NOW, &g), -ENOENT);
	CHECK_INT(codes_sweep(folder, NOW, "acme"), 1); /* what is left of it */
	close(told[0]);
	close(told[1]);
}

static void put(const char *kind, const char *name, const char *text)
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s/%s", folder, kind, name);
	CHECK((f = fopen(path, "w")));
	fputs(text, f);
	fclose(f);
}

/* What lies there and is no code is none, and stops nobody. */
static void test_rubbish(void)
{
	static const char *const texts[] = { "",
					     "\n\n\n",
					     "x\nacme\n\n",
					     "5000",
					     "5000\nacme",
					     "5000\nacme\nno end",
					     "99x\nacme\n\n" };
	char name[65];

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		memset(name, 'a' + (int)(i % 6), 64);
		name[64] = '\0';
		name[0] = (char)('0' + i);
		put("codes", name, texts[i]);
	}
	put("codes", "README", "5000\nacme\n\n");
	CHECK_INT(pending(0), 0);
	CHECK_INT(codes_sweep(folder, NOW, NULL), 0);
}

static void test_many(void)
{
	char code[CODES_SIZE];

	for (int i = 0; i < CODES_PENDING_MAX; i++) { /* not added: that syncs each */
		char name[65];

		snprintf(name, sizeof(name), "%064x", i);
		put("codes", name, "2000\nacme\n\n");
	}
	CHECK_INT(pending(NOW), CODES_PENDING_MAX);
	CHECK_INT(codes_new(code), 0);
	CHECK_INT(codes_add(folder, code, &acme), -EDQUOT);
	CHECK_INT(codes_sweep(folder, NOW, "acme"), CODES_PENDING_MAX);
	CHECK_INT(codes_add(folder, code, &acme), 0);
	CHECK_INT(codes_sweep(folder, NOW, "acme"), 1);
}

int main(void)
{
	char command[128];

	CHECK(mkdtemp(folder));
	test_text();
	test_mistyped();
	test_labels();
	CHECK_INT(codes_each(folder, NOW, count, NULL), -ENOENT);
	CHECK_INT(codes_prepare(folder), 0);
	CHECK_INT(codes_prepare(folder), 0);
	test_once();
	test_taken_back();
	test_expiry();
	test_race();
	test_killed();
	test_many();
	test_rubbish();
	snprintf(command, sizeof(command), "rm -r %s", folder);
	CHECK_INT(system(command), 0);
	return 0;
}
