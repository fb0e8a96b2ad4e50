/* Networks: what is read and refused, who is in one; and the settings for PROXY headers. */
#include <arpa/inet.h>

#include "config/config.h"
#include "tests/unit/check.h"

static void reads(const char *text, const char *normal)
{
	struct network n, again;
	char buf[NETWORK_TEXT_MAX];
	const char *bad = network_parse(&n, text);

	if (bad)
		fprintf(stderr, "%s %s\n", text, bad);
	CHECK(!bad);
	CHECK_STR(network_format(&n, buf, sizeof(buf)), normal);
	CHECK(!network_parse(&again, buf));
	CHECK(memcmp(&n, &again, sizeof(n)) == 0);
}

static void test_reading(void)
{
	static const char *const bad[] = {
		"",	       "x",	   "unixes",	  "10.0.0.0/",	 "10.0.0.0/33",
		"10.0.0.0/08", "10.0.0/8", "10.0.0.1/8",  "10.0.0.0/-1", "10.0.0.0/8 ",
		"::1/129",     "::1/64",   "::1/",	  "[::1]/128",	 "fe80::1%lo",
		"/8",	       "host/8",   "10.0.0.0/8/8", "::ffff:10.0.0.0/104",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999/64",
	};
	struct network n = { .bits = 77 };

	reads("unix", "unix");
	reads("10.0.0.0/8", "10.0.0.0/8");
	reads("0.0.0.0/0", "0.0.0.0/0");
	reads("192.0.2.7", "192.0.2.7/32");
	reads("192.0.2.6/31", "192.0.2.6/31");
	reads("::1", "::1/128");
	reads("::/0", "::/0");
	reads("2001:DB8::/32", "2001:db8::/32");
	reads("2001:db8:8000::/33", "2001:db8:8000::/33");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(network_parse(&n, bad[i]));
	CHECK_INT(n.bits, 77); /* untouched */
}

static bool in(const char *network, const char *ip)
{
	enum network_kind kind = strchr(ip, ':') ? NETWORK_IPV6 : NETWORK_IPV4;
	uint8_t bytes[16];
	struct network n;

	CHECK(!network_parse(&n, network));
	CHECK_INT(inet_pton(kind == NETWORK_IPV4 ? AF_INET : AF_INET6, ip, bytes), 1);
	return network_has_ip(&n, kind, bytes);
}

static void test_members(void)
{
	CHECK(in("10.0.0.0/8", "10.255.255.255"));
	CHECK(!in("10.0.0.0/8", "11.0.0.0"));
	CHECK(in("192.0.2.6/31", "192.0.2.7"));
	CHECK(!in("192.0.2.6/31", "192.0.2.8"));
	CHECK(in("192.0.2.7", "192.0.2.7"));
	CHECK(!in("192.0.2.7", "192.0.2.6"));
	CHECK(in("0.0.0.0/0", "255.1.2.3"));
	CHECK(!in("0.0.0.0/0", "::1"));
	CHECK(!in("::/0", "10.0.0.1"));
	CHECK(in("::/0", "ffff::"));
	CHECK(in("2001:db8:8000::/33", "2001:db8:ffff::1"));
	CHECK(!in("2001:db8:8000::/33", "2001:db8:7fff::1"));
	CHECK(in("::1", "::1"));
	CHECK(!in("::1", "::2"));
	CHECK(!in("unix", "10.0.0.1"));
	CHECK(!in("unix", "::"));
}

/* ---- in a config ---- */

#define LISTENER "listeners: [{name: a, address: 'tcp:a:1', "
#define OWNER \
	"owners: [{name: acme, tokens: ['sha256:" \
	"0000000000000000000000000000000000000000000000000000000000000000']}]\n"

static void refuses(const char *text, const char *what)
{
	struct config_errors e = { 0 };

	CHECK(!relay_config_parse("r.yaml", text, strlen(text), &e));
	if (e.n != 1 || !strstr(e.at[0], what))
		config_errors_print(&e, stderr);
	CHECK_INT(e.n, 1);
	CHECK(strstr(e.at[0], what));
	config_errors_deinit(&e);
}

static struct relay_config *loads(const char *text)
{
	struct config_errors e = { 0 };
	struct relay_config *c = relay_config_parse("r.yaml", text, strlen(text), &e);

	config_errors_print(&e, stderr);
	CHECK(c);
	return c;
}

