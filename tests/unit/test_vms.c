/*
 * vms: drop-ins as they come, change and go, links and folders among them; whose a VM is; what
 * stays valid while a change is told.
 */
#include "qgs-bridge/vms.h"

#include <limits.h>
#include <sys/stat.h>

#include "qgs-bridge/who.h"
#include "relay/log.h"
#include "tests/unit/loop.h"

static char top[] = "/tmp/test_vms.XXXXXX";
static char dir[64];
static struct bridge_config config;
static struct vms *v;
static unsigned changes;

/* ---- files ---- */

static const char *at(const char *name)
{
	static char text[4][PATH_MAX];
	static unsigned turns;

	turns = (turns + 1) % 4;
	snprintf(text[turns], sizeof(text[turns]), "%s/%s", dir, name);
	return text[turns];
}

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	CHECK(f);
	CHECK(fputs(text, f) >= 0);
	CHECK_INT(fclose(f), 0);
}

/* As a careful writer does. */
static void drop_in(const char *name, const char *text)
{
	put(at(".new"), text);
	CHECK_INT(rename(at(".new"), at(name)), 0);
}

#define VM(key, service) "vms: [{ " key ", service: " service " }]\n"

static void shell(const char *command)
{
	char line[PATH_MAX];

	snprintf(line, sizeof(line), "cd %s && %s", top, command);
	CHECK_INT(system(line), 0);
}

/* ---- asking ---- */

static const char *of_name(const char *name)
{
	struct who who = { .peer.family = AF_UNIX };

	snprintf(who.vm, sizeof(who.vm), "name:%s", name);
	return vms_service(v, "in", &who, NULL, 0);
}

static bool is(const char *name, const char *service)
{
	const char *got = of_name(name);

	return service ? got && strcmp(got, service) == 0 : !got;
}

static const char *of_cid(uint32_t cid, uint32_t port)
{
	struct who who = { .peer = { .family = AF_VSOCK, .a = cid } };

	snprintf(who.vm, sizeof(who.vm), "cid:%u", cid);
	return vms_service(v, "vsock", &who, NULL, port);
}

/* ---- listeners, as bridge.c has them ---- */

static const struct entrance_config *seen[16];
static char names[16][65]; /* of those, copied: are the old pointers still good? */
static unsigned n_seen;

static void on_each(void *user, const struct entrance_config *c)
{
	CHECK(n_seen < 16);
	snprintf(names[n_seen], sizeof(names[n_seen]), "%s", c->name);
	seen[n_seen++] = c;
}

static void on_changed(void *user)
{
	CHECK(user == &changes);
	for (unsigned i = 0; i < n_seen; i++)
		CHECK_STR(seen[i]->name, names[i]); /* what was told before is still valid */
	n_seen = 0;
	vms_listeners(v, on_each, NULL);
	changes++;
}

static void begin(void)
{
	v = vms_new(w, &config, on_changed, &changes);
	CHECK(v);
	changes = n_seen = 0;
	vms_listeners(v, on_each, NULL);
}

static void end(void)
{
	v = vms_free(v);
	shell("rm -rf d d2 real");
	CHECK_INT(mkdir(dir, 0755), 0);
}

/* ---- tests ---- */

static void test_there_at_start(void)
{
	drop_in("a.yaml", VM("vm: \"name:a\"", "kbs.acme"));
	drop_in(".hidden.yaml", VM("vm: \"name:h\"", "kbs.acme"));
	drop_in("b.yml", VM("vm: \"name:b\"", "kbs.acme"));
	drop_in(".yaml", VM("vm: \"name:b\"", "kbs.acme"));
	begin();
	CHECK(is("a", "kbs.acme"));
	CHECK(is("h", NULL) && is("b", NULL));
	settle();
	CHECK_INT(changes, 0);
	end();
}

