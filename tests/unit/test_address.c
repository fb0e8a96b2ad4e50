/* Addresses and names: what is read, what is refused and how that is said, and normal forms. */
#include "config/address.h"
#include "tests/unit/check.h"

static void reads(const char *text, const char *normal, enum address_kind kind, const char *name,
		  uint32_t cid, uint32_t port)
{
	char buf[ADDRESS_TEXT_MAX], again[ADDRESS_TEXT_MAX];
	struct address a, b;
	char *why = NULL;

	if (address_parse(&a, text, &why) < 0) {
		fprintf(stderr, "%s: %s\n", text, why);
		abort();
	}
	CHECK_INT(a.kind, kind);
	if (name)
		CHECK_STR(a.name, name);
	else
		CHECK(!a.name);
	CHECK_INT(a.cid, cid);
	CHECK_INT(a.port, port);
	CHECK_STR(address_format(&a, buf, sizeof(buf)), normal);
	CHECK_INT(address_parse(&b, buf, &why), 0);
	CHECK(address_equal(&a, &b));
	CHECK_STR(address_format(&b, again, sizeof(again)), buf);
	address_deinit(&b);
	CHECK_INT(address_copy(&b, &a), 0);
	CHECK(address_equal(&a, &b));
	CHECK(!a.name || a.name != b.name);
	address_deinit(&a);
	CHECK_INT(a.kind, ADDRESS_NONE);
	CHECK(!address_equal(&a, &b));
	address_deinit(&a);
	address_deinit(&b);
}

static void refuses(const char *text, const char *hint)
{
	struct address a, before;
	char *why = NULL;

	memset(&a, 0x5a, sizeof(a));
	memcpy(&before, &a, sizeof(a));
	if (address_parse(&a, text, &why) != -EINVAL) {
		fprintf(stderr, "%s was taken for an address\n", text);
		abort();
	}
	CHECK(memcmp(&a, &before, sizeof(a)) == 0);
	CHECK(strncmp(why, "expected ", 9) == 0);
	if (!strstr(why, hint)) {
		fprintf(stderr, "%s: \"%s\" does not say \"%s\"\n", text, why, hint);
		abort();
	}
	free(why);
	CHECK_INT(address_parse(&a, text, NULL), -EINVAL);
}

static void test_tcp(void)
{
	reads("tcp:127.0.0.1:80", "tcp:127.0.0.1:80", ADDRESS_TCP, "127.0.0.1", 0, 80);
	reads("tcp:GW.Example.net:443", "tcp:gw.example.net:443", ADDRESS_TCP, "gw.example.net", 0,
	      443);
	reads("tcp:my_service:65535", "tcp:my_service:65535", ADDRESS_TCP, "my_service", 0, 65535);
	reads("tcp:host.:1", "tcp:host.:1", ADDRESS_TCP, "host.", 0, 1);
	reads("tcp:localhost:0", "tcp:localhost:0", ADDRESS_TCP, "localhost", 0, 0);
	reads("tcp:[::1]:443", "tcp:[::1]:443", ADDRESS_TCP, "::1", 0, 443);
	reads("tcp:[0:0::]:443", "tcp:[::]:443", ADDRESS_TCP, "::", 0, 443);
	reads("tcp:[FE80::1%eth0]:1", "tcp:[fe80::1%eth0]:1", ADDRESS_TCP, "fe80::1%eth0", 0, 1);
	refuses("tcp:", "tcp:HOST:PORT");
	refuses("tcp:host", "tcp:HOST:PORT");
	refuses("tcp::80", "tcp:[::]:PORT");
	refuses("tcp:*:80", "0.0.0.0");
	refuses("tcp:::1:80", "brackets");
	refuses("tcp:host:", "port");
	refuses("tcp:host:65536", "65535");
	refuses("tcp:host:-1", "port");
	refuses("tcp:host:+1", "port");
	refuses("tcp:host:080", "port");
	refuses("tcp:host:80 ", "port");
	refuses("tcp:host:99999999999999999999", "port");
	refuses("tcp:a b:80", "host");
	refuses("tcp:a..b:80", "host");
	refuses("tcp:.a:80", "host");
	refuses("tcp:-a:80", "host");
	refuses("tcp:999.0.0.1:80", "host");
	refuses("tcp:10.0.1:80", "host");
	refuses("tcp:[::1:80", "[");
	refuses("tcp:[host]:80", "IPv6");
	refuses("tcp:[::1]80", "port");
	refuses("tcp:[::1]:", "port");
	refuses("tcp:[::1%]:80", "interface");
	refuses("tcp:[::1%abcdefghijklmnop]:80", "15");
	refuses("tcp:[::1%a/b]:80", "interface");
}

