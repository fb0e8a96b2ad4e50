/* Configs: defaults, every type of value, every error with its place, dumps that load again. */
#include <pthread.h>
#include <unistd.h>

#include "config/config.h"
#include "config/scalar.h"
#include "config/schema.h"
#include "tests/unit/check.h"

#define HASH_A "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_B "sha256:BBBBBBBBbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

#define LISTENER "listeners: [{name: a, address: 'tcp:127.0.0.1:1', doors: [connect]}]\n"
#define OWNER "owners: [{name: acme, tokens: ['" HASH_A "']}]\n"

static struct relay_config *relay(const char *text)
{
	struct config_errors e = { 0 };
	struct relay_config *c = relay_config_parse("r.yaml", text, strlen(text), &e);

	config_errors_print(&e, stderr);
	CHECK(c);
	CHECK_INT(e.n, 0);
	return c;
}

static struct tunnel_config *tunnel(const char *text)
{
	struct config_errors e = { 0 };
	struct tunnel_config *c = tunnel_config_parse("t.yaml", text, strlen(text), &e);

	config_errors_print(&e, stderr);
	CHECK(c);
	CHECK_INT(e.n, 0);
	return c;
}

/* Some error begins with at ("r.yaml:1:1: ") and says what. */
static void says(const struct config_errors *e, const char *at, const char *what)
{
	for (size_t i = 0; i < e->n; i++)
		if (strncmp(e->at[i], at, strlen(at)) == 0 && strstr(e->at[i], what))
			return;
	fprintf(stderr, "no error at %s says \"%s\":\n", at, what);
	config_errors_print(e, stderr);
	abort();
}

/* text alone has exactly this one error. */
static void refuses_n(const char *text, size_t len, const char *at, const char *what)
{
	struct config_errors e = { 0 };

	CHECK(!relay_config_parse("r.yaml", text, len, &e));
	says(&e, at, what);
	if (e.n != 1) {
		config_errors_print(&e, stderr);
		CHECK_INT(e.n, 1);
	}
	config_errors_deinit(&e);
}

static void refuses(const char *text, const char *at, const char *what)
{
	refuses_n(text, strlen(text), at, what);
}

static void test_defaults(void)
{
	struct relay_config *c = relay(LISTENER);

	CHECK_INT(c->workers, 0);
	CHECK(!c->domain);
	CHECK(!c->tls.certificate && !c->tls.key);
	CHECK_INT(c->metrics.kind, ADDRESS_NONE);
	CHECK_INT(c->log.level, CONFIG_LOG_INFO);
	CHECK_INT(c->log.format, CONFIG_LOG_TEXT);
	CHECK_INT(c->log.target, CONFIG_LOG_AUTO);
	CHECK_INT(c->n_listeners, 1);
	CHECK_STR(c->listeners[0].name, "a");
	CHECK_INT(c->listeners[0].address.port, 1);
	CHECK_INT(c->listeners[0].doors, DOOR_CONNECT);
	CHECK(!c->listeners[0].service);
	CHECK_INT(c->listeners[0].line, 1);
	CHECK_INT(c->n_owners, 0);
	CHECK_INT(c->n_services, 0);
	CHECK_INT(c->timeouts.handshake, 10000);
	CHECK_INT(c->timeouts.pickup, 10000);
	CHECK_INT(c->timeouts.dial, 5000);
	CHECK_INT(c->timeouts.idle, 600000);
	CHECK_INT(c->timeouts.half_closed, 60000);
	CHECK_INT(c->timeouts.ping, 5000);
	CHECK_INT(c->timeouts.dead, 10000);
	CHECK_INT(c->timeouts.drain, 60000);
	CHECK_INT(c->limits.connections, 16384);
	CHECK_INT(c->limits.parked, 1024);
	CHECK_INT(c->limits.tunnels, 1024);
	CHECK_INT(c->limits.handshakes, 4096);
	CHECK_INT(c->limits.memory, 1 << 30);
	CHECK_INT(c->limits.per_source.connections, 4096);
	CHECK_INT(c->limits.per_source.handshakes, 1024);
	CHECK_INT(c->limits.per_source.streams, 4096);
	CHECK_INT(c->limits.per_source.parked, 256);
	CHECK_INT(c->limits.per_source.opens_per_second, 5000);
	CHECK_INT(c->limits.per_source.bytes_per_second, 0);
	CHECK_INT(c->limits.per_source.memory, 128 << 20);
	CHECK_INT(c->limits.per_owner.tunnels, 16);
	CHECK_INT(c->limits.per_owner.streams, 8192);
	CHECK_INT(c->limits.per_owner.parked, 512);
	CHECK_INT(c->limits.per_owner.opens_per_second, 10000);
	CHECK_INT(c->limits.per_owner.bytes_per_second, 0);
	CHECK_INT(c->limits.per_owner.memory, 256 << 20);
	CHECK_INT(c->penalties.failures, 10);
	CHECK_INT(c->penalties.half_life, 60000);
	CHECK_INT(c->penalties.block, 10000);
	CHECK_INT(c->penalties.block_max, 600000);
	CHECK_INT(c->penalties.exempt.n, 0);
	CHECK_INT(c->limits.streams_per_tunnel, 4096);
	CHECK_INT(c->limits.streams_per_session, 1 << 29);
	CHECK_INT(c->limits.stream_window, 256 * 1024);
	CHECK_INT(c->limits.session_window, 32 * 1024 * 1024);
	relay_config_unref(c);
}

static const char whole[] =
	"workers: 4\n"
	"domain: Relay.Example.net\n"
	"tls: {certificate: c.pem, key: /abs/k.pem}\n"
	"metrics: tcp:127.0.0.1:0\n"
	"log: {level: debug, format: json, target: stderr}\n"
	"listeners:\n"
	"  - {name: front, address: 'tcp:[::]:443', doors: [connect, tunnel, sni]}\n"
	"  - {name: one, address: 'vsock:any:4050', service: KBS.acme}\n"
	"  - {name: two, address: 'fd:two', service: new.acme}\n"
	"  - {name: three, address: 'unix:/run/\\xe4 \"', service: direct.else}\n"
	"  - {name: four, address: \"unix:/run/\\u00e4\\\"\\U0001f512\", service: kbs.acme}\n"
	"owners:\n"
	"  - name: ACME\n"
	"    tokens: ['" HASH_A "', '" HASH_B "']\n"
	"    services: [kbs, NEW]\n"
	"services:\n"
	"  - {name: KBS.Acme, hostnames: [KBS.acme.example, b.example], idle: 90s,\n"
	"     targets: [tunnel, 'tcp:10.0.0.7:80', 'hybrid:/v:5', 'vsock:42:1', 'unix:@x']}\n"
	"  - {name: direct.else, targets: ['tcp:h:1']}\n"
	"  - {name: plain.acme, hostnames: [plain.acme.relay.example.net, x.relay.example.net]}\n"
	"timeouts: {handshake: 250ms, idle: 1d, half_closed: 2h, ping: 15ms, dead: 1200ms, drain: "
	"0}\n"
	"limits: {stream_window: 1MiB, session_window: 1000000000, parked: 7}\n";