static void test_come_and_go(void)
{
	begin();
	CHECK(is("a", NULL));
	drop_in("a.yaml", VM("vm: \"name:a\"", "one.acme"));
	UNTIL(is("a", "one.acme"));
	CHECK_INT(changes, 1);
	put(at("a.yaml"), VM("vm: \"name:a\"", "two.acme"));
	UNTIL(is("a", "two.acme"));
	drop_in("a.yaml", VM("vm: \"name:a\"", "three.acme"));
	UNTIL(is("a", "three.acme"));
	CHECK_INT(link(at("a.yaml"), at("hard")), 0);
	CHECK_INT(unlink(at("a.yaml")), 0);
	UNTIL(is("a", NULL));
	/* link(2) is no write and no rename */
	CHECK_INT(link(at("hard"), at("a.yaml")), 0);
	UNTIL(is("a", "three.acme"));
	end();
}

/* What it said before stays, and whoever mends it need not do more than that. */
static void test_wrong_then_right(void)
{
	unsigned before;

	drop_in("a.yaml", VM("vm: \"name:a\"", "one.acme"));
	drop_in("never.yaml", "what: is this\n");
	begin();
	drop_in("a.yaml", "vms: [{ service: one.acme }]\n");
	UNTIL(changes == 1);
	CHECK(is("a", "one.acme"));
	/* another file is read; the wrong ones are not read again, nor is what was right lost */
	drop_in("b.yaml", VM("vm: \"name:b\"", "b.acme"));
	UNTIL(is("b", "b.acme"));
	CHECK(is("a", "one.acme"));
	before = changes;
	drop_in("a.yaml", VM("vm: \"name:a\"", "two.acme"));
	UNTIL(is("a", "two.acme"));
	CHECK_INT(changes, before + 1);
	drop_in("a.yaml", "- [\n");
	UNTIL(changes == before + 2);
	CHECK_INT(unlink(at("a.yaml")), 0);
	UNTIL(is("a", NULL));
	drop_in("never.yaml", VM("vm: \"name:n\"", "n.acme"));
	UNTIL(is("n", "n.acme"));
	end();
}

/* Nor does a reload of the main config make a difference to that. */
static void test_wrong_over_a_reload(void)
{
	struct vms *old;

	drop_in("a.yaml", VM("vm: \"name:a\"", "one.acme"));
	begin();
	drop_in("a.yaml", "- [\n");
	UNTIL(changes == 1);
	drop_in("b.yaml", VM("vm: \"name:b\"", "b.acme"));
	UNTIL(is("b", "b.acme"));
	drop_in("b.yaml", VM("vm: \"name:b\"", "new.acme"));
	old = v;
	v = vms_new(w, &config, on_changed, &changes);
	CHECK(v);
	CHECK(is("a", NULL));
	vms_inherit(v, old);
	vms_free(old);
	CHECK(is("a", "one.acme"));
	CHECK(is("b", "new.acme"));
	end();
}

static void test_folder_comes_and_goes(void)
{
	shell("rm -rf d");
	begin();
	CHECK(is("a", NULL));
	shell("mkdir d && echo 'vms: [{ vm: \"name:a\", service: one.acme }]' > d/a.yaml");
	UNTIL(is("a", "one.acme"));
	shell("rm -rf d");
	UNTIL(is("a", NULL));
	/* made by another name, and renamed: the whole of it is there at once */
	shell("mkdir d2 && echo 'vms: [{ vm: \"name:a\", service: two.acme }]' > d2/a.yaml");
	shell("mv d2 d");
	UNTIL(is("a", "two.acme"));
	shell("mv d d2");
	UNTIL(is("a", NULL));
	shell("mkdir d");
	drop_in("b.yaml", VM("vm: \"name:b\"", "b.acme"));
	UNTIL(is("b", "b.acme"));
	drop_in("c.yaml", VM("vm: \"name:c\"", "c.acme"));
	UNTIL(is("c", "c.acme"));
	end();
}

