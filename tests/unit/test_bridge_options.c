/* qgs-bridge's command line: flags alone, on top of a file, what is wrong and how it ends. */
#include <fcntl.h>
#include <unistd.h>

#include "config/bridge.h"
#include "qgs-bridge/options.h"
#include "relay/log.h"
#include "tests/unit/check.h"

#define ARGUMENTS_MAX 16

static char folder[] = "/tmp/test_bridge_options.XXXXXX";
static char path[64];
static char said[8192]; /* what the last call printed */

static void write_file(const char *text)
{
	FILE *f = fopen(path, "w");

	CHECK(f);
	CHECK(fputs(text, f) >= 0);
	CHECK_INT(fclose(f), 0);
}

/* words: the arguments, between spaces. They live on: options keep pointers into argv. */
static int split(const char *words, char *argv[ARGUMENTS_MAX])
{
	static char buf[1024];
	char *rest = buf, *word;
	int argc = 1;

	argv[0] = (char *)"qgs-bridge";
	snprintf(buf, sizeof(buf), "%s", words);
	while ((word = strsep(&rest, " "))) {
		CHECK(argc < ARGUMENTS_MAX - 1);
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	return argc;
}

/* Stdout and stderr into said until the result of it is put back. */
struct capture {
	FILE *file;
	int out, err;
};

static struct capture capture_begin(void)
{
	struct capture c = { .file = tmpfile(), .out = dup(1), .err = dup(2) };

	CHECK(c.file && c.out >= 0 && c.err >= 0);
	fflush(stdout);
	CHECK(dup2(fileno(c.file), 1) == 1 && dup2(fileno(c.file), 2) == 2);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR); /* has its own way there */
	return c;
}

static void capture_end(struct capture *c)
{
	fflush(stdout);
	dup2(c->out, 1);
	dup2(c->err, 2);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	close(c->out);
	close(c->err);
	rewind(c->file);
	said[fread(said, 1, sizeof(said) - 1, c->file)] = '\0';
	fclose(c->file);
}

static struct bridge_options read_words(const char *words)
{
	char *argv[ARGUMENTS_MAX];
	int argc = split(words, argv);
	struct capture c = capture_begin();
	struct bridge_options o = bridge_options_read(argc, argv);

	capture_end(&c);
	return o;
}

/* Ends with status and says this. */
static void ends(const char *words, int status, const char *what)
{
	struct bridge_options o = read_words(words);

	if (o.action != BRIDGE_DONE || o.status != status || o.config || !strstr(said, what)) {
		fprintf(stderr, "\"%s\": %d (not %d) and \"%s\", not \"%s\"\n", words, o.status,
			status, said, what);
		abort();
	}
}

static struct bridge_config *runs(const char *words, enum bridge_options_action action)
{
	struct bridge_options o = read_words(words);

	if (!o.config)
		fputs(said, stderr);
	CHECK_STR(said, "");
	CHECK_INT(o.action, action);
	CHECK(o.config);
	return o.config;
}

static void test_flags(void)
{
	struct bridge_config *c =
		runs("--mode 666 --listen vsock:any:4050 -l unix:/q --group kvm --qgs "
		     "unix:/qgs --framing none --log-level debug",
		     BRIDGE_RUN);

	CHECK_INT(c->n_listeners, 2);
	CHECK_INT(c->listeners[0].address.kind, ADDRESS_VSOCK);
	CHECK_STR(c->listeners[1].mode, "666");
	CHECK_STR(c->listeners[1].group, "kvm");
	CHECK_STR(c->qgs.address.name, "/qgs");
	CHECK_INT(c->qgs.framing, FRAMING_NONE);
	CHECK_INT(c->log.level, CONFIG_LOG_DEBUG);
	bridge_config_unref(c);
	bridge_config_unref(runs("--listen fd:x --check-config", BRIDGE_CHECK));
	bridge_config_unref(runs("--dump-config --listen fd:x", BRIDGE_DUMP));
}

