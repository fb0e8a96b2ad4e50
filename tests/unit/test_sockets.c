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

/* Has a connection to this address come in there? */
static bool comes_to(const struct listening *l, const char *host, unsigned at)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)at) };
	int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), got;

	CHECK_INT(inet_pton(AF_INET, host, &to.sin_addr), 1);
	CHECK_INT(connect(c, (struct sockaddr *)&to, sizeof(to)), 0);
	got = accept(l->fd, NULL, NULL);
	close(c);
	if (got >= 0)
		close(got);
	return got >= 0;
}

static void has_no_reuseport(const struct listening *l)
{
	int on = -1;
	socklen_t len = sizeof(on);

	CHECK_INT(getsockopt(l->fd, SOL_SOCKET, SO_REUSEPORT, &on, &len), 0);
	CHECK_INT(on, 0);
}

/* From one address to another at the same port: both listen, and either can go. */
static void overlap(const char *from, const char *to, unsigned at, bool to_new)
{
	char a_text[64], b_text[64], *why;
	struct sockets *a, *b;

	snprintf(a_text, sizeof(a_text), "tcp:%s:%u", from, at);
	snprintf(b_text, sizeof(b_text), "tcp:%s:%u", to, at);
	a = open_all(NULL, CONFIG("x", a_text));
	b = open_all(a, CONFIG("y", b_text));
	has_no_reuseport(a->at[0]);
	has_no_reuseport(b->at[0]);
	CHECK(comes_to(to_new ? b->at[0] : a->at[0], "127.0.0.1", at));
	sockets_close(b); /* thrown away */
	CHECK(comes_to(a->at[0], "127.0.0.1", at));
	why = refused(a, CONFIG("y", b_text, "none", "unix:/nowhere/at/all"));
	free(why);
	has_no_reuseport(a->at[0]);
	CHECK(comes_to(a->at[0], "127.0.0.1", at));
	b = open_all(a, CONFIG("y", b_text));
	sockets_close(a);
	CHECK(comes_to(b->at[0], "127.0.0.1", at));
	sockets_close(b);
}

static void test_overlap(void)
{
	struct sockets *probe = open_all(NULL, CONFIG("x", "tcp:127.0.0.1:0")), *a, *b;
	const unsigned at = port(probe->at[0]);
	char narrow[64], other[64], wide[64], *why;

	sockets_close(probe);
	overlap("127.0.0.1", "0.0.0.0", at, false);
	overlap("0.0.0.0", "127.0.0.1", at, true);
	overlap("[::]", "0.0.0.0", at, true);
	overlap("0.0.0.0", "[::]", at, false);
	overlap("[::]", "127.0.0.1", at, true);
	snprintf(narrow, sizeof(narrow), "tcp:127.0.0.1:%u", at);
	snprintf(other, sizeof(other), "tcp:127.0.0.2:%u", at);
	snprintf(wide, sizeof(wide), "tcp:0.0.0.0:%u", at);
	/* one in the place of two, and back; not if one of the two stays */
	a = open_all(NULL, CONFIG("x", narrow, "y", other));
	why = refused(a, CONFIG("x", narrow, "z", wide));
	CHECK(strstr(why, "listener x at tcp:127.0.0.1"));
	CHECK(strstr(why, "only one of them can be"));
	free(why);
	b = open_all(a, CONFIG("z", wide));
	sockets_close(a);
	a = open_all(b, CONFIG("x", narrow, "y", other));
	sockets_close(b);
	CHECK(comes_to(a->at[0], "127.0.0.1", at) && comes_to(a->at[1], "127.0.0.2", at));
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