static void test_values(void)
{
	struct relay_config *c = relay(whole);

	CHECK_INT(c->workers, 4);
	CHECK_STR(c->domain, "relay.example.net");
	CHECK_STR(c->tls.certificate, "c.pem");
	CHECK_STR(c->tls.key, "/abs/k.pem");
	CHECK_INT(c->metrics.kind, ADDRESS_TCP);
	CHECK_INT(c->log.level, CONFIG_LOG_DEBUG);
	CHECK_INT(c->log.format, CONFIG_LOG_JSON);
	CHECK_INT(c->log.target, CONFIG_LOG_STDERR);
	CHECK_INT(c->listeners[0].doors, DOOR_TUNNEL | DOOR_SNI | DOOR_CONNECT);
	CHECK_INT(c->listeners[1].doors, DOOR_STATIC);
	CHECK_STR(c->listeners[1].service, "kbs.acme");
	CHECK_INT(c->listeners[1].line, 8);
	CHECK_STR(c->listeners[4].address.name, "/run/\xc3\xa4\"\xf0\x9f\x94\x92");
	CHECK_STR(c->owners[0].name, "acme");
	CHECK_INT(c->owners[0].tokens.n, 2);
	CHECK_INT(c->owners[0].tokens.at[1].hash.bytes[31], 0xbb);
	CHECK_INT(c->owners[0].services.n, 2);
	CHECK_STR(c->owners[0].services.at[1], "new");
	CHECK_INT(c->services[0].idle, 90000);
	CHECK_INT(c->services[0].targets.n, 5);
	CHECK_INT(c->services[1].targets.n, 1);
	CHECK_INT(c->services[2].targets.n, 1);
	CHECK_INT(c->services[2].targets.at[0].kind, ADDRESS_TUNNEL);
	CHECK_INT(c->timeouts.handshake, 250);
	CHECK_INT(c->timeouts.idle, 86400000);
	CHECK_INT(c->timeouts.drain, 0);
	CHECK_INT(c->limits.session_window, 1000000000);
	CHECK_INT(c->limits.parked, 7);
	relay_config_unref(c);
}

static void test_lookup(void)
{
	struct relay_config *c = relay(whole);

	CHECK(relay_config_service(c, "kbs.acme") == &c->services[0]);
	CHECK(relay_config_service(c, "DIRECT.Else") == &c->services[1]);
	CHECK(!relay_config_service(c, "kbs.acm"));
	CHECK(!relay_config_service(c, ""));
	CHECK(relay_config_hostname(c, "B.example") == &c->services[0]);
	CHECK(relay_config_hostname(c, "kbs.acme.example") == &c->services[0]);
	CHECK(!relay_config_hostname(c, "c.example"));
	CHECK(relay_config_owner(c, "acme") == &c->owners[0]);
	CHECK(!relay_config_owner(c, "else"));
	relay_config_unref(c);
	c = relay(LISTENER);
	CHECK(!relay_config_service(c, "kbs.acme"));
	CHECK(!relay_config_hostname(c, "kbs.acme"));
	CHECK(!relay_config_owner(c, "acme"));
	relay_config_unref(c);
}

static void test_lookup_many(void)
{
	enum { N = 3000 };
	struct relay_config *c;
	char *text, name[32];
	size_t len;
	FILE *f = open_memstream(&text, &len);

	fputs(LISTENER "services:\n", f);
	for (int i = 0; i < N; i++)
		fprintf(f, "  - {name: s%d.o, targets: ['tcp:h:%d'], hostnames: [h%d.x]}\n", i,
			i + 1, i);
	fclose(f);
	c = relay(text);
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "S%d.O", i);
		CHECK(relay_config_service(c, name) == &c->services[i]);
		snprintf(name, sizeof(name), "H%d.x", i);
		CHECK(relay_config_hostname(c, name) == &c->services[i]);
	}
	relay_config_unref(c);
	free(text);
}

static char *dump_relay(const struct relay_config *c)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	relay_config_dump(c, f);
	fclose(f);
	return text;
}

static char *dump_tunnel(const struct tunnel_config *c)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	tunnel_config_dump(c, f);
	fclose(f);
	return text;
}

static void test_dump(void)
{
	const char *texts[] = { whole, LISTENER };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct relay_config *c = relay(texts[i]);
		char *first = dump_relay(c), *second;

		relay_config_unref(c);
		c = relay(first);
		second = dump_relay(c);
		CHECK_STR(first, second);
		if (i == 0) {
			CHECK(strstr(first, "workers: 4\n"));
			CHECK(strstr(first, "  handshake: 250ms\n"));
			CHECK(strstr(first, "  drain: 0\n"));
			CHECK(strstr(first, "  session_window: 1000000000\n"));
			CHECK(strstr(first, "  stream_window: 1MiB\n"));
			CHECK(strstr(first, "\\U0001F512"));
			CHECK_STR(c->listeners[4].address.name, "/run/\xc3\xa4\"\xf0\x9f\x94\x92");
			CHECK(strstr(first, "sha256:bbbb"));
		}
		relay_config_unref(c);
		free(first);
		free(second);
	}
}

static void test_not_yaml(void)
{
	struct config_errors e = { 0 };

	refuses("", "r.yaml:1:1: ", "is empty");
	refuses("# nothing\n\n", "r.yaml:1:1: ", "is empty");
	refuses("a: [1\n", "r.yaml:2:1: ", "not valid YAML");
	refuses("workers: 1\n\tdomain: x\n", "r.yaml:2:1: ", "not valid YAML");
	refuses("workers: 1\ndomain: \xff\n", "r.yaml:2:9: ", "UTF-8");
	refuses("a: b: c\n", "r.yaml:1:5: ", "not valid YAML");
	refuses_n("workers: 1\n\0", 12, "r.yaml:2:1: ", "not valid text");
	refuses("{a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: "
		"1}}}}}}}}}}}}}}}}}",
		"r.yaml:1:65: ", "16 levels");
	CHECK(!relay_config_parse("r.yaml", "", CONFIG_FILE_MAX + 1, &e));
	says(&e, "r.yaml:1:1: ", "expected at most 1048576");
	config_errors_deinit(&e);
	CHECK(!relay_config_parse("r.yaml", "--- 3\n", 6, &e));
	says(&e, "r.yaml:1:5: ", "not keys and values");
	config_errors_deinit(&e);
	CHECK(!relay_config_parse("r.yaml", "---\n...\n", 8, &e));
	says(&e, "r.yaml:1:1: ", "the file is empty");
	config_errors_deinit(&e);
}

