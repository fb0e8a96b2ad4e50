/* An admin's requests: answered now or later, left by their clients, handed on, never answered. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <json-c/json_object.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/admin.h"
#include "tests/unit/check.h"

#define NAME "@attest-test-admin"

static struct admin_request *waiting;
static unsigned controlled;
static int handed = -1;

static void now(struct admin_request *r, void *user)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "rest", json_object_new_string(admin_rest(r)));
	admin_reply_header(r, "ETag", "x");
	admin_reply_json(r, 200, o);
}

static void later(struct admin_request *r, void *user)
{
	waiting = r;
}

static void hand_on(struct admin_request *r, void *user)
{
	CHECK_STR(admin_header(r, "upgrade"), "test");
	handed = admin_detach(r);
	CHECK(handed >= 0);
}

static void on_control(const struct admin_request *r, const char *what, void *user)
{
	uid_t uid;
	pid_t pid;

	CHECK_STR(what, "POST /hand-on");
	CHECK(admin_peer(r, &uid, &pid));
	CHECK_INT(pid, getpid());
	controlled++;
}

static const struct admin_route routes[] = {
	{ "GET", "/now/", ADMIN_READ, now },
	{ "GET", "/later", ADMIN_READ, later },
	{ "POST", "/hand-on", ADMIN_CONTROL, hand_on },
	{ "GET", "/metrics", ADMIN_METRICS, now },
};

static int connected(const char *request)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memcpy(to.sun_path + 1, NAME + 1, strlen(NAME) - 1);
	CHECK(connect(fd, (struct sockaddr *)&to,
		      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(NAME))) == 0);
	CHECK(write(fd, request, strlen(request)) == (ssize_t)strlen(request));
	return fd;
}

static void turn(struct event_base *base)
{
	for (unsigned i = 0; i < 20; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

static void says(int fd, const char *text)
{
	char got[4096];
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);

	CHECK(n > 0);
	got[n] = '\0';
	if (!strstr(got, text))
		fprintf(stderr, "%s\n", got);
	CHECK(strstr(got, text));
}

static void test_scope(struct event_base *base)
{
	int fd = connected("GET /now/a%20b HTTP/1.1\r\nHost: x\r\n\r\n");

	turn(base);
	says(fd, "{\"rest\":\"a b\"}");
	/* on the same connection; outside of the listener's scope there is nothing */
	CHECK(write(fd, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 34) == 34);
	turn(base);
	says(fd, "404 Not Found");
	close(fd);
}

static void test_answered_later(struct event_base *base)
{
	int fd = connected("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");

	turn(base);
	CHECK(waiting);
	admin_fail(waiting, 503, "busy", "later");
	turn(base);
	says(fd, "503 Service Unavailable");
	close(fd);
}

/* Its client has half closed, or is gone. */
static void test_answered_too_late(struct event_base *base)
{
	int fd = connected("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
	int other = connected("GET /now/x HTTP/1.1\r\nHost: x\r\n\r\n");

	shutdown(fd, SHUT_WR);
	turn(base);
	admin_fail(waiting, 503, "busy", "later");
	turn(base);
	says(fd, "503 Service Unavailable");
	close(fd);
	says(other, "200 OK");
	close(other);
	waiting = NULL;
	fd = connected("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
	turn(base);
	close(fd);
	turn(base);
	admin_fail(waiting, 503, "busy", "nobody hears it");
}

/* The connection is somebody else's then, and open. */
static void test_handed_on(struct event_base *base)
{
	int fd = connected("POST /hand-on HTTP/1.1\r\nHost: x\r\nUpgrade: test\r\n\r\n");
	char byte = 'x';

	turn(base);
	CHECK(handed >= 0);
	CHECK_INT(controlled, 1);
	CHECK(write(handed, &byte, 1) == 1);
	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == 1);
	CHECK(write(fd, &byte, 1) == 1);
	CHECK(recv(handed, &byte, 1, MSG_DONTWAIT) == 1);
	close(handed);
	close(fd);
}

/* Freed while one request waits for its answer, and another is half there. */
static void test_never_answered(struct event_base *base, struct admin *a)
{
	int fd = connected("GET /later HTTP/1.1\r\nHost: x\r\n\r\n"), other;

	turn(base);
	other = connected("GET /half");
	turn(base);
	admin_free(a);
	close(fd);
	close(other);
}

int main(void)
{
	struct address address = { .kind = ADDRESS_UNIX, .name = (char *)NAME };
	struct event_base *base = event_base_new();
	struct admin *a = admin_new(base, routes, sizeof(routes) / sizeof(routes[0]), NULL);
	char *why;

	signal(SIGPIPE, SIG_IGN); /* as the programs do */
	CHECK(a);
	admin_on_control(a, on_control);
	CHECK(admin_listen(a, &address, ADMIN_READ | ADMIN_CONTROL, NULL, &why) == 0);
	test_scope(base);
	test_answered_later(base);
	test_answered_too_late(base);
	test_handed_on(base);
	test_never_answered(base, a);
	admin_free(NULL);
	event_base_free(base);
	libevent_global_shutdown();
	return 0;
}
