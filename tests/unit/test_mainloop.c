/*
 * mainloop: what each signal does to a program, what systemd hears of it, and that the end waits
 * for the last conduit, and for no more than that.
 */
#include "relay/mainloop.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay/log.h"
#include "relay/worker.h"
#include "tests/unit/check.h"

static struct mainloop loop;
static unsigned reloads, drains, cuts, looks;
static int systemd;

static void say(char *text, size_t size)
{
	snprintf(text, size, "%u reloads", reloads);
}

static bool reload(char **why)
{
	*why = strdup("because");
	reloads++;
	return false;
}

static void drain(void)
{
	drains++;
}

static void cut(void)
{
	cuts++;
	mainloop_finish(&loop);
}

static void look(void)
{
	looks++;
}

static const struct mainloop_ops ops = {
	.status = say, .reload = reload, .drain = drain, .cut = cut, .look = look
};

/* A socket as systemd's; its path is abstract, so nothing is left behind. */
static void listen_as_systemd(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char name[64];
	int len = snprintf(name, sizeof(name), "@test-mainloop-%d", (int)getpid());

	memcpy(at.sun_path, name, (size_t)len);
	at.sun_path[0] = '\0';
	systemd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK(systemd >= 0);
	CHECK(bind(systemd, (struct sockaddr *)&at,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)len)) == 0);
	setenv("NOTIFY_SOCKET", name, 1);
}

static void hears(const char *expected)
{
	char text[256] = "";
	ssize_t n = recv(systemd, text, sizeof(text) - 1, 0);

	CHECK(n > 0);
	CHECK_STR(text, expected);
}

static void signalled(int signal)
{
	kill(getpid(), signal);
	worker_turn(loop.worker, true);
}

static void test_signals(void)
{
	CHECK(mainloop_init(&loop, &ops));
	signalled(SIGHUP);
	CHECK_INT(reloads, 1);
	signalled(SIGUSR1);
	mainloop_tell(&loop);
	hears("STATUS=1 reloads");

	signalled(SIGTERM);
	CHECK_INT(drains, 1);
	hears("STOPPING=1");
	hears("STATUS=ending: 1 reloads");
	signalled(SIGINT); /* the same one: from a container's init, say */
	mainloop_drain(&loop);
	CHECK(drains == 1 && cuts == 0);
	loop.ending.at -= ENDING_SAME_MS;
	signalled(SIGINT);
	CHECK_INT(cuts, 1);
	signalled(SIGINT); /* all is over: nothing is left to be cut */
	CHECK_INT(cuts, 1);
	mainloop_deinit(&loop);
}

static void let_go(struct timer *t)
{
	loop.worker->conduits--;
}

/* Asked for in words; the loop ends with the last conduit. */
static void test_end(void)
{
	struct timer last = { 0 };

	CHECK(mainloop_init(&loop, &ops));
	mainloop_drain(&loop);
	CHECK_INT(drains, 2);
	loop.worker->conduits++;
	timer_set(loop.worker, &last, 60, let_go);
	mainloop_finish(&loop);
	mainloop_finish(&loop);
	mainloop_run(&loop);
	CHECK_INT(loop.worker->conduits, 0);
	CHECK_INT(looks, 1);
	mainloop_deinit(&loop);
	mainloop_deinit(&(struct mainloop){ 0 });
}

int main(void)
{
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	listen_as_systemd();
	test_signals();
	test_end();
	close(systemd);
	return 0;
}