static void test_not_ours(void)
{
	refuses(LISTENER "log: &x {level: info}\n", "r.yaml:2:6: ", "anchor");
	refuses(LISTENER "log: {level: !!str info}\n", "r.yaml:2:14: ", "tag");
	refuses(LISTENER "log: {<<: {level: info}}\n", "r.yaml:2:7: ", "merge");
	refuses(LISTENER "--- \nworkers: 3\n", "r.yaml:2:1: ", "second document");
	refuses(LISTENER "? [a]\n: b\n", "r.yaml:2:3: ", "a list as a key");
	refuses(LISTENER "domain: \"a\\0b\"\n", "r.yaml:2:9: ", "NUL");
}

static void test_aliases(void)
{
	static const char laughs[] = "a: &a [x,x,x,x,x,x,x,x,x]\n"
				     "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
				     "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
				     "listeners: *c\n";
	struct config_errors e = { 0 };

	CHECK(!relay_config_parse("r.yaml", laughs, strlen(laughs), &e));
	says(&e, "r.yaml:1:4: ", "anchor");
	says(&e, "r.yaml:2:8: ", "alias");
	says(&e, "r.yaml:4:12: ", "alias");
	config_errors_deinit(&e);
}

/* Where the program is asked about itself. */
static void test_admin(void)
{
	struct relay_config *c = relay(LISTENER "admin: unix:/a\nstatus: 'tcp:[::1]:9'\n");

	CHECK_STR(c->admin.address.name, "/a");
	CHECK_STR(c->admin.mode, "0600");
	CHECK_INT(c->status.kind, ADDRESS_TCP);
	relay_config_unref(c);
	c = relay(LISTENER "admin: {address: unix:/a, mode: 0660, group: adm}\n");
	CHECK_STR(c->admin.mode, "0660");
	CHECK_STR(c->admin.group, "adm");
	relay_config_unref(c);
	c = relay(LISTENER);
	CHECK_INT(c->admin.address.kind, ADDRESS_NONE);
	relay_config_unref(c);
	refuses(LISTENER "admin: tcp:127.0.0.1:9\n", "r.yaml:2:8: ", "who he is; expected unix");
	refuses(LISTENER "admin: {mode: 0600}\n", "r.yaml:2:8: ", "address: missing");
	refuses(LISTENER "admin: {address: unix:/a, mode: 0606}\n",
		"r.yaml:2:33: ", "nothing for others");
	refuses(LISTENER "admin: {address: unix:@a, group: adm}\n", "r.yaml:2:8: ", "of a path");
	refuses(LISTENER "admin: vsock:any:9\n", "r.yaml:2:8: ", "cannot stand here");
	refuses(LISTENER "admin: unix:/a\nmetrics: unix:/a\n",
		"r.yaml:2:8: ", "the address of metrics already");
	refuses(LISTENER "status: tcp:192.0.2.1:9\n", "r.yaml:2:9: ", "other machines");
}

static void test_keys(void)
{
	refuses(LISTENER "wrokers: 3\n", "r.yaml:2:1: ", "did you mean workers?");
	refuses(LISTENER "timeouts: {half-closed: 3s}\n",
		"r.yaml:2:12: ", "did you mean half_closed?");
	refuses(LISTENER "bananas: 3\n",
		"r.yaml:2:1: ", "unknown key \"bananas\"; expected one of workers, domain");
	refuses(LISTENER "workers: 3\nworkers: 3\n", "r.yaml:3:1: ", "line 2 already");
	refuses(LISTENER "clients: []\n", "r.yaml:2:10: ", "clients: an empty list");
	refuses(LISTENER "client_ca: x\n", "r.yaml:2:1: ", "not supported by this version");
	refuses(LISTENER "tls: {client_ca: x}\n", "r.yaml:2:7: ", "not supported");
	refuses("workers: 1\n", "r.yaml:1:1: ", "listeners: missing; expected a list, not empty");
	refuses("listeners: []\n", "r.yaml:1:12: ", "listeners: an empty list; expected");
	refuses("listeners: [{doors: [connect], address: 'tcp:a:1'}]\n",
		"r.yaml:1:13: ", "name: missing");
	refuses("listeners: [x]\n", "r.yaml:1:13: ", "the keys and values of a listener");
}

#define TLS "tls: {certificate: c, key: k}\n"
#define FRONT "listeners: [{name: a, address: 'tcp:127.0.0.1:1', doors: [tunnel, connect], " \
	      "client_ca: ca}]\n"

static void test_credentials(void)
{
	struct relay_config *c = relay(
		TLS FRONT "owners:\n"
			  "- {name: acme, tokens: ['" HASH_A "', {hash: '" HASH_B
			  "', label: laptop, expires: 2030-01-31}],\n"
			  "   certificates: ['dns:A.example', {name: 'uri:spiffe://a/b',\n"
			  "                   expires: 2030-01-31T12:00:01Z}]}\n"
			  "- {name: other, certificates: ['email:a@b.example']}\n");
	const struct owner_config *o = &c->owners[0];

	CHECK_INT(o->tokens.n, 2);
	CHECK_INT(o->tokens.at[0].hash.bytes[0], 0xaa);
	CHECK(!o->tokens.at[0].name && !o->tokens.at[0].label && !o->tokens.at[0].expires);
	CHECK_INT(o->tokens.at[0].line, 4);
	CHECK_INT(o->tokens.at[1].hash.bytes[0], 0xbb);
	CHECK_STR(o->tokens.at[1].label, "laptop");
	CHECK_INT(o->tokens.at[1].expires, 1896048000);
	CHECK_STR(o->certificates.at[0].name, "dns:A.example");
	CHECK_INT(o->certificates.at[1].expires, 1896091201);
	CHECK_INT(c->owners[1].tokens.n, 0);
	relay_config_unref(c);

	refuses(TLS FRONT "owners: [{name: a}]\n", "r.yaml:3:10: ", "neither tokens nor cert");
	c = relay(TLS FRONT "owners: [{name: a}]\nenrolment: {ca: a.pem, key: /a.key}\n");
	CHECK_STR(c->enrolment.folder, "/var/lib/attest-relay/enrolment");
	CHECK_INT(c->enrolment.certificate_valid, 90ull * 86400 * 1000);
	CHECK_INT(c->enrolment.code_valid, 15 * 60 * 1000);
	relay_config_unref(c);
	refuses(TLS FRONT OWNER "enrolment: {ca: a.pem}\n", "r.yaml:4:12: ", "ca without key");
	refuses(TLS FRONT OWNER "enrolment: {key: a.pem}\n", "r.yaml:4:12: ", "key without ca");
	refuses(LISTENER OWNER "enrolment: {ca: a, key: b}\n", "r.yaml:3:12: ",
		"no listener has the door tunnel");
	refuses(TLS FRONT "owners: [{name: a, tokens: []}]\n", "r.yaml:3:28: ", "an empty list");
	refuses(TLS FRONT "owners: [{name: a, certificates: []}]\n", "r.yaml:3:34: ", "empty");
	refuses(TLS FRONT "owners: [{name: a, tokens: [{label: x}]}]\n", "r.yaml:3:29: ",
		"hash: missing");
	refuses(TLS FRONT "owners: [{name: a, tokens: ['secret']}]\n", "r.yaml:3:29: ",
		"does not begin with sha256:");
	refuses(TLS FRONT "owners: [{name: a, certificates: ['dns:*.a.example']}]\n",
		"r.yaml:3:35: ", "dns:NAME, uri:URI or email:ADDRESS");
	refuses(TLS FRONT "owners: [{name: a, certificates: [a.example]}]\n", "r.yaml:3:35: ",
		"is not well-formed");
	refuses(TLS FRONT "owners: [{name: a, certificates: ['dns:a.b']}, "
			  "{name: b, certificates: ['dns:a.b']}]\n",
		"r.yaml:3:73: ", "the owner's on line 3 already");
	refuses(TLS FRONT "owners: [{name: a, certificates: [{name: 'dns:a.b', expires: soon}]}]\n",
		"r.yaml:3:62: ", "is no date and no time in UTC; expected a date");
	refuses(LISTENER "owners: [{name: a, certificates: ['dns:a.b']}]\n", "r.yaml:2:34: ",
		"no listener with the door tunnel has a client_ca");
}