/* The way there is a link, which another one replaces: inotify has nothing to say of it. */
static void test_other_folder_behind_a_link(void)
{
	shell("rm -rf d && mkdir real d2 && ln -s real d");
	drop_in("a.yaml", VM("vm: \"name:a\"", "one.acme"));
	begin();
	CHECK(is("a", "one.acme"));
	shell("echo 'vms: [{ vm: \"name:a\", service: two.acme }]' > d2/a.yaml");
	shell("ln -s d2 link && mv -T link d");
	UNTIL(is("a", "two.acme"));
	drop_in("a.yaml", VM("vm: \"name:a\"", "three.acme"));
	UNTIL(is("a", "three.acme"));
	end();
}

/* As Kubernetes mounts a ConfigMap: a link into ..data, itself a link that is replaced. */
static void test_config_map(void)
{
	shell("cd d && mkdir ..1 && ln -s ..1 ..data && ln -s ..data/a.yaml a.yaml && "
	      "echo 'vms: [{ vm: \"name:a\", service: one.acme }]' > ..1/a.yaml");
	begin();
	CHECK(is("a", "one.acme"));
	shell("cd d && mkdir ..2 && echo 'vms: [{ vm: \"name:a\", service: two.acme }]' > "
	      "..2/a.yaml && echo 'vms: [{ vm: \"name:b\", service: b.acme }]' > ..2/b.yaml && "
	      "ln -s ..2 ..tmp && mv -T ..tmp ..data && rm -r ..1 && ln -s ..data/b.yaml b.yaml");
	UNTIL(is("a", "two.acme") && is("b", "b.acme"));
	shell("cd d && mkdir ..3 && echo 'vms: [{ vm: \"name:b\", service: c.acme }]' > "
	      "..3/b.yaml && ln -s ..3 ..tmp && mv -T ..tmp ..data && rm -r ..2 a.yaml");
	UNTIL(is("a", NULL) && is("b", "c.acme"));
	end();
}

static void test_precedence(void)
{
	struct vm_config own[] = {
		{ .vm = (char *)(uintptr_t) "name:a", .service = (char *)(uintptr_t) "own.acme" },
		{ .cid = (char *)(uintptr_t) "40-49", .service = (char *)(uintptr_t) "low.acme" },
	};

	config.vms = own;
	config.n_vms = 2;
	drop_in("2.yaml", VM("vm: \"name:a\"", "second.acme"));
	drop_in("1.yaml", "vms: [{ vm: \"name:a\", listener: other, service: no.acme },\n"
			  " { vm: \"name:a\", service: first.acme }, { vm: \"name:a\", service: "
			  "late.acme },\n"
			  " { cid: 42, port: 7, service: cid.acme }]\n");
	begin();
	CHECK(is("a", "first.acme"));
	CHECK_STR(of_cid(42, 7), "cid.acme");
	CHECK_STR(of_cid(42, 8), "low.acme");
	CHECK_STR(of_cid(40, 1), "low.acme");
	CHECK_STR(of_cid(49, 1), "low.acme");
	CHECK(!of_cid(50, 1) && !of_cid(39, 1));
	CHECK_INT(unlink(at("1.yaml")), 0);
	UNTIL(is("a", "second.acme"));
	CHECK_INT(unlink(at("2.yaml")), 0);
	UNTIL(is("a", "own.acme"));
	config.n_vms = 0;
	end();
}

