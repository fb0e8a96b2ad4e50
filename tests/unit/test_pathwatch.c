/*
 * test_pathwatch: a file and the folders above it come, go and change. No timer is in play: what is
 * told was seen by inotify alone.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "qgs-bridge/pathwatch.h"
#include "tests/unit/loop.h"

static char folder[] = "/tmp/test-pathwatch-XXXXXX";
static unsigned told;

static void on_change(void *user)
{
	CHECK(user == &told);
	told++;
}

static const char *at(const char *name)
{
	static char text[4][128];
	static unsigned n;

	n = (n + 1) % 4;
	snprintf(text[n], sizeof(text[n]), "%s/%s", folder, name);
	return text[n];
}

static void make_file(const char *name)
{
	int fd = open(at(name), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	close(fd);
}

static void expect_told(unsigned n)
{
	UNTIL(told >= n);
	settle();
	CHECK_INT(told, n);
}

static void test_file(void)
{
	struct pathwatch *p = pathwatch_new(w, at("file"), on_change, &told);

	CHECK(p);
	told = 0;
	make_file("other"); /* nobody's concern */
	settle();
	CHECK_INT(told, 0);
	make_file("file");
	expect_told(1);
	CHECK_INT(chmod(at("file"), 0666), 0);
	expect_told(2);
	CHECK_INT(rename(at("other"), at("file")), 0); /* another in its place */
	expect_told(3);
	CHECK_INT(unlink(at("file")), 0);
	expect_told(4);
	CHECK(!pathwatch_free(p));
}

/* None of the folders is there at first. */
static void test_folders(void)
{
	struct pathwatch *p = pathwatch_new(w, at("a/b/file"), on_change, &told);

	CHECK(p);
	told = 0;
	for (unsigned i = 0; i < 3; i++) {
		CHECK_INT(mkdir(at("a"), 0700), 0);
		if (i)
			settle(); /* seen one by one, or all at once */
		CHECK_INT(mkdir(at("a/b"), 0700), 0);
		if (i)
			settle();
		CHECK_INT(told, 3 * i);
		make_file("a/b/file");
		expect_told(3 * i + 1);
		if (i == 2) { /* the folder goes with it, and comes back */
			CHECK_INT(rename(at("a/b"), at("a/c")), 0);
			expect_told(3 * i + 2);
			CHECK_INT(rename(at("a/c"), at("a/b")), 0);
		} else {
			CHECK_INT(chmod(at("a/b/file"), 0640), 0);
			expect_told(3 * i + 2);
		}
		if (i == 2)
			expect_told(3 * i + 3);
		CHECK_INT(unlink(at("a/b/file")), 0);
		if (i < 2)
			expect_told(3 * i + 3);
		else
			expect_told(3 * i + 4);
		CHECK_INT(rmdir(at("a/b")), 0);
		CHECK_INT(rmdir(at("a")), 0);
		settle();
	}
	pathwatch_free(p);
}

static void test_limits(void)
{
	char text[PATHWATCH_MAX + 1];

	memset(text, 'x', sizeof(text));
	text[0] = '/';
	text[PATHWATCH_MAX] = '\0';
	CHECK(!pathwatch_new(w, text, on_change, &told));
	CHECK_INT(errno, ENAMETOOLONG);
	text[PATHWATCH_MAX - 1] = '\0';
	pathwatch_free(pathwatch_new(w, text, on_change, &told));
	pathwatch_free(pathwatch_new(w, "/", on_change, &told));
	CHECK(!pathwatch_free(NULL));
}

int main(void)
{
	CHECK(mkdtemp(folder));
	loop_begin();
	test_file();
	test_folders();
	test_limits();
	loop_end();
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
