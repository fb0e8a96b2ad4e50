/*
 * Listening sockets: which are kept by another config, what comes of those that are not, all or
 * nothing, and paths that are somebody else's by then.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/sockets.h"
#include "tests/unit/check.h"

static char folder[] = "/tmp/test_sockets.XXXXXX";

/* Listeners by name and address, in pairs. */
static struct relay_config *config(const char *const *pairs)
{
	struct config_errors e = { 0 };
	struct relay_config *c;
	char text[4096];
	size_t len = 0;

	len += (size_t)snprintf(text + len, sizeof(text) - len, "listeners:\n");
	for (; *pairs; pairs += 2)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
					"- {name: %s, address: \"%s\", service: kbs.acme}\n",
					pairs[0], pairs[1]);
	len += (size_t)snprintf(text + len, sizeof(text) - len,
				"services: [{name: kbs.acme, targets: [\"tcp:127.0.0.1:1\"]}]\n");
	c = relay_config_parse("r.yaml", text, len, &e);
	config_errors_print(&e, stderr);
	CHECK(c);
	return c;
}

#define CONFIG(...) config((const char *const[]){ __VA_ARGS__, NULL })

static struct sockets *open_all(const struct sockets *before, struct relay_config *c)
{
	struct sockets *s;
	char *why;

	s = sockets_open(before, c, NULL, &why);
	if (why)
		fprintf(stderr, "%s\n", why);
	CHECK(s && !why);
	CHECK_INT(s->n, c->n_listeners);
	relay_config_unref(c);
	return s;
}

static char *refused(const struct sockets *before, struct relay_config *c)
{
	char *why;

	CHECK(!sockets_open(before, c, NULL, &why));
	CHECK(why);
	relay_config_unref(c);
	return why;
}

static unsigned port(const struct listening *l)
{
	struct sockaddr_in at;
	socklen_t len = sizeof(at);

	CHECK_INT(getsockname(l->fd, (struct sockaddr *)&at, &len), 0);
	return ntohs(at.sin_port);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static bool is_there(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static void test_kept(void)
{
	struct sockets *a = open_all(NULL, CONFIG("x", "tcp:127.0.0.1:0", "y", "tcp:127.0.0.1:0"));
	struct sockets *b = open_all(
		a, CONFIG("y", "tcp:127.0.0.1:0", "z", "tcp:127.0.0.1:0", "x", "tcp:127.0.0.1:0"));
	struct listening *held;
	struct sockets *c;
	int gone;

	CHECK(b->at[0] == a->at[1] && b->at[2] == a->at[0]); /* by their names */
	CHECK(b->at[1] != a->at[0] && b->at[1] != a->at[1]);
	CHECK(port(b->at[1]) != port(b->at[0]));
	sockets_close(a);
	c = open_all(b, CONFIG("other", "tcp:127.0.0.1:0"));
	CHECK(c->at[0] == b->at[0]); /* by the address alone */
	gone = b->at[1]->fd;
	held = sockets_hold(b->at[2]);
	sockets_close(b);
	CHECK(!is_open(gone) && is_open(held->fd)); /* somebody still accepts on it */
	gone = held->fd;
	sockets_put(held);
	CHECK(!is_open(gone));
	sockets_close(c);
	CHECK(!sockets_close(NULL) && !sockets_put(NULL));
}

static void test_all_or_nothing(void)
{
	char path[64], address[80], taken[64], *why;
	struct sockets *a;

	snprintf(path, sizeof(path), "%s/s", folder);
	snprintf(address, sizeof(address), "unix:%s", path);
	a = open_all(NULL, CONFIG("x", "tcp:127.0.0.1:0"));
	snprintf(taken, sizeof(taken), "tcp:127.0.0.1:%u", port(a->at[0]));
	why = refused(a, CONFIG("x", "tcp:127.0.0.1:0", "new", address, "taken", taken, "none",
				"unix:/nowhere/at/all"));
	CHECK(strstr(why, "listener taken: cannot listen at"));
	CHECK(strstr(why, "; listener none: cannot listen at")); /* all that is wrong */
	free(why);
	CHECK(!is_there(path) && is_open(a->at[0]->fd));
	sockets_close(a);
}

static void test_overlap(void)
{
	struct sockets *probe = open_all(NULL, CONFIG("x", "tcp:127.0.0.1:0")), *a;
	char narrow[64], wide[64], *why;

	snprintf(narrow, sizeof(narrow), "tcp:127.0.0.1:%u", port(probe->at[0]));
	snprintf(wide, sizeof(wide), "tcp:0.0.0.0:%u", port(probe->at[0]));
	sockets_close(probe);
	a = open_all(NULL, CONFIG("x", narrow));
	why = refused(a, CONFIG("x", wide));
	CHECK(strstr(why, "the relay itself listens at tcp:127.0.0.1"));
	free(why);
	sockets_close(a);
}

static void test_paths(void)
{
	char path[64], address[80];
	struct sockets *a, *b;

	snprintf(path, sizeof(path), "%s/s", folder);
	snprintf(address, sizeof(address), "unix:%s", path);
	a = open_all(NULL, CONFIG("x", address));
	CHECK(is_there(path));
	sockets_close(a);
	CHECK(!is_there(path));
	/* another one's by now */
	a = open_all(NULL, CONFIG("x", address));
	CHECK_INT(unlink(path), 0);
	b = open_all(NULL, CONFIG("x", address));
	sockets_close(a);
	CHECK(is_there(path));
	/* another process has it, too */
	sockets_give_away(b);
	sockets_close(b);
	CHECK(is_there(path));
	CHECK_INT(unlink(path), 0);
}

int main(void)
{
	CHECK(mkdtemp(folder));
	test_kept();
	test_all_or_nothing();
	test_overlap();
	test_paths();
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