static void test_times(void)
{
	uint64_t at;
	char buf[SCALAR_TEXT_MAX];
	static const char *const bad[] = { "2030-02-30", "2030-13-01", "2030-00-01", "2030-1-01",
					   "2030-01-01T24:00:00Z", "2030-01-01T00:00:00",
					   "2030-01-01 00:00:00Z", "1970-01-01", "0000-01-01",
					   "2030-01-01T00:00:0xZ", "", "2030/01/01" };

	CHECK(!scalar_time("2024-02-29T23:59:59Z", &at));
	CHECK_INT(at, 1709251199);
	CHECK_STR(scalar_format_time(at, buf, sizeof(buf)), "2024-02-29T23:59:59Z");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(scalar_time(bad[i], &at));
	CHECK_INT(at, 1709251199);
}

#define CLIENTS(text)                                                                    \
	TLS "listeners: [{name: a, address: 'tcp:127.0.0.1:1', doors: [connect], "        \
	    "client_ca: ca}]\nclients: [" text "]\n"

static void test_clients(void)
{
	struct relay_config *c =
		relay(CLIENTS("{name: n, certificates: ['dns:a.b'], networks: [10.0.0.0/8], "
			      "listeners: [a], services: ['kbs.acme', '*.acme', 'tang.*', '*']}"));

	CHECK_INT(c->n_clients, 1);
	CHECK_STR(c->clients[0].services.at[1], "*.acme");
	CHECK_INT(c->clients[0].networks.n, 1);
	relay_config_unref(c);

	refuses(CLIENTS("{name: n, services: ['*']}"), "r.yaml:3:11: ", "says not who n is");
	refuses(CLIENTS("{name: n, networks: [], services: ['*']}"), "r.yaml:3:31: ", "empty");
	refuses(CLIENTS("{name: n, networks: ['::/0']}"), "r.yaml:3:11: ", "services: missing");
	refuses(CLIENTS("{name: n, networks: ['::/0'], services: []}"), "r.yaml:3:51: ", "empty");
	refuses(CLIENTS("{name: n, networks: ['::/0'], services: ['k*.acme']}"), "r.yaml:3:52: ",
		"expected SERVICE.OWNER, *.OWNER");
	refuses(CLIENTS("{name: n, listeners: [b], services: ['*']}"), "r.yaml:3:33: ",
		"there is no listener b");
	refuses(CLIENTS("{name: n, uids: ['0'], services: ['*']}"), "r.yaml:3:27: ",
		"no listener is at a Unix socket");
	refuses(CLIENTS("{name: n, cids: ['3-1'], services: ['*']}"), "r.yaml:3:28: ", "range");
	refuses(CLIENTS("{name: n, networks: ['::/0'], services: ['*']}, "
			"{name: n, networks: ['::/0'], services: ['*']}"),
		"r.yaml:3:66: ", "the name of the client on line 3 already");
	refuses(LISTENER "clients: [{name: n, certificates: ['dns:a.b'], services: ['*']}]\n",
		"r.yaml:2:35: ", "no listener with the door connect or websocket has a client_ca");
	refuses(LISTENER "clients:\n", "r.yaml:2:9: ", "no value");
	refuses("listeners: [{name: a, address: 'tcp:127.0.0.1:1', doors: [connect], "
		"client_crl: x}]\n",
		"r.yaml:1:81: ", "client_crl: stands without client_ca");
	refuses("listeners: [{name: a, address: 'tcp:127.0.0.1:1', doors: [connect], "
		"client_certificates: optional}]\n",
		"r.yaml:1:90: ", "where there is a client_ca");
}

static void test_wrong_values(void)
{
	refuses(LISTENER "workers: 0\n", "r.yaml:2:10: ", "auto or a number from 1 to 256");
	refuses(LISTENER "workers: 257\n", "r.yaml:2:10: ", "too large");
	refuses(LISTENER "workers: 4294967297\n", "r.yaml:2:10: ", "too large");
	refuses(LISTENER "workers: 18446744073709551617\n", "r.yaml:2:10: ", "too large");
	refuses(LISTENER "workers: many\n", "r.yaml:2:10: ", "begin with a digit");
	refuses(LISTENER "workers: [1]\n", "r.yaml:2:10: ", "a list; expected auto");
	refuses(LISTENER "workers:\n", "r.yaml:2:9: ", "no value");
	refuses(LISTENER "domain: ''\n", "r.yaml:2:9: ", "empty");
	refuses(LISTENER "domain: null\n", "r.yaml:2:9: ", "no value");
	refuses(LISTENER "domain: 10.0.0.1\n", "r.yaml:2:9: ", "DNS name");
	refuses(LISTENER "tls: {certificate: \"a\\nb\", key: k}\n", "r.yaml:2:20: ", "control");
	refuses(LISTENER "timeouts: {dial: 10}\n", "r.yaml:2:18: ", "has no unit; add one");
	refuses(LISTENER "timeouts: {dial: 5m}\n", "r.yaml:2:18: ", "min or ms");
	refuses(LISTENER "timeouts: {dial: 0}\n", "r.yaml:2:18: ", "too small");
	refuses(LISTENER "timeouts: {dial: 61min}\n", "r.yaml:2:18: ", "from 1ms to 1h");
	refuses(LISTENER "timeouts: {dial: 1.5s}\n", "r.yaml:2:18: ", "fraction");
	refuses(LISTENER "timeouts: {dial: 010s}\n", "r.yaml:2:18: ", "leading zero");
	refuses(LISTENER "timeouts: {dial: 99999999999999999999d}\n", "r.yaml:2:18: ", "too large");
	refuses(LISTENER "timeouts: {dial: 999999999999999999d}\n", "r.yaml:2:18: ", "too large");
	refuses(LISTENER "limits: {stream_window: 64k}\n", "r.yaml:2:25: ", "unknown unit");
	refuses(LISTENER "limits: {stream_window: 1KiB}\n", "r.yaml:2:25: ", "from 16KiB to 1GiB");
	refuses(LISTENER "limits: {streams_per_session: 1073741824}\n",
		"r.yaml:2:31: ", "1073741823");
	refuses(LISTENER "log: {level: chatty}\n",
		"r.yaml:2:14: ", "expected error, warning, info or debug");
	refuses(LISTENER "log: chatty\n", "r.yaml:2:6: ", "a single value; expected keys");
	refuses(LISTENER "metrics: service:a.b\n", "r.yaml:2:10: ", "tcp:HOST:PORT or unix:/path");
	refuses(LISTENER "metrics: 127.0.0.1:1\n", "r.yaml:2:10: ", "is not an address; expected");
	refuses(LISTENER "owners: {}\n",
		"r.yaml:2:9: ", "keys and values; expected a list of owner");
	refuses(LISTENER "owners: [{name: a b, tokens: ['" HASH_A "']}]\n",
		"r.yaml:2:17: ", "letters");
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: [static]}]\n",
		"r.yaml:1:51: ", "tunnel, sni, connect or websocket");
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: [sni, sni]}]\n",
		"r.yaml:1:56: ", "twice");
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: []}]\n",
		"r.yaml:1:50: ", "empty list");
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: sni}]\n",
		"r.yaml:1:50: ", "a single value; expected a list, not empty");
	refuses("listeners: [{name: a, address: 'hybrid:/a:1', doors: [sni]}]\n",
		"r.yaml:1:32: ", "of a kind");
}