static void test_keys(void)
{
	struct who who = { .peer = { .family = AF_INET }, .vm = "port:1080" };
	const char *unix_path = "/run/vms/a/com3";

	drop_in("a.yaml", "vms: [{ path: /run/vms/a/com3, service: path.acme },\n"
			  " { listener: tcp, port: 1080, service: port.acme },\n"
			  " { cid: 42, service: cid.acme }]\n");
	begin();
	CHECK_STR(vms_service(v, "tcp", &who, NULL, 1080), "port.acme");
	CHECK(!vms_service(v, "tcp", &who, NULL, 1081));
	CHECK(!vms_service(v, "tcp2", &who, NULL, 1080));
	CHECK_STR(vms_service(v, "serial", &who, unix_path, 0), "path.acme");
	CHECK(!vms_service(v, "serial", &who, "/run/vms/a/com", 0));
	CHECK_STR(of_cid(42, 1995), "cid.acme");
	/* an address that has the same number in the same place is no CID */
	who.peer.a = 42;
	CHECK(!vms_service(v, "tcp", &who, NULL, 1));
	/* nor is a pod's VM ours, because the pod gave it the same one */
	who.peer.family = AF_VSOCK;
	who.elsewhere = true;
	CHECK(!vms_service(v, "pod", &who, NULL, 1));
	drop_in("b.yaml", "vms: [{ listener: pod, cid: 42, service: pod.acme }]\n");
	UNTIL(changes);
	CHECK_STR(vms_service(v, "pod", &who, NULL, 1), "pod.acme");
	end();
}

static void test_listeners(void)
{
	drop_in("a.yaml", "listeners: [{ name: a1, address: \"unix:/x/a1\" }]\n");
	drop_in("b.yaml", "listeners: [{ name: b1, address: \"unix:/x/b1\" },\n"
			  " { name: b2, address: \"unix:/x/b2\" }]\n");
	begin();
	CHECK_INT(n_seen, 3);
	CHECK_STR(names[0], "a1");
	CHECK_STR(names[2], "b2");
	/* the old pointers of a file that is replaced, removed or kept: all good until told */
	drop_in("a.yaml", "listeners: [{ name: a2, address: \"unix:/x/a2\" }]\n");
	UNTIL(changes == 1);
	CHECK_INT(n_seen, 3);
	CHECK_STR(names[0], "a2");
	CHECK_INT(unlink(at("b.yaml")), 0);
	UNTIL(changes == 2);
	CHECK_INT(n_seen, 1);
	drop_in("a.yaml", "listeners: [{ name: taken, address: \"unix:/x/a2\" }]\n");
	UNTIL(changes == 3); /* wrong: a listener of the config's has this name */
	CHECK_INT(n_seen, 1);
	CHECK_STR(seen[0]->name, "a2");
	shell("rm -rf d");
	UNTIL(changes == 4);
	CHECK_INT(n_seen, 0);
	end();
}

/* Nothing but events that never end, and still it is read. */
static void test_busy_folder(void)
{
	begin();
	drop_in("a.yaml", VM("vm: \"name:a\"", "one.acme"));
	for (uint64_t overdue = now_ms() + WAIT_MS; !is("a", "one.acme");) {
		drop_in("other", "");
		turn(false);
		CHECK(now_ms() < overdue);
	}
	end();
}

static void test_without_folder(void)
{
	struct vm_config own = { .vm = (char *)(uintptr_t) "name:a",
				 .service = (char *)(uintptr_t) "own.acme" };

	config.vms_dir = NULL;
	config.vms = &own;
	config.n_vms = 1;
	begin();
	CHECK(is("a", "own.acme") && is("b", NULL));
	CHECK_INT(n_seen, 0);
	config.n_vms = 0;
	config.vms_dir = dir;
	end();
}

int main(void)
{
	struct entrance_config taken = {
		.name = (char *)(uintptr_t) "taken",
		.address = { .kind = ADDRESS_UNIX, .name = (char *)(uintptr_t) "/x/taken" },
	};

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	CHECK(mkdtemp(top));
	snprintf(dir, sizeof(dir), "%s/d", top);
	CHECK_INT(mkdir(dir, 0755), 0);
	config.vms_dir = dir;
	config.listeners = &taken;
	config.n_listeners = 1;
	loop_begin();
	test_there_at_start();
	test_come_and_go();
	test_wrong_then_right();
	test_wrong_over_a_reload();
	test_folder_comes_and_goes();
	test_other_folder_behind_a_link();
	test_config_map();
	test_precedence();
	test_keys();
	test_listeners();
	test_busy_folder();
	test_without_folder();
	loop_end();
	shell("rm -rf d d2 real");
	CHECK_INT(rmdir(top), 0);
	return 0;
}