static void test_config(void)
{
	struct relay_config *c = loads(LISTENER "doors: [sni], proxy_protocol: optional,\n"
				       "  proxy_networks: [10.0.0.0/8, '::1', unix]}]\n" OWNER
				       "services:\n"
				       "- {name: a.acme, targets: [tunnel, 'tcp:b:1'], "
				       "proxy_protocol: v2}\n"
				       "- {name: b.acme}\n");
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	CHECK_INT(c->listeners[0].proxy_protocol, PROXY_TAKEN_OPTIONAL);
	CHECK_INT(c->listeners[0].proxy_networks.n, 3);
	CHECK_INT(c->listeners[0].proxy_networks.at[2].kind, NETWORK_UNIX);
	CHECK_INT(c->services[0].proxy_protocol, PROXY_SENT_V2);
	CHECK_INT(c->services[1].proxy_protocol, PROXY_SENT_NONE);
	relay_config_dump(c, f);
	CHECK_INT(fclose(f), 0);
	relay_config_unref(c);
	c = loads(text); /* what was dumped is the same again */
	CHECK_INT(c->listeners[0].proxy_networks.n, 3);
	CHECK_INT(c->listeners[0].proxy_networks.at[1].bits, 128);
	CHECK_INT(c->services[0].proxy_protocol, PROXY_SENT_V2);
	relay_config_unref(c);
	free(text);
}

static void test_wrong_config(void)
{
	refuses(LISTENER "doors: [sni], proxy_protocol: required}]\n",
		"r.yaml:1:73: proxy_protocol: stands without proxy_networks");
	refuses(LISTENER "doors: [sni], proxy_networks: [unix]}]\n",
		"r.yaml:1:73: proxy_networks: stands without proxy_protocol");
	refuses(LISTENER "doors: [sni], proxy_protocol: off, proxy_networks: [unix]}]\n",
		"stands without proxy_protocol");
	refuses(LISTENER "doors: [sni], proxy_protocol: required, proxy_networks: []}]\n",
		"an empty list");
	refuses(LISTENER "doors: [sni], proxy_protocol: maybe, proxy_networks: [unix]}]\n",
		"expected off, optional or required");
	refuses(LISTENER "doors: [sni], proxy_protocol: required, proxy_networks: [10.0.0.1/8]}]\n",
		"\"10.0.0.1/8\" has more bits in its address than the number after / counts");
	refuses(LISTENER "service: a.acme, proxy_protocol: optional, proxy_networks: ['::1']}]\n"
		OWNER, "optional at a listener for one service");
	refuses(LISTENER "doors: [sni], proxy_protocol: required, proxy_networks: [unix]}]\n",
		"r.yaml:1:99: proxy_networks: nobody of these could come");
	refuses("listeners: [{name: a, address: 'unix:/x', doors: [sni], proxy_protocol: required, "
		"proxy_networks: [10.0.0.0/8]}]\n",
		"nobody of these could come");
	refuses("listeners: [{name: a, address: 'vsock:any:1', doors: [sni], "
		"proxy_protocol: required, proxy_networks: [10.0.0.0/8, unix]}]\n",
		"nobody of these could come");
	refuses(LISTENER "doors: [sni]}]\n" OWNER
		"services: [{name: a.acme, proxy_protocol: v1}]\n",
		"no target that is an address");
	refuses(LISTENER "doors: [sni]}]\n" OWNER
		"services: [{name: a.acme, targets: ['tcp:b:1'], proxy_protocol: v3}]\n",
		"expected off, v1 or v2");
}

static void test_flag(void)
{
	struct tunnel_config *c = tunnel_config_new();
	char *why = NULL;

	CHECK_INT(tunnel_config_add_service(c, "a=tcp:a:1,proxy_protocol=v2,dial=eager", &why), 0);
	CHECK_INT(tunnel_config_add_service(c, "b=tcp:a:1,proxy_protocol=v1", &why), 0);
	CHECK_INT(tunnel_config_add_service(c, "c=tcp:a:1,proxy_protocol=off", &why), 0);
	CHECK_INT(tunnel_config_add_service(c, "d=tcp:a:1", &why), 0);
	CHECK_INT(c->services[0].proxy_protocol, PROXY_SENT_V2);
	CHECK_INT(c->services[0].dial, DIAL_EAGER);
	CHECK_INT(c->services[1].proxy_protocol, PROXY_SENT_V1);
	CHECK_INT(c->services[2].proxy_protocol, PROXY_SENT_NONE);
	CHECK_INT(c->services[3].proxy_protocol, PROXY_SENT_NONE);
	CHECK_INT(tunnel_config_add_service(c, "e=tcp:a:1,proxy_protocol=v3", &why), -EINVAL);
	CHECK(strstr(why, "proxy_protocol=v2"));
	free(why);
	tunnel_config_free(c);
}

int main(void)
{
	test_reading();
	test_members();
	test_config();
	test_wrong_config();
	test_flag();
	return 0;
}