/* What might be a token in the wrong place is not repeated. */
static void test_no_secrets(void)
{
	static const char text[] =
		LISTENER "owners: [{name: a, tokens: [sEcReT, 'sha256:sEcReT']}]\n";
	struct config_errors e = { 0 };

	CHECK(!relay_config_parse("r.yaml", text, strlen(text), &e));
	CHECK_INT(e.n, 2);
	for (size_t i = 0; i < e.n; i++) {
		CHECK(!strstr(e.at[i], "sEcReT"));
		CHECK(strstr(e.at[i], "attest-relay token new"));
	}
	config_errors_deinit(&e);
}

static void test_audit(void)
{
	struct relay_config *c = relay(LISTENER);

	CHECK_INT(c->audit.target, CONFIG_AUDIT_AUTO);
	CHECK(!c->audit.file);
	CHECK_INT(c->audit.start_after, 60000);
	relay_config_unref(c);
	c = relay(LISTENER "audit: {file: /var/log/a, start_after: 2min}\n");
	CHECK_STR(c->audit.file, "/var/log/a");
	CHECK_INT(c->audit.start_after, 120000);
	relay_config_unref(c);
	/* what would be written nowhere, though somebody has asked for it */
	refuses(LISTENER "audit: {target: file}\n", "r.yaml:2:17: ",
		"expected file: PATH beside it");
	refuses(LISTENER "audit: {target: journal, file: a}\n",
		"r.yaml:2:32: ", "nothing would be written to it");
	refuses(LISTENER "audit: {target: off, file: a}\n",
		"r.yaml:2:28: ", "nothing would be written to it");
	refuses(LISTENER "audit: {target: syslog}\n",
		"r.yaml:2:17: ", "expected auto, off, journal or file");
	refuses(LISTENER "audit: {start_after: 10ms}\n", "r.yaml:2:22: ", "is too small");
}

static void test_client_ca(void)
{
	static const char good[] =
		"listeners: [{name: a, address: 'tcp:a:1', doors: [connect], client_ca: ca}]\n"
		"tls: {certificate: c, key: k}\n";
	static const char by_websocket[] =
		"listeners: [{name: a, address: 'tcp:a:1', doors: [websocket], client_ca: ca}]\n"
		"tls: {certificate: c, key: k}\n";
	struct relay_config *c = relay(good);

	CHECK_STR(c->listeners[0].client_ca, "ca");
	relay_config_unref(c);
	c = relay(by_websocket);
	CHECK_INT(c->listeners[0].doors, DOOR_WEBSOCKET);
	relay_config_unref(c);
	/* where nobody could be asked for one, or show it, is a mistake */
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: [connect], client_ca: ca}]\n",
		"r.yaml:1:72: ", "there is no certificate");
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: [sni], client_ca: ca}]\n"
		"tls: {certificate: c, key: k}\n",
		"r.yaml:1:68: ", "no door connect");
	refuses("listeners: [{name: a, address: 'tcp:a:1', service: kbs.acme, client_ca: ca}]\n"
		"tls: {certificate: c, key: k}\n" OWNER,
		"r.yaml:1:73: ", "no door connect");
	/* and the keys of that name that are not done yet stay refused */
	refuses(LISTENER "client_ca: ca\n", "r.yaml:2:1: ", "not supported by this version");
}

static void test_listeners(void)
{
	refuses("listeners: [{name: a, address: 'tcp:a:1'}]\n",
		"r.yaml:1:13: ", "neither doors nor service");
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: [sni], service: a.acme}]\n" OWNER,
		"r.yaml:1:66: ", "beside doors");
	refuses("listeners:\n- {name: a, address: 'tcp:a:1', doors: [sni]}\n"
		"- {name: a, address: 'tcp:a:2', doors: [sni]}\n",
		"r.yaml:3:10: ", "line 2 already");
	refuses("listeners:\n- {name: a, address: 'tcp:a:1', doors: [sni]}\n"
		"- {name: b, address: 'tcp:A:1', doors: [sni]}\n",
		"r.yaml:3:22: ", "line 2 already");
	refuses(LISTENER "metrics: tcp:127.0.0.1:1\n", "r.yaml:2:10: ", "line 1 already");
	relay_config_unref(relay("listeners:\n- {name: a, address: 'tcp:a:0', doors: [sni]}\n"
				 "- {name: b, address: 'tcp:a:0', doors: [sni]}\n"));
	refuses("listeners: [{name: a, address: 'tcp:a:1', doors: [tunnel]}]\n" OWNER,
		"r.yaml:1:50: ", "no certificate");
	refuses("tls: {certificate: c, key: k}\n"
		"listeners: [{name: a, address: 'tcp:a:1', doors: [tunnel]}]\n",
		"r.yaml:2:50: ", "no owners");
	refuses(LISTENER "tls: {certificate: c}\n", "r.yaml:2:6: ", "certificate without key");
	refuses(LISTENER "tls: {key: c}\n", "r.yaml:2:6: ", "key without certificate");
	refuses("listeners: [{name: a, address: 'tcp:a:1', service: kbs.acme}]\n",
		"r.yaml:1:52: ", "kbs.acme is not under services, and acme not under owners");
	relay_config_unref(
		relay("listeners: [{name: a, address: 'tcp:a:1', service: kbs.acme}]\n" OWNER));
}

