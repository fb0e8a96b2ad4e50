/*
 * The frame of `doctor`: the arguments, the lines as text and as JSON whatever stands in them, the
 * verdict, checks that come too late; and what is said of a Unix path, by real sockets.
 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/doctor.h"
#include "relay/doctor_listen.h"
#include "tests/unit/check.h"

static char *text;
static size_t len;
static FILE *out;

static void begin(struct doctor *d, bool json)
{
	out = open_memstream(&text, &len);
	CHECK(out);
	doctor_begin(d, "attest-test", json, out);
	doctor_check(d, "one");
}

/* The exit status; what was printed is in text until forget. */
static int end(struct doctor *d)
{
	int status = doctor_end(d);

	fclose(out);
	return status;
}

static void forget(void)
{
	free(text);
	text = NULL;
}

static void test_arguments(void)
{
	char doctor[] = "doctor", config[] = "--config", file[] = "f", json[] = "--json";
	char *with[] = { doctor, config, file, json, NULL };
	char *without[] = { doctor, config, file, NULL };
	int argc = 4;

	CHECK(doctor_arguments(&argc, with));
	CHECK_INT(argc, 3);
	CHECK_STR(with[2], "f");
	CHECK(!with[3]);
	CHECK(!doctor_arguments(&argc, without));
	CHECK_INT(argc, 3);
}

static void test_text(void)
{
	struct doctor d;

	begin(&d, false);
	doctor_about(&d, "tcp:h:%d", 1);
	doctor_ok(&d, "good");
	doctor_warn(&d, "mind it", "the server is \"\033[31mx\n\"");
	CHECK_INT(end(&d), DOCTOR_GOOD);
	CHECK_STR(text, "OK      one tcp:h:1: good\n"
			"WARNING one tcp:h:1: the server is \"?[31mx?\" / mind it\n"
			"attest-test: wrong: 0, warnings: 1, good: 1, skipped: 0\n");
	forget();
}

static void test_json(void)
{
	struct doctor d;

	begin(&d, true);
	doctor_wrong(&d, "a \"b\"", "c\\\n\xff");
	doctor_check(&d, "two");
	doctor_about(&d, "x");
	doctor_skip(&d, "y");
	CHECK_INT(end(&d), DOCTOR_BAD);
	CHECK_STR(text,
		  "{\"program\": \"attest-test\", \"version\": \"" VERSION "\", \"checks\": [\n"
		  " {\"id\": \"one\", \"what\": \"\", \"status\": \"wrong\", \"detail\": "
		  "\"c\\\\??\", \"advice\": \"a \\\"b\\\"\"},\n"
		  " {\"id\": \"two\", \"what\": \"x\", \"status\": \"skipped\", \"detail\": "
		  "\"skipped: because of y\", \"advice\": \"\"}\n"
		  "], \"verdict\": \"wrong\"}\n");
	forget();
}

/* However long and however much is to be escaped: an object ends as one. */
static void test_long(void)
{
	char much[4000];
	struct doctor d;

	memset(much, '"', sizeof(much) - 1);
	much[sizeof(much) - 1] = '\0';
	begin(&d, true);
	doctor_about(&d, "%s", much);
	doctor_warn(&d, much, "%s", much);
	CHECK_INT(end(&d), DOCTOR_GOOD);
	CHECK(strstr(text, "\"}\n], \"verdict\": \"warnings\"}\n"));
	forget();
}

static unsigned made;

static void make(struct doctor *d, void *user)
{
	made++;
	d->end = doctor_now(); /* that took all the time there was */
	doctor_ok(d, "made");
}

static void test_late(void)
{
	static const struct doctor_check checks[] = { { "first", make },
						      { "second", make },
						      { 0 } };
	struct doctor d;

	begin(&d, false);
	CHECK(doctor_ms(&d, 0) <= DOCTOR_CHECK_MS && doctor_ms(&d, 7) == 7);
	doctor_run(&d, checks, NULL);
	CHECK_INT(made, 1);
	CHECK_INT(doctor_ms(&d, 0), DOCTOR_LEAST_MS);
	CHECK_INT(end(&d), DOCTOR_GOOD);
	CHECK(strstr(text, "SKIPPED second: skipped: because of the time"));
	forget();
}

/* What is said of a path; its status is the first word. */
static void said_of(const char *path, bool makes_folder, const char *begins, const char *has)
{
	struct address a = { .kind = ADDRESS_UNIX, .name = (char *)path };
	const struct doctor_place place = { .makes_folder = makes_folder };
	struct doctor d;

	begin(&d, false);
	doctor_listen(&d, &a, &place);
	end(&d);
	if (strncmp(text, begins, strlen(begins)) != 0 || !strstr(text, has))
		fprintf(stderr, "%s: \"%s\" and \"%s\" in: %s\n", path, begins, has, text);
	CHECK(strncmp(text, begins, strlen(begins)) == 0 && strstr(text, has));
	forget();
}

static void test_paths(void)
{
	char folder[] = "/tmp/test-doctor-XXXXXX", path[64], deep[96];
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), client;
	FILE *f;

	CHECK(fd >= 0 && mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/s", folder);
	snprintf(deep, sizeof(deep), "%s/a/b/s", folder);
	said_of(path, false, "OK ", "it is free");
	said_of(deep, false, "WRONG ", "No such file");
	said_of(deep, true, "OK ", "it is free");
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	CHECK_INT(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	said_of(path, false, "OK ", "was left there");
	CHECK_INT(listen(fd, 5), 0);
	said_of(path, false, "WRONG ", "listens there already");
	CHECK_INT(doctor_listen_connections(path), 0);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(client, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(doctor_listen_connections(path), 1);
	close(client);
	close(fd);
	said_of(path, false, "OK ", "was left there");
	unlink(path);
	f = fopen(path, "w");
	CHECK(f);
	fclose(f);
	said_of(path, false, "WRONG ", "no socket");
	unlink(path);
	rmdir(folder);
	said_of("/this/path/is/longer/than/any/that/a/Unix/socket/may/have/on/this/system/of/ours/"
		"and/so/nobody/can/listen/there",
		false, "WRONG ", "107");
}

int main(void)
{
	test_arguments();
	test_text();
	test_json();
	test_long();
	test_late();
	test_paths();
	return 0;
}