static void test_ends(void)
{
	ends("--help", BRIDGE_ORDERLY, "Usage: qgs-bridge --listen ADDRESS");
	ends("-V", BRIDGE_ORDERLY, "qgs-bridge " VERSION);
	ends("--check-config", BRIDGE_USAGE, "qgs-bridge: no listener; expected --listen vsock:");
	ends("--lisen vsock:any:1", BRIDGE_USAGE, "--lisen");
	ends("--lisen vsock:any:1", BRIDGE_USAGE, "Try qgs-bridge --help.\n");
	ends("vsock:any:1", BRIDGE_USAGE, "did you mean --listen vsock:any:1?");
	ends("start", BRIDGE_USAGE, "unexpected argument \"start\"\nTry");
	ends("--listen", BRIDGE_USAGE, "Try qgs-bridge --help.");
	ends("--listen 4050", BRIDGE_USAGE, "qgs-bridge: --listen 4050: expected tcp:HOST:PORT");
	ends("--listen tcp:0.0.0.0:1", BRIDGE_USAGE, "is not on loopback");
	ends("-l fd:x --qgs tcp:[::1]:1", BRIDGE_USAGE, "qgs-bridge: --qgs tcp:[::1]:1: is of a");
	ends("-l fd:x --mode 666", BRIDGE_USAGE, "qgs-bridge: --mode 666: no socket that could");
	ends("-l unix:/x --mode 9", BRIDGE_USAGE, "--mode 9: expected an octal mode");
	ends("-l unix:/x --group a:b", BRIDGE_USAGE, "--group a:b: expected a name");
	ends("-l fd:x --framing x", BRIDGE_USAGE, "--framing x: expected qgs or none");
	ends("-l fd:x --log-level x", BRIDGE_USAGE, "expected error, warning, info or debug");
	ends("-l unix:/q -q unix:/q", BRIDGE_USAGE,
	     "the listener listener-1 has the address of QGS");
	ends("-l bad -q bad", BRIDGE_USAGE, "--qgs bad: "); /* both at once */
	ends("-c /nonexistent/x", BRIDGE_FAILED, "/nonexistent/x:1:1: cannot be opened");
}

static void test_file(void)
{
	char words[200];
	struct bridge_config *c;

	write_file("listeners: [{name: a, address: 'unix:/a', mode: '0600'}]\n"
		   "qgs: {in_flight: 9, address: 'unix:/x'}\n");
	snprintf(words, sizeof(words), "--qgs unix:/y --mode 0666 -c %s --listen unix:/b", path);
	c = runs(words, BRIDGE_RUN);
	CHECK_INT(c->n_listeners, 2);
	CHECK_STR(c->listeners[0].mode, "0600");
	CHECK_STR(c->listeners[1].name, "listener-1");
	CHECK_STR(c->listeners[1].mode, "0666");
	CHECK_INT(c->qgs.in_flight, 9);
	CHECK_STR(c->qgs.address.name, "/y");
	bridge_config_unref(c);
	snprintf(words, sizeof(words), "-c %s --listen unix:/a", path);
	ends(words, BRIDGE_USAGE, "unix:/a: is the address of the listener a already");
	write_file("log: {level: x}\n");
	ends(words, BRIDGE_FAILED, ":1:14: level:");
	write_file("log: {level: info}\n");
	snprintf(words, sizeof(words), "-c %s", path);
	ends(words, BRIDGE_FAILED, ": no listener; expected");
}

static struct bridge_config *reload(const char *words)
{
	char *argv[ARGUMENTS_MAX];
	int argc = split(words, argv);
	struct capture capture = capture_begin();
	char *why;
	struct bridge_config *c = bridge_options_reload(argc, argv, &why);

	capture_end(&capture);
	/* what is answered is what was logged, in one line */
	CHECK(!c == !!why);
	CHECK(!why || !strchr(why, '\n'));
	CHECK(!why || strstr(said, strrchr(why, ';') ? strrchr(why, ';') + 2 : why));
	free(why);
	return c;
}

static void test_reload(void)
{
	char words[200];
	struct bridge_config *c;

	snprintf(words, sizeof(words), "-c %s --listen unix:/b", path);
	write_file("qgs: {in_flight: 7}\n");
	c = reload(words);
	CHECK(c);
	CHECK_INT(c->qgs.in_flight, 7);
	CHECK_INT(c->n_listeners, 1);
	bridge_config_unref(c);
	write_file("qgs: {in_flight: 0}\nlog: {level: x}\n");
	CHECK(!reload(words));
	CHECK(strstr(said, ":1:18: in_flight:"));
	CHECK(strstr(said, ":2:14: level:"));
	write_file("listeners: [{name: a, address: 'unix:/b'}]\n");
	CHECK(!reload(words));
	CHECK(strstr(said, "of the listener a already"));
	unlink(path);
	CHECK(!reload(words));
	CHECK(strstr(said, "cannot be opened"));
}

int main(void)
{
	CHECK(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/b.yaml", folder);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	test_flags();
	test_ends();
	test_file();
	test_reload();
	rmdir(folder);
	return 0;
}