static void test_owners(void)
{
	refuses(LISTENER "owners: [{name: a}]\n", "r.yaml:2:10: ", "attest-relay token new");
	refuses(LISTENER "owners: [{name: a, tokens: []}]\n",
		"r.yaml:2:28: ", "attest-relay token new");
	refuses(LISTENER "owners: [{name: a, tokens: ['" HASH_A "'], services: []}]\n",
		"r.yaml:2:", "services: an empty list");
	refuses(LISTENER "owners: [{name: a, tokens: ['" HASH_A "'], services: [x, X]}]\n",
		"r.yaml:2:", "x stands there twice");
	refuses(LISTENER "owners:\n- {name: a, tokens: ['" HASH_A "']}\n"
			 "- {name: A, tokens: ['" HASH_B "']}\n",
		"r.yaml:4:10: ", "line 3 already");
	refuses(LISTENER "owners:\n- {name: a, tokens: ['" HASH_A "']}\n"
			 "- {name: b, tokens: ['" HASH_B "', '" HASH_A "']}\n",
		"r.yaml:4:97: ", "line 3 already");
}

#define DIRECT "targets: ['tcp:h:1']"

static void test_services(void)
{
	refuses(LISTENER "services: [{name: kbs.acme}]\n", "r.yaml:2:19: ", "no owner acme");
	relay_config_unref(relay(LISTENER OWNER "services: [{name: kbs.acme}]\n"));
	refuses(LISTENER "services:\n- {name: a.b, " DIRECT "}\n- {name: A.b, " DIRECT "}\n",
		"r.yaml:4:10: ", "line 3 already");
	refuses(LISTENER "services:\n- {name: a.b, hostnames: [x.y], " DIRECT "}\n"
			 "- {name: b.b, hostnames: [z, X.y], " DIRECT "}\n",
		"r.yaml:4:30: ", "line 3 already");
	refuses(LISTENER "services: [{name: a.b, hostnames: ['*.x'], " DIRECT "}]\n",
		"r.yaml:2:36: ", "DNS name");
	refuses(LISTENER "domain: r.x\nservices: [{name: a.b, hostnames: [R.x], " DIRECT "}]\n",
		"r.yaml:3:36: ", "own name");
	refuses(LISTENER "domain: r.x\nservices: [{name: a.b, hostnames: [c.b.r.x], " DIRECT "}]\n",
		"r.yaml:3:36: ", "the service c.b");
	refuses(LISTENER "services: [{name: a.b, targets: []}]\n", "r.yaml:2:33: ", "empty list");
	refuses(LISTENER "services: [{name: a.b, targets: ['tcp:h:1', 'tcp:h:1']}]\n",
		"r.yaml:2:45: ", "twice");
	refuses(LISTENER "services: [{name: a.b, targets: ['tcp:h:0']}]\n",
		"r.yaml:2:34: ", "port 0");
	refuses(LISTENER "services: [{name: a.b, targets: ['vsock:any:1']}]\n",
		"r.yaml:2:34: ", "CID any");
	refuses(LISTENER "services: [{name: a.b, targets: ['fd:x']}]\n",
		"r.yaml:2:34: ", "of a kind");
	refuses(LISTENER "timeouts: {ping: 5s, dead: 5s}\n",
		"r.yaml:2:28: ", "not longer than ping");
	refuses(LISTENER "timeouts: {ping: 10s}\n", "r.yaml:2:11: ", "not longer than ping");
	refuses(LISTENER "limits: {session_window: 64KiB}\n",
		"r.yaml:2:26: ", "smaller than stream_window");
}

/* All errors in one go; beyond the bound they are counted. */
static void test_many_errors(void)
{
	static const char text[] = "workers: x\ndomain: a..b\nlog: {level: x}\nbananas: 1\n";
	struct config_errors e = { 0 };
	char *big, *printed;
	size_t len;
	FILE *f;

	CHECK(!relay_config_parse("r.yaml", text, strlen(text), &e));
	CHECK_INT(e.n, 5);
	says(&e, "r.yaml:1:10: ", "workers");
	says(&e, "r.yaml:2:9: ", "domain");
	says(&e, "r.yaml:3:14: ", "level");
	says(&e, "r.yaml:4:1: ", "bananas");
	says(&e, "r.yaml:1:1: ", "listeners: missing");
	config_errors_deinit(&e);
	f = open_memstream(&big, &len);
	fputs("services:\n", f);
	for (int i = 0; i < 1000; i++)
		fputs("- {name: a.b, targets: [x]}\n", f);
	fclose(f);
	CHECK(!relay_config_parse("r.yaml", big, len, &e));
	CHECK_INT(e.n, CONFIG_ERRORS_MAX);
	CHECK_INT(e.n + e.more, 1000 + 1 + 999);
	free(big);
	f = open_memstream(&printed, &len);
	config_errors_print(&e, f);
	fclose(f);
	CHECK(strstr(printed, "and 1936 more\n"));
	free(printed);
	config_errors_deinit(&e);
	config_errors_deinit(&e);
}

static void test_list_bound(void)
{
	struct config_errors e = { 0 };
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	fputs(LISTENER "owners: [{name: a, tokens: ['" HASH_A "'], services: [", f);
	for (int i = 0; i <= CONFIG_LIST_MAX; i++)
		fputs("x,", f);
	fputs("]}]\n", f);
	fclose(f);
	CHECK(!relay_config_parse("r.yaml", text, len, &e));
	says(&e, "r.yaml:2:", "65537 entries; expected at most 65536");
	free(text);
	config_errors_deinit(&e);
}

static void *take_and_drop(void *c)
{
	for (int i = 0; i < 10000; i++)
		relay_config_unref(relay_config_ref(c));
	return NULL;
}

static void test_references(void)
{
	struct relay_config *c = relay(whole);
	pthread_t threads[2];

	CHECK(relay_config_ref(c) == c);
	CHECK(!relay_config_unref(c));
	CHECK_INT(c->workers, 4);
	for (int i = 0; i < 2; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, take_and_drop, c), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK_INT(c->workers, 4);
	relay_config_unref(c);
	CHECK(!relay_config_unref(NULL));
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	CHECK(f);
	fputs(text, f);
	CHECK_INT(fclose(f), 0);
}

