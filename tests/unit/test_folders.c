/*
 * Folders that come and go: those already there, made, removed, renamed, replaced; the folder above
 * missing, removed, moved; bounds; names and things that are left out; an overrun of the kernel's
 * queue; sockets where '*' comes last.
 */
#include <ftw.h>
#include <sys/wait.h>

#include "qgs-bridge/folders.c"

#include "tests/unit/loop.h"

static char dir[] = "/tmp/test_folders.XXXXXX";

/* What was told: "+a" and "-a", in order. */
static char told[4096];
static char last_path[PATH_MAX];

static void on_came(void *user, const char *name, const char *path)
{
	CHECK(user == told);
	strcpy(last_path, path);
	strcat(strcat(told, "+"), name);
}

static void on_went(void *user, const char *name)
{
	CHECK(user == told);
	strcat(strcat(told, "-"), name);
}

static const struct folders_events told_events = { .came = on_came, .went = on_went };

static const char *in(const char *rest)
{
	static char text[4][PATH_MAX];
	static unsigned next;

	next = (next + 1) % 4;
	snprintf(text[next], sizeof(text[0]), "%s%s", dir, rest);
	return text[next];
}

static void make(const char *rest)
{
	CHECK_INT(mkdir(in(rest), 0755), 0);
}

static void drop(const char *rest)
{
	CHECK_INT(rmdir(in(rest)), 0);
}

static void move(const char *from, const char *to)
{
	CHECK_INT(rename(in(from), in(to)), 0);
}

static struct folders *start(const char *pattern, unsigned max)
{
	struct folders *f = folders_new(w, in(pattern), max, &told_events, told);

	CHECK(f);
	CHECK_STR(told, ""); /* later, from the loop */
	UNTIL(f->stamp.ino != (ino_t)-1);
	timer_cancel(w, &f->timer); /* or a look would find what an event should have told */
	return f;
}

/* Told since the last time, in order; and nothing more is to come. */
#define TOLD(what)                                           \
	do {                                                 \
		if ((what)[0])                               \
			UNTIL(strlen(told) >= strlen(what)); \
		settle();                                    \
		CHECK_STR(told, what);                       \
		told[0] = '\0';                              \
	} while (0)

static void test_patterns(void)
{
	static const char *const wrong[] = { "relative/*/x", "/none/x", "/two/*/*/x", "/two/*b*/x",
					     "@abstract*" };
	struct folders *f;

	CHECK(folders_is_pattern("/run/*/x"));
	CHECK(!folders_is_pattern("/run/x"));
	CHECK(!folders_is_pattern("@a*"));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		errno = 0;
		CHECK(!folders_new(w, wrong[i], 8, &told_events, told));
		CHECK_INT(errno, EINVAL);
	}
	f = folders_new(w, "/*/x", 0, &told_events, told);
	CHECK(f);
	CHECK_STR(f->above, "");
	settle();
	f = folders_free(f); /* max 0: nobody was told */
	f = folders_new(w, "/run//vms/vm-*.d/a/b", 8, &told_events, told);
	CHECK(f);
	CHECK_STR(f->above, "/run//vms");
	CHECK_STR(f->before, "vm-");
	CHECK_STR(f->after, ".d");
	CHECK_STR(f->rest, "/a/b");
	folders_free(f); /* before anything was told */
	CHECK_STR(told, "");
	CHECK(!folders_free(NULL));
}

static void test_come_and_go(void)
{
	struct folders *f;
	struct stat st;

	make("/vms");
	make("/vms/old");
	f = start("/vms/*/vm.sock", 8);
	TOLD("+old");
	CHECK_STR(last_path, in("/vms/old/vm.sock"));
	make("/vms/new");
	TOLD("+new");
	drop("/vms/old");
	TOLD("-old");
	move("/vms/new", "/vms/renamed");
	TOLD("-new+renamed");
	move("/vms/renamed", "/away");
	TOLD("-renamed");
	move("/away", "/vms/back");
	TOLD("+back");
	/* another of the same name, at once: its sockets are to be made anew */
	drop("/vms/back");
	make("/vms/back");
	TOLD("-back+back");
	/* ... even if the file system gives it the number of the old one */
	drop("/vms/back");
	make("/vms/back");
	CHECK_INT(stat(in("/vms/back"), &st), 0);
	f->known[0].ino = st.st_ino;
	TOLD("-back+back");
	/* one that is there for a moment only need not be told, but both or none */
	make("/vms/short");
	drop("/vms/short");
	TOLD("");
	folders_free(f);
	drop("/vms/back");
	drop("/vms");
}

static void test_left_out(void)
{
	char path[PATH_MAX];
	struct folders *f;

	make("/vms");
	make("/elsewhere");
	make("/vms/vm-");
	make("/vms/vm-1.d");
	make("/vms/vm-a b.d");
	make("/vms/xvm-2.d");
	make("/vms/vm-3.dx");
	memset(path, 0, sizeof(path));
	strcpy(path, "/vms/vm-");
	memset(path + strlen(path), 'n', FOLDERS_NAME_MAX);
	strcat(path, ".d");
	make(path);
	CHECK_INT(symlink(in("/elsewhere"), in("/vms/vm-4.d")), 0);
	fclose(fopen(in("/vms/vm-5.d"), "w"));
	f = start("/vms/vm-*.d/vm.sock", 8);
	TOLD("+1");
	CHECK_STR(last_path, in("/vms/vm-1.d/vm.sock"));
	folders_free(f);

	make("/vms/.hidden");
	f = start("/vms/*/vm.sock", 8);
	CHECK(!strstr(told, "hidden"));
	told[0] = '\0';
	move("/vms/.hidden", "/vms/done"); /* made in peace, then shown */
	TOLD("+done");
	folders_free(f);
}

