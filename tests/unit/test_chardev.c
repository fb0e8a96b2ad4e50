/*
 * Connections to where a VMM listens: made when it is there, handed over at the first byte with
 * that byte unread, made again afterwards; VMMs that close, that serve one at a time, that hang up
 * all the time; the end at each moment.
 */
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qgs-bridge/chardev.c"

#include "tests/unit/loop.h"

static char dir[] = "/tmp/test_chardev.XXXXXX";
static struct bridge bridge;
static struct address at;

/* What was handed over. */
static unsigned handed;
static struct conduit *stream;

static void on_handed(void *user, struct conduit *c)
{
	CHECK(user == &handed);
	CHECK(!stream);
	handed++;
	stream = c;
}

static struct chardev *start(void)
{
	struct chardev *c = chardev_new(&bridge, &at, 5000, on_handed, &handed);

	CHECK(c);
	handed = 0;
	return c;
}

static int vmm_listens(int backlog)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(l >= 0);
	unlink(at.name);
	strcpy(un.sun_path, at.name);
	CHECK_INT(bind(l, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(listen(l, backlog), 0);
	return l;
}

static int vmm_accepts(int l)
{
	int fd = -1;

	UNTIL((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
	return fd;
}

static int connect_to(int l)
{
	struct sockaddr_un un;
	socklen_t len = sizeof(un);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK_INT(getsockname(l, (struct sockaddr *)&un, &len), 0);
	CHECK_INT(connect(fd, (struct sockaddr *)&un, len), 0);
	return fd;
}

/* The stream is the one that the VMM has as fd, and its first byte is still in it. */
static void is_joined(int fd, char expected)
{
	char byte = 0;

	CHECK_INT(conduit_read(stream, &byte, 1), 1);
	CHECK_INT(byte, expected);
	CHECK_INT(conduit_write(stream, "r", 1), 1);
	CHECK_INT(recv(fd, &byte, 1, 0), 1);
	CHECK_INT(byte, 'r');
}

static void stream_over(struct chardev *c)
{
	conduit_close(stream, REASON_EOF);
	stream = NULL;
	chardev_again(c);
}

static void test_speaks(void)
{
	struct chardev *c = start();
	int l, fd;

	UNTIL(c->told == REASON_DIAL_REFUSED); /* nobody there yet */
	l = vmm_listens(1);
	fd = vmm_accepts(l);
	settle();
	CHECK_INT(handed, 0); /* it may say something some day */
	CHECK_INT(send(fd, "x", 1, 0), 1);
	UNTIL(handed == 1);
	is_joined(fd, 'x');
	settle();
	CHECK(accept(l, NULL, NULL) < 0); /* one at a time */
	stream_over(c);
	close(fd);
	fd = vmm_accepts(l);
	CHECK_INT(send(fd, "y", 1, 0), 1);
	UNTIL(handed == 2);
	is_joined(fd, 'y');
	stream_over(c);
	close(fd);
	close(l);
	chardev_free(c);
}

/* Said before we asked: QEMU passes on what the guest wrote as soon as we are there. */
static void test_speaks_at_once(void)
{
	int l = vmm_listens(1), fd;
	struct chardev *c = start();

	fd = vmm_accepts(l);
	CHECK_INT(send(fd, "x", 1, 0), 1);
	close(fd); /* ... and no more: still a caller, who gets what was said */
	UNTIL(handed == 1);
	stream_over(c);
	chardev_free(c);
	close(l);
}

/* Closed before a byte: no caller; and however often, no more than one connect in a while. */
static void test_closes(void)
{
	int l = vmm_listens(1);
	struct chardev *c = start();
	uint64_t began = now_ms();

	for (int i = 0; i < 3; i++)
		close(vmm_accepts(l));
	CHECK(now_ms() - began >= 2 * CHARDEV_RETRY_MS - 3 * TIMER_TICK_MS);
	settle();
	CHECK_INT(handed, 0);
	chardev_free(c);
	close(l);
}

/* Turned away each time: the same. */
static void test_refused_streams(void)
{
	int l = vmm_listens(1), fd;
	struct chardev *c = start();
	uint64_t began = now_ms();

	for (unsigned i = 1; i <= 3; i++) {
		fd = vmm_accepts(l);
		CHECK_INT(send(fd, "x", 1, 0), 1);
		UNTIL(handed == i);
		stream_over(c);
		close(fd);
	}
	CHECK(now_ms() - began >= 2 * CHARDEV_RETRY_MS - 3 * TIMER_TICK_MS);
	chardev_free(c);
	close(l);
}

/* Somebody else has the VMM's attention: we wait in its queue, and do not spin. */
static void test_busy_vmm(void)
{
	int l = vmm_listens(1), fd;
	struct chardev *c = start();
	clock_t cpu;
	uint64_t began;

	UNTIL(c->conduit);
	cpu = clock();
	for (began = now_ms(); now_ms() - began < 300;)
		turn(true); /* to a tick's end, or for ever if nothing is set: so a timer is */
	CHECK((clock() - cpu) * 1000 / CLOCKS_PER_SEC < 150);
	CHECK_INT(handed, 0);
	fd = vmm_accepts(l);
	CHECK_INT(send(fd, "x", 1, 0), 1);
	UNTIL(handed == 1);
	is_joined(fd, 'x');
	stream_over(c);
	close(fd);
	chardev_free(c);
	close(l);
}

static void test_ends(void)
{
	struct chardev *c = start();
	int l, fd;

	CHECK(!chardev_free(c)); /* before anything */
	CHECK(!chardev_free(NULL));
	unlink(at.name);
	c = start();
	UNTIL(c->told == REASON_DIAL_REFUSED);
	chardev_free(c); /* in a pause */
	l = vmm_listens(0);
	fd = connect_to(l); /* its queue is full: a dial has to wait */
	c = start();
	UNTIL(c->dial);
	chardev_free(c); /* dialling */
	close(fd);
	close(vmm_accepts(l));
	c = start();
	fd = vmm_accepts(l);
	UNTIL(c->conduit);
	chardev_free(c); /* waiting: the VMM sees it */
	UNTIL(recv(fd, &(char){ 0 }, 1, 0) == 0);
	close(fd);
	c = start();
	fd = vmm_accepts(l);
	CHECK_INT(send(fd, "x", 1, 0), 1);
	UNTIL(handed == 1);
	chardev_free(c); /* its stream goes on, and nobody connects after it */
	settle();
	is_joined(fd, 'x');
	stream_over(c);
	settle();
	CHECK(accept(l, NULL, NULL) < 0);
	close(fd);
	close(l);
}

static void on_tick(struct timer *t)
{
	timer_set(w, t, TIMER_TICK_MS, on_tick);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

int main(void)
{
	struct timer tick = { 0 }; /* so that a turn that may wait comes back */
	char text[64], *why;

	CHECK(mkdtemp(dir));
	snprintf(text, sizeof(text), "unix:%s/guest.sock", dir);
	CHECK_INT(address_parse(&at, text, &why), 0);
	loop_begin();
	bridge.worker = w;
	timer_set(w, &tick, 0, on_tick);
	test_speaks();
	test_speaks_at_once();
	test_closes();
	test_refused_streams();
	test_busy_vmm();
	test_ends();
	timer_cancel(w, &tick);
	loop_end();
	address_deinit(&at);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}