static void test_load(void)
{
	char folder[] = "/tmp/test_config.XXXXXX", path[64], expected[80];
	struct config_errors e = { 0 };
	struct relay_config *c;
	struct tunnel_config *t;

	CHECK(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/c.yaml", folder);
	CHECK(!relay_config_load(path, &e));
	says(&e, path, "cannot be opened: No such file or directory; expected");
	config_errors_deinit(&e);
	CHECK(!tunnel_config_load(folder, &e));
	says(&e, folder, "cannot be read: Is a directory");
	config_errors_deinit(&e);
	CHECK(!relay_config_load("/dev/zero", &e));
	says(&e, "/dev/zero", "too long");
	config_errors_deinit(&e);

	write_file(path, whole);
	c = relay_config_load(path, &e);
	CHECK(c);
	snprintf(expected, sizeof(expected), "%s/c.pem", folder);
	CHECK_STR(c->tls.certificate, expected);
	CHECK_STR(c->tls.key, "/abs/k.pem");
	relay_config_unref(c);

	write_file(path, "token_file: t/token\nca_file: /ca.pem\n");
	CHECK_INT(chdir(folder), 0);
	t = tunnel_config_load("c.yaml", &e);
	CHECK(t);
	snprintf(expected, sizeof(expected), "%s/t/token", folder);
	CHECK_STR(t->token_file, expected);
	CHECK_STR(t->ca_file, "/ca.pem");
	tunnel_config_free(t);
	unlink(path);
	rmdir(folder);
}

/* credential:NAME is a file of the folder that systemd has made for the service. */
static void test_systemd_credentials(void)
{
	static const char text[] = LISTENER "tls: {certificate: c.pem, key: 'credential:k.pem'}\n";
	struct config_errors e = { 0 };
	struct tunnel_config *t;
	struct relay_config *c;

	unsetenv("CREDENTIALS_DIRECTORY");
	refuses(text, "r.yaml:2:32: ", "LoadCredential=");
	setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x.service", 1);
	c = relay(text);
	CHECK_STR(c->tls.key, "/run/credentials/x.service/k.pem");
	relay_config_unref(c);
	refuses(LISTENER "tls: {certificate: c.pem, key: 'credential:'}\n",
		"r.yaml:2:32: ", "has no credential's name");
	refuses(LISTENER "tls: {certificate: c.pem, key: 'credential:../../etc/shadow'}\n",
		"r.yaml:2:32: ", "has no credential's name");
	refuses(LISTENER "tls: {certificate: c.pem, key: 'credential:..'}\n",
		"r.yaml:2:32: ", "has no credential's name");
	c = relay(LISTENER "tls: {certificate: ./credential:c, key: k}\n"); /* a file called so */
	CHECK(strstr(c->tls.certificate, "credential:c"));
	relay_config_unref(c);
	t = tunnel_config_parse("t.yaml", "token_file: 'credential:token'\n", 31, &e);
	CHECK(t);
	CHECK_STR(t->token_file, "/run/credentials/x.service/token");
	tunnel_config_free(t);
	unsetenv("CREDENTIALS_DIRECTORY");
}

static void test_tunnel_defaults(void)
{
	struct tunnel_config *c = tunnel_config_new();
	struct config_errors e = { 0 };

	CHECK_INT(c->relays.n, 0);
	CHECK_INT(c->transport, TRANSPORT_AUTO);
	CHECK_INT(c->log.level, CONFIG_LOG_INFO);
	CHECK_INT(c->timeouts.ping, 5000);
	CHECK_INT(c->limits.streams, 4096);
	CHECK_INT(c->limits.stream_window, 256 * 1024);
	CHECK_INT(c->limits.session_window, 32 * 1024 * 1024);
	CHECK_INT(tunnel_config_check(c, "attest-tunnel", &e), -EINVAL);
	CHECK_INT(e.n, 3);
	says(&e, "attest-tunnel: ", "--relay");
	says(&e, "attest-tunnel: ", "relays:");
	says(&e, "attest-tunnel: ", "--token-file");
	says(&e, "attest-tunnel: ", "token_file:");
	says(&e, "attest-tunnel: ", "--service");
	says(&e, "attest-tunnel: ", "services:");
	config_errors_deinit(&e);
	tunnel_config_free(c);
	CHECK(!tunnel_config_free(NULL));
}

static const char agent[] = "relays: ['tcp:gw.example.net:443', 'unix:/run/r']\n"
			    "server_name: GW.example.net\n"
			    "token_file: token\n"
			    "transport: websocket\n"
			    "instance: Laptop_1\n"
			    "services:\n"
			    "  - {name: KBS, target: 'tcp:127.0.0.1:8080'}\n"
			    "  - {name: vnc, target: 'unix:/v', dial: eager, idle: 1h}\n"
			    "limits: {streams: 9}\n";

static void test_tunnel_file(void)
{
	struct tunnel_config *c = tunnel(agent);
	struct config_errors e = { 0 };
	char *first, *second;

	CHECK_INT(c->relays.n, 2);
	CHECK_STR(c->server_name, "gw.example.net");
	CHECK_STR(c->instance, "Laptop_1");
	CHECK_INT(c->transport, TRANSPORT_WEBSOCKET);
	CHECK_INT(c->n_services, 2);
	CHECK_STR(c->services[0].name, "kbs");
	CHECK_INT(c->services[0].dial, DIAL_LAZY);
	CHECK_INT(c->services[1].dial, DIAL_EAGER);
	CHECK_INT(c->services[1].idle, 3600000);
	CHECK_INT(c->services[1].line, 8);
	CHECK_INT(c->limits.streams, 9);
	CHECK_INT(tunnel_config_check(c, "t.yaml", &e), 0);
	first = dump_tunnel(c);
	free(c->server_name);
	c->server_name = NULL;
	CHECK_INT(tunnel_config_check(c, "t.yaml", &e), -EINVAL);
	says(&e, "t.yaml: ", "no host name to verify");
	config_errors_deinit(&e);
	tunnel_config_free(c);
	c = tunnel(first);
	second = dump_tunnel(c);
	CHECK_STR(first, second);
	tunnel_config_free(c);
	free(first);
	free(second);
}

static void refuses_tunnel(const char *text, const char *at, const char *what)
{
	struct config_errors e = { 0 };

	CHECK(!tunnel_config_parse("t.yaml", text, strlen(text), &e));
	says(&e, at, what);
	CHECK_INT(e.n, 1);
	config_errors_deinit(&e);
}

static void test_tunnel_wrong(void)
{
	refuses_tunnel("relays: ['vsock:host:1']\n",
		       "t.yaml:1:10: ", "tcp:HOST:PORT or unix:/path");
	refuses_tunnel("services: [{name: a.b, target: 'tcp:a:1'}]\n", "t.yaml:1:19: ", "letters");
	refuses_tunnel(
		"services:\n- {name: a, target: 'tcp:a:1'}\n- {name: A, target: 'tcp:a:1'}\n",
		"t.yaml:3:10: ", "line 2 already");
	refuses_tunnel("services: [{name: a, target: 'tcp:a:1', dial: late}]\n",
		       "t.yaml:1:47: ", "first-byte or eager");
	refuses_tunnel("server_name: a b\n", "t.yaml:1:14: ", "certificate");
	refuses_tunnel("timeouts: {ping: 1min}\n", "t.yaml:1:11: ", "not longer than ping");
}

static void test_tunnel_proxy(void)
{
	static const char *const bad[] = { "proxy: 'http://me:s3cret@p:1'\n",
					   "proxy: 'me:s3cret@p:1'\n",
					   "proxy: 'ftp://me:s3cret@p:1'\n",
					   "proxy: 'http://me:s3cret@p'\n",
					   "proxy: \"http://me:s3cret\\x01@p:1\"\n" };
	struct tunnel_config *c = tunnel("proxy: https://me@P.example:3128\n"
					 "proxy_credentials_file: /c\n"
					 "proxy_ca_file: /ca.pem\n"
					 "no_proxy: ['10.0.0.0/8', near.example]\n");

	CHECK_STR(c->proxy, "https://me@P.example:3128");
	CHECK_STR(c->proxy_credentials_file, "/c");
	CHECK_STR(c->proxy_ca_file, "/ca.pem");
	CHECK_INT(c->no_proxy.n, 2);
	tunnel_config_free(c);
	c = tunnel("proxy: none\n");
	CHECK_STR(c->proxy, "none");
	tunnel_config_free(c);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct config_errors e = { 0 };

		CHECK(!tunnel_config_parse("t.yaml", bad[i], strlen(bad[i]), &e));
		CHECK_INT(e.n, 1);
		CHECK(strncmp(e.at[0], "t.yaml:1:8: proxy: ", 19) == 0);
		CHECK(!strstr(e.at[0], "s3cret"));
		config_errors_deinit(&e);
	}
	refuses_tunnel(bad[0], "t.yaml:1:8: ", "has a password in it");
	refuses_tunnel(bad[1], "t.yaml:1:8: ", "does not say what it speaks");
	refuses_tunnel("proxy: socks4://p:1\n", "t.yaml:1:8: ", "another kind");
	refuses_tunnel("proxy_credentials_file: /c\n", "t.yaml:1:25: ", "no proxy");
	refuses_tunnel("proxy: none\nproxy_credentials_file: /c\n",
		       "t.yaml:2:25: ", "no proxy");
	refuses_tunnel("proxy: http://p:1\nproxy_ca_file: /c\n", "t.yaml:2:16: ", "no TLS");
	refuses_tunnel("proxy: none\nno_proxy: [a]\n", "t.yaml:2:11: ", "there is no proxy");
	refuses_tunnel("proxy: http://p:1\nno_proxy: [10.0.0.0/40]\n",
		       "t.yaml:2:12: ", "ADDRESS/BITS");
}