static void test_bound(void)
{
	struct folders *f;

	make("/many");
	f = start("/many/*/x", 2);
	make("/many/b");
	TOLD("+b");
	make("/many/c");
	TOLD("+c");
	make("/many/a"); /* those known stay, whatever the order of their names */
	TOLD("");
	drop("/many/c"); /* ... and their places are taken when they go */
	TOLD("-c+a");
	folders_free(f);
}

static unsigned watches(const struct folders *f)
{
	char path[64], line[256];
	unsigned n = 0;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->fd);
	info = fopen(path, "r");
	CHECK(info);
	while (fgets(line, sizeof(line), info))
		n += strncmp(line, "inotify ", 8) == 0;
	fclose(info);
	return n;
}

/* The folder above comes and goes, and so do those above that. */
static void test_above(void)
{
	struct folders *f = start("/x/y/z/*/s", 8);

	TOLD("");
	make("/x");
	make("/other");
	make("/x/y");
	make("/x/y/z");
	make("/x/y/z/a");
	TOLD("+a");
	drop("/x/y/z/a");
	drop("/x/y/z");
	TOLD("-a");
	make("/x/y/z"); /* again */
	make("/x/y/z/b");
	TOLD("+b");
	move("/x/y/z", "/x/y/old"); /* the watch would go with it */
	TOLD("-b");
	make("/x/y/old/c");
	TOLD("");
	make("/x/y/z");
	TOLD("");
	make("/x/y/z/d");
	TOLD("+d");
	/* what no watch of ours tells: found at the next look */
	move("/x", "/moved");
	timer_set(w, &f->timer, 0, on_timer);
	TOLD("-d");
	timer_cancel(w, &f->timer);
	move("/moved", "/x");
	TOLD("+d");
	CHECK_INT(watches(f), 1); /* for all that it has watched */
	folders_free(f);
}

/* A bound that is moved: those left out come then; those who are there stay. */
static void test_other_limit(void)
{
	struct folders *f;

	make("/bound");
	make("/bound/a");
	f = start("/bound/*/s", 1);
	TOLD("+a");
	make("/bound/b");
	TOLD("");
	folders_limit(f, 2);
	timer_set(w, &f->timer, 0, on_timer);
	TOLD("+b");
	folders_limit(f, 1);
	make("/bound/c");
	TOLD("");
	drop("/bound/a");
	TOLD("-a");
	drop("/bound/b");
	TOLD("-b+c");
	folders_free(f);
	drop("/bound/c");
	drop("/bound");
}

/* The kernel's queue is bounded: all that it lost is found. */
static void test_overflow(void)
{
	char path[64], max[16] = "";
	struct folders *f;
	FILE *limit;
	int queue;

	limit = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
	CHECK(limit && fgets(max, sizeof(max), limit));
	fclose(limit);
	queue = atoi(max);
	make("/loud");
	make("/loud/vm-gone");
	f = start("/loud/vm-*/s", 8);
	TOLD("+gone");
	for (int i = 0; i < queue / 2 + 8; i++) { /* two events each, none that matters */
		snprintf(path, sizeof(path), "/loud/%d", i);
		make(path);
		drop(path);
	}
	drop("/loud/vm-gone");
	make("/loud/vm-new");
	TOLD("-gone+new");
	folders_free(f);
}

static int listen_at(const char *rest)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%.100s", in(rest));
	CHECK_INT(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static void test_sockets(void)
{
	struct folders *f;
	int one, two;

	make("/chardevs");
	make("/chardevs/folder.sock");
	one = listen_at("/chardevs/one.sock");
	f = start("/chardevs/*.sock", 8);
	TOLD("+one");
	CHECK_STR(last_path, in("/chardevs/one.sock"));
	two = listen_at("/chardevs/two.sock");
	TOLD("+two");
	move("/chardevs/two.sock", "/chardevs/one.sock");
	UNTIL(strlen(told) >= strlen("-one-two+one"));
	settle();
	CHECK(strcmp(told, "-one-two+one") == 0 || strcmp(told, "-two-one+one") == 0);
	told[0] = '\0';
	folders_free(f);
	close(one);
	close(two);
}

/* Many at once: all are told, each once. */
static void test_many(void)
{
	static char all[32768];
	struct folders *f;
	char path[64];
	unsigned n = 0;

	make("/crowd");
	f = start("/crowd/vm-*/s", 512);
	for (int i = 0; i < 512; i++) {
		snprintf(path, sizeof(path), "/crowd/vm-%d", i);
		make(path);
		turn(false);
		strcat(all, told);
		told[0] = '\0';
	}
	UNTIL(f->n == 512);
	strcat(all, told);
	told[0] = '\0';
	for (const char *p = all; (p = strchr(p, '+')); p++)
		n++;
	CHECK_INT(n, 512);
	CHECK(!strchr(all, '-'));
	CHECK(strstr(all, "+511"));
	folders_free(f);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

int main(void)
{
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	CHECK(mkdtemp(dir));
	loop_begin();
	test_patterns();
	test_come_and_go();
	test_left_out();
	test_bound();
	test_above();
	test_other_limit();
	test_overflow();
	test_sockets();
	test_many();
	loop_end();
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}
