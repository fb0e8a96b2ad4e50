/* local: what --local, certificate and key may say, in flags and in files, and what both need. */
#include <string.h>

#include "config/config.h"
#include "config/schema.h"
#include "tests/unit/check.h"
#include "tunnel/options.h"

static void says(const struct config_errors *e, const char *at, const char *what)
{
	for (size_t i = 0; i < e->n; i++)
		if (strncmp(e->at[i], at, strlen(at)) == 0 && strstr(e->at[i], what))
			return;
	config_errors_print(e, stderr);
	fprintf(stderr, "nothing at \"%s\" says \"%s\"\n", at, what);
	abort();
}

static void refuses(const char *text, const char *at, const char *what)
{
	struct config_errors e = { 0 };

	CHECK(!tunnel_config_parse("t.yaml", text, strlen(text), &e));
	says(&e, at, what);
	CHECK_INT(e.n, 1);
	config_errors_deinit(&e);
}

static struct tunnel_config *parse(const char *text)
{
	struct config_errors e = { 0 };
	struct tunnel_config *c = tunnel_config_parse("t.yaml", text, strlen(text), &e);

	config_errors_print(&e, stderr);
	CHECK(c);
	config_errors_deinit(&e);
	return c;
}

static char *dump(const struct tunnel_config *c)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	CHECK(f);
	tunnel_config_dump(c, f);
	fclose(f);
	return text;
}

static const char whole[] = "relays: ['tcp:gw.example.net:443']\n"
			    "certificate: /c.pem\n"
			    "key: /k.pem\n"
			    "local:\n"
			    "  - {address: 'tcp:127.9.9.9:0', service: KBS.Acme}\n"
			    "  - {address: 'tcp:[::1]:9000', service: kbs.acme}\n"
			    "  - {address: 'unix:@x', service: kbs.acme}\n"
			    "  - {address: 'unix:/x', service: kbs.acme, mode: '0600'}\n"
			    "  - {address: 'fd:kbs', service: kbs.acme}\n"
			    "timeouts: {pickup: 3s}\n";

static void test_file(void)
{
	struct tunnel_config *c = parse(whole);
	struct config_errors e = { 0 };
	char *first, *second;

	CHECK_INT(c->n_locals, 5);
	CHECK_INT(c->locals[4].address.kind, ADDRESS_FD);
	CHECK(!c->locals[2].mode);
	CHECK_STR(c->locals[3].mode, "0600");
	CHECK_STR(c->locals[0].service, "kbs.acme");
	CHECK_INT(c->locals[0].address.kind, ADDRESS_TCP);
	CHECK_INT(c->locals[1].address.port, 9000);
	CHECK_STR(c->locals[2].address.name, "@x");
	CHECK_INT(c->locals[2].line, 7);
	CHECK_INT(c->timeouts.pickup, 3000);
	CHECK_INT(tunnel_config_check(c, "t.yaml", &e), 0); /* no token: there are no services */
	first = dump(c);
	tunnel_config_free(c);
	c = parse(first);
	second = dump(c);
	CHECK_STR(first, second);
	tunnel_config_free(c);
	free(first);
	free(second);
}

static void test_file_wrong(void)
{
	refuses("local: [{address: 'tcp:0.0.0.0:1', service: a.b}]\n", "t.yaml:1:19: ", "loopback");
	refuses("local: [{address: 'tcp:relay:1', service: a.b}]\n", "t.yaml:1:19: ", "loopback");
	refuses("local: [{address: 'tcp:[::]:1', service: a.b}]\n", "t.yaml:1:19: ", "loopback");
	refuses("local: [{address: 'vsock:any:1', service: a.b}]\n", "t.yaml:1:19: ", "of a kind");
	refuses("local: [{address: 'unix:@s', service: a.b, mode: '0600'}]\n",
		"t.yaml:1:50: ", "path of a Unix socket");
	refuses("local: [{address: 'tcp:[::1]:1', service: a.b, mode: '0600'}]\n",
		"t.yaml:1:54: ", "path of a Unix socket");
	refuses("local: [{address: 'fd:s', service: a.b, mode: '0600'}]\n",
		"t.yaml:1:47: ", "path of a Unix socket");
	refuses("local: [{address: 'unix:/s', service: a.b, mode: '000'}]\n",
		"t.yaml:1:50: ", "nobody");
	refuses("local: [{address: 'unix:/s', service: a.b, mode: u+w}]\n",
		"t.yaml:1:50: ", "octal");
	refuses("local: [{address: 'unix:/s', service: kbs}]\n", "t.yaml:1:39: ", "SERVICE.OWNER");
	refuses("local: [{address: 'unix:/s'}]\n", "t.yaml:1:9: ", "service");
	refuses("local:\n- {address: 'fd:s', service: a.b}\n- {address: 'fd:s', service: c.d}\n",
		"t.yaml:3:13: ", "already");
	refuses("local:\n- {address: 'unix:/s', service: a.b}\n"
		"- {address: 'unix:/s', service: c.d}\n",
		"t.yaml:3:13: ", "already");
}