static void adds_not(struct tunnel_config *c, const char *text, const char *what)
{
	size_t n = c->n_services;
	char *why = NULL;

	CHECK_INT(tunnel_config_add_service(c, text, &why), -EINVAL);
	if (!strstr(why, what)) {
		fprintf(stderr, "%s: \"%s\" does not say \"%s\"\n", text, why, what);
		abort();
	}
	free(why);
	CHECK_INT(c->n_services, n);
}

static void test_add_service(void)
{
	struct tunnel_config *c = tunnel_config_new();
	char *why, name[64];

	CHECK_INT(tunnel_config_add_service(c, "KBS=tcp:127.0.0.1:8080", &why), 0);
	CHECK_INT(tunnel_config_add_service(c, "vnc=unix:/a=b,dial=eager,idle=30s", &why), 0);
	CHECK_STR(c->services[0].name, "kbs");
	CHECK_INT(c->services[0].dial, DIAL_LAZY);
	CHECK_INT(c->services[0].target.port, 8080);
	CHECK_STR(c->services[1].target.name, "/a=b");
	CHECK_INT(c->services[1].dial, DIAL_EAGER);
	CHECK_INT(c->services[1].idle, 30000);
	adds_not(c, "", "NAME=ADDRESS");
	adds_not(c, "kbs", "NAME=ADDRESS");
	adds_not(c, "=tcp:a:1", "service's name");
	adds_not(c, "a.b=tcp:a:1", "service's name");
	adds_not(c, "kBs=tcp:a:1", "there already");
	adds_not(c, "x=", "expected tcp:HOST:PORT");
	adds_not(c, "x=tunnel", "of a kind");
	adds_not(c, "x=tcp:a:0", "port 0");
	adds_not(c, "x=tcp:a:1,", "unknown option");
	adds_not(c, "x=tcp:a:1,dial=late", "dial=eager");
	adds_not(c, "x=tcp:a:1,idle=3", "no unit");
	adds_not(c, "x=tcp:a:1,idle=99999d", "too large");
	for (int i = 2; i < 1024; i++) {
		snprintf(name, sizeof(name), "s%d=tcp:a:1", i);
		CHECK_INT(tunnel_config_add_service(c, name, &why), 0);
	}
	adds_not(c, "x=tcp:a:1", "at most 1024");
	tunnel_config_free(c);
}

static void test_scalars(void)
{
	char buf[SCALAR_TEXT_MAX], quoted[16];
	uint64_t n = 7;

	CHECK_STR(scalar_format_duration(0, buf, sizeof(buf)), "0");
	CHECK_STR(scalar_format_duration(1, buf, sizeof(buf)), "1ms");
	CHECK_STR(scalar_format_duration(90000, buf, sizeof(buf)), "90s");
	CHECK_STR(scalar_format_duration(UINT64_MAX, buf, sizeof(buf)), "18446744073709551615ms");
	CHECK_STR(scalar_format_size(1000, buf, sizeof(buf)), "1000");
	CHECK_STR(scalar_format_size(1 << 30, buf, sizeof(buf)), "1GiB");
	CHECK(!scalar_size("3KB", &n));
	CHECK_INT(n, 3000);
	CHECK(!scalar_size("2GB", &n));
	CHECK_INT(n, 2000000000);
	CHECK(scalar_size("18014398509481984KiB", &n));
	CHECK(scalar_size("", &n));
	CHECK_INT(n, 2000000000);
	CHECK_STR(scalar_quote("a\n\xc2\x9b"
			       "b",
			       quoted, sizeof(quoted)),
		  "\"a??b\"");
	CHECK_STR(scalar_quote("123456789012345", quoted, sizeof(quoted)), "\"123456789...\"");
	CHECK_STR(scalar_quote("12345678\xc3\xa4xxxx", quoted, sizeof(quoted)), "\"12345678...\"");
}

int main(void)
{
	test_scalars();
	test_defaults();
	test_admin();
	test_values();
	test_lookup();
	test_lookup_many();
	test_dump();
	test_not_yaml();
	test_not_ours();
	test_aliases();
	test_keys();
	test_credentials();
	test_times();
	test_clients();
	test_wrong_values();
	test_no_secrets();
	test_audit();
	test_client_ca();
	test_listeners();
	test_owners();
	test_services();
	test_many_errors();
	test_list_bound();
	test_references();
	test_load();
	test_systemd_credentials();
	test_tunnel_defaults();
	test_tunnel_file();
	test_tunnel_wrong();
	test_tunnel_proxy();
	test_add_service();
	return 0;
}