static void test_unix(void)
{
	char path[200] = "unix:/";

	reads("unix:/run/a b.sock", "unix:/run/a b.sock", ADDRESS_UNIX, "/run/a b.sock", 0, 0);
	reads("unix:@relay:x", "unix:@relay:x", ADDRESS_UNIX, "@relay:x", 0, 0);
	refuses("unix:", "absolute");
	refuses("unix:/", "absolute");
	refuses("unix:@", "absolute");
	refuses("unix:run/x", "absolute");
	refuses("unix:/a\nb", "control");
	refuses("unix:/a\x7f", "control");
	memset(path + 6, 'x', 106);
	reads(path, path, ADDRESS_UNIX, path + 5, 0, 0);
	path[112] = 'x';
	refuses(path, "107");
	reads("hybrid:/tmp/v.sock:52", "hybrid:/tmp/v.sock:52", ADDRESS_HYBRID, "/tmp/v.sock", 0,
	      52);
	reads("hybrid:/tmp/v:1:4294967294", "hybrid:/tmp/v:1:4294967294", ADDRESS_HYBRID,
	      "/tmp/v:1", 0, 4294967294);
	refuses("hybrid:/tmp/v.sock", "PORT");
	refuses("hybrid:v.sock:1", "absolute");
	refuses("hybrid:/:1", "hybrid:/path:PORT");
	refuses("hybrid:/v:", "port");
	refuses("hybrid:/v:4294967295", "port");
	refuses("hybrid:@v:5", "absolute");
}

static void test_vsock(void)
{
	reads("vsock:any:4050", "vsock:any:4050", ADDRESS_VSOCK, NULL, UINT32_MAX, 4050);
	reads("vsock:hypervisor:1", "vsock:hypervisor:1", ADDRESS_VSOCK, NULL, 0, 1);
	reads("vsock:local:1", "vsock:local:1", ADDRESS_VSOCK, NULL, 1, 1);
	reads("vsock:2:1", "vsock:host:1", ADDRESS_VSOCK, NULL, 2, 1);
	reads("vsock:42:0", "vsock:42:0", ADDRESS_VSOCK, NULL, 42, 0);
	refuses("vsock:42", "vsock:CID:PORT");
	refuses("vsock::1", "CID");
	refuses("vsock:all:1", "CID");
	refuses("vsock:-1:1", "CID");
	refuses("vsock:4294967296:1", "CID");
	refuses("vsock:42:any", "port");
	refuses("vsock:42:4294967295", "port");
	refuses("vsock:aaaaaaaaaaaaaaaaaaaaaaaa:1", "CID");
}

static void test_others(void)
{
	char text[ADDRESS_TEXT_MAX + 1];

	reads("fd:front", "fd:front", ADDRESS_FD, "front", 0, 0);
	refuses("fd:", "systemd");
	refuses("fd:a:b", "':'");
	refuses("fd:a\tb", "ASCII");
	reads("service:KBS.acme", "service:kbs.acme", ADDRESS_SERVICE, "kbs.acme", 0, 0);
	refuses("service:kbs", "SERVICE.OWNER");
	refuses("service:a.b.c", "SERVICE.OWNER");
	reads("tunnel", "tunnel", ADDRESS_TUNNEL, NULL, 0, 0);
	refuses("tunnel:x", "alone");
	refuses("", "tcp:HOST:PORT");
	refuses("TCP:a:1", "tcp:HOST:PORT");
	refuses("127.0.0.1:80", "tcp:HOST:PORT");
	memset(text, 'a', ADDRESS_TEXT_MAX);
	text[ADDRESS_TEXT_MAX] = '\0';
	memcpy(text, "tcp:", 4);
	refuses(text, "512");
}

static void test_equal(void)
{
	struct address a, b;

	CHECK_INT(address_parse(&a, "tcp:A:1", NULL), 0);
	CHECK_INT(address_parse(&b, "tcp:a:1", NULL), 0);
	CHECK(address_equal(&a, &b));
	b.port = 2;
	CHECK(!address_equal(&a, &b));
	address_deinit(&b);
	CHECK_INT(address_parse(&b, "unix:@a", NULL), 0);
	CHECK(!address_equal(&a, &b));
	address_deinit(&a);
	address_deinit(&b);
}

static void test_names(void)
{
	char label[65], host[300];

	CHECK(name_is_label("a"));
	CHECK(name_is_label("KBS-2"));
	CHECK(!name_is_label(""));
	CHECK(!name_is_label("-a"));
	CHECK(!name_is_label("a-"));
	CHECK(!name_is_label("a.b"));
	CHECK(!name_is_label("a_b"));
	CHECK(!name_is_label("\xc3\xa4"));
	memset(label, 'a', 64);
	label[64] = '\0';
	CHECK(!name_is_label(label));
	label[63] = '\0';
	CHECK(name_is_label(label));
	CHECK(name_is_service("kbs.acme"));
	CHECK(!name_is_service("kbs"));
	CHECK(!name_is_service("kbs."));
	CHECK(!name_is_service(".acme"));
	CHECK(!name_is_service("a.b.c"));
	CHECK(!name_is_service("a/b.c"));
	CHECK(name_is_host("a"));
	CHECK(name_is_host("kbs.acme.example"));
	CHECK(!name_is_host(""));
	CHECK(!name_is_host("a..b"));
	CHECK(!name_is_host("a."));
	CHECK(!name_is_host("*.a"));
	snprintf(host, sizeof(host), "%s.%s.%s.%.61s", label, label, label, label);
	CHECK_INT(strlen(host), 253);
	CHECK(name_is_host(host));
	snprintf(host, sizeof(host), "%s.%s.%s.%.62s", label, label, label, label);
	CHECK(!name_is_host(host));
}

int main(void)
{
	test_tcp();
	test_unix();
	test_vsock();
	test_others();
	test_equal();
	test_names();
	return 0;
}