/* The whole of what is there: a file's part may be completed by flags. */
static void test_run(void)
{
	struct tunnel_config *c = parse("relays: ['tcp:r:1']\nkey: k\n");
	struct config_errors e = { 0 };
	char *why = NULL;

	CHECK_INT(tunnel_config_check(c, "t", &e), -EINVAL);
	CHECK_INT(e.n, 3);
	says(&e, "t: ", "--local");
	says(&e, "t: ", "--token-file");
	says(&e, "t: ", "key without certificate");
	config_errors_deinit(&e);
	c->certificate = strdup("c");
	CHECK_INT(tunnel_config_add_service(c, "kbs=tcp:h:1", &why), 0);
	CHECK_INT(tunnel_config_check(c, "t", &e), 0); /* instead of a token */
	c->token_file = strdup("t");
	CHECK_INT(tunnel_config_add_local(c, "unix:/s=service:a.b", &why), 0);
	CHECK_INT(tunnel_config_check(c, "t", &e), 0);
	CHECK_INT(tunnel_config_add_local(c, "unix:/s=service:c.d", &why), 0);
	CHECK_INT(tunnel_config_check(c, "t", &e), -EINVAL);
	says(&e, "t: local: ", "already");
	config_errors_deinit(&e);
	tunnel_config_free(c);
}

static void adds_not(struct tunnel_config *c, const char *text, const char *what)
{
	size_t n = c->n_locals;
	char *why = NULL;

	CHECK_INT(tunnel_config_add_local(c, text, &why), -EINVAL);
	if (!strstr(why, what)) {
		fprintf(stderr, "%s: \"%s\" does not say \"%s\"\n", text, why, what);
		abort();
	}
	free(why);
	CHECK_INT(c->n_locals, n);
}

static void test_add(void)
{
	struct tunnel_config *c = tunnel_config_new();
	char *why, text[64];

	CHECK_INT(tunnel_config_add_local(c, "tcp:127.0.0.1:9000=service:KBS.acme", &why), 0);
	CHECK_STR(c->locals[0].service, "kbs.acme");
	CHECK_INT(c->locals[0].address.port, 9000);
	CHECK_INT(tunnel_config_add_local(c, "unix:/a=service:b=service:c.d", &why), 0);
	CHECK_STR(c->locals[1].address.name, "/a=service:b");
	CHECK_STR(c->locals[1].service, "c.d");
	adds_not(c, "", "ADDRESS=service:");
	adds_not(c, "tcp:127.0.0.1:9000", "ADDRESS=service:");
	adds_not(c, "tcp:127.0.0.1:9000=kbs.acme", "ADDRESS=service:");
	adds_not(c, "tcp:127.0.0.1:9000=service:", "SERVICE.OWNER");
	adds_not(c, "tcp:127.0.0.1:9000=service:kbs", "SERVICE.OWNER");
	adds_not(c, "tcp:127.0.0.1:9000=service:a.b.c", "SERVICE.OWNER");
	adds_not(c, "tcp:127.0.0.1=service:a.b", "PORT");
	adds_not(c, "hybrid:/p:1=service:a.b", "of a kind");
	adds_not(c, "=service:a.b", "expected tcp:HOST:PORT");
	for (int i = 2; i < 1024; i++) {
		snprintf(text, sizeof(text), "unix:@%d=service:a.b", i);
		CHECK_INT(tunnel_config_add_local(c, text, &why), 0);
	}
	adds_not(c, "unix:/s=service:a.b", "at most 1024");
	tunnel_config_free(c);
}

static void test_loopback(void)
{
	CHECK(host_is_loopback("127.0.0.1") && host_is_loopback("127.255.0.9"));
	CHECK(host_is_loopback("::1") && host_is_loopback("localhost"));
	CHECK(!host_is_loopback("0.0.0.0") && !host_is_loopback("128.0.0.1"));
	CHECK(!host_is_loopback("::") && !host_is_loopback("localhost.example.net"));
}

static struct options read_options(const char *const *argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	return options_read(argc, (char **)argv);
}

#define READ(...) read_options((const char *[]){ "attest-tunnel", __VA_ARGS__, NULL })
#define RELAY "--relay", "tcp:r:1"
#define LOCAL "--local", "tcp:127.0.0.1:9000=service:kbs.acme"

static void test_options(void)
{
	struct options o = READ(RELAY, LOCAL, "-l", "unix:/s=service:x.acme", "--key", "k",
				"--certificate", "c");

	CHECK_INT(o.action, OPTIONS_RUN);
	CHECK_INT(o.config->n_locals, 2);
	CHECK_STR(o.config->certificate, "c");
	CHECK_STR(o.config->key, "k");
	CHECK(!o.config->token_file);
	tunnel_config_free(o.config);
	o = READ(RELAY, LOCAL, "--once");
	CHECK_INT(o.action, OPTIONS_DONE);
	CHECK_INT(o.status, STATUS_USAGE);
	o = READ(RELAY, LOCAL, "--once", "--token-file", "t", "--service", "a=tcp:h:1");
	CHECK_INT(o.action, OPTIONS_RUN);
	CHECK(o.once);
	tunnel_config_free(o.config);
	o = READ(RELAY, LOCAL, "--service", "a=tcp:h:1");
	CHECK_INT(o.status, STATUS_USAGE); /* a token is missing */
	o = READ(LOCAL);
	CHECK_INT(o.status, STATUS_USAGE);
	o = READ(RELAY, "--local", "tcp:*:9000=service:kbs.acme");
	CHECK_INT(o.status, STATUS_USAGE);
}

int main(void)
{
	test_file();
	test_file_wrong();
	test_run();
	test_add();
	test_loopback();
	test_options();
	return 0;
}
