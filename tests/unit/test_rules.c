/* Rules: the first that holds decides; what is asked for and not known does not hold. */
#include <sys/socket.h>

#include "qgs-bridge/rules.h"
#include "qgs-bridge/who.h"
#include "tests/unit/check.h"

static struct who vsock_vm(uint32_t cid)
{
	struct who w = { .peer = { .family = AF_VSOCK, .a = cid },
			 .uid = UINT32_MAX,
			 .gid = UINT32_MAX };

	snprintf(w.vm, sizeof(w.vm), "cid:%u", cid);
	return w;
}

static struct who pod_vm(uint32_t uid)
{
	struct who w = { .peer = { .family = AF_UNIX, .a = 77, .b = uid },
			 .uid = uid,
			 .gid = 36,
			 .vm = "pod:1234",
			 .pod = "1234",
			 .label = "system_u:system_r:container_t:s0:c1,c2" };

	return w;
}

static char text_of[16][64]; /* rules have no const strings */
static unsigned texts;

static char *text(const char *t)
{
	char *copy = text_of[texts++ % 16];

	snprintf(copy, sizeof(text_of[0]), "%s", t);
	return copy;
}

static bool allow(struct rule_config *rules, size_t n, const char *listener, const struct who *who,
		  int line)
{
	struct bridge_config c = { .rules = rules, .n_rules = n };
	int decided = -1;
	bool yes;

	for (size_t i = 0; i < n; i++)
		rules[i].line = (int)i + 1;
	yes = rules_allow(&c, listener, who, &decided);
	CHECK_INT(decided, line);
	return yes;
}

static void test_none(void)
{
	struct rule_config nobody = { .action = RULE_DENY, .listener = text("other") };
	struct who w = vsock_vm(42);

	CHECK(allow(NULL, 0, "qgs", &w, 0));
	CHECK(!allow(&nobody, 1, "qgs", &w, 0)); /* rules, and none holds */
}

static void test_first_decides(void)
{
	struct rule_config rules[] = {
		{ .action = RULE_DENY, .cid = text("41") },
		{ .action = RULE_ALLOW, .cid = text("40-49"), .listener = text("qgs*") },
		{ .action = RULE_DENY, .cid = text("42") },
		{ .action = RULE_ALLOW, .listener = text("admin") },
	};
	struct who in = vsock_vm(42), denied = vsock_vm(41), out = vsock_vm(50);
	struct who unix_vm = pod_vm(0);

	CHECK(allow(rules, 4, "qgs-2", &in, 2));
	CHECK(!allow(rules, 4, "kbs", &in, 3));
	CHECK(!allow(rules, 4, "qgs-2", &denied, 1));
	CHECK(!allow(rules, 4, "qgs-2", &out, 0));
	CHECK(allow(rules, 4, "admin", &out, 4));
	CHECK(!allow(rules, 4, "qgs-2", &unix_vm, 0)); /* pid 77 is no CID */
	CHECK(allow(rules, 4, "admin", &unix_vm, 4));
}

/* One rule that asks for one thing: does it hold of w? */
static bool holds(struct rule_config rule, const struct who *w)
{
	struct bridge_config c = { .rules = &rule, .n_rules = 1 };
	int line;

	return rules_allow(&c, "qgs", w, &line);
}

static void test_each(void)
{
	struct who pod = pod_vm(107), vm = vsock_vm(42), name = vsock_vm(3);

	CHECK(holds((struct rule_config){ 0 }, &vm));
	CHECK(holds((struct rule_config){ .vm = text("cid:*") }, &vm));
	CHECK(!holds((struct rule_config){ .vm = text("cid:*") }, &pod));
	CHECK(holds((struct rule_config){ .vm = text("cid:4?") }, &vm));
	CHECK(!holds((struct rule_config){ .vm = text("cid:4") }, &vm));
	CHECK(holds((struct rule_config){ .uid = text("107") }, &pod));
	CHECK(holds((struct rule_config){ .uid = text("100-107") }, &pod));
	CHECK(!holds((struct rule_config){ .uid = text("108-110") }, &pod));
	CHECK(holds((struct rule_config){ .gid = text("36") }, &pod));
	CHECK(!holds((struct rule_config){ .gid = text("37") }, &pod));
	CHECK(holds((struct rule_config){ .pod = text("12*") }, &pod));
	CHECK(!holds((struct rule_config){ .pod = text("13*") }, &pod));
	CHECK(holds((struct rule_config){ .label = text("*:container_t:*") }, &pod));
	CHECK(!holds((struct rule_config){ .label = text("*:svirt_t:*") }, &pod));
	/* all of it must hold */
	CHECK(holds((struct rule_config){ .pod = text("1234"), .uid = text("107") }, &pod));
	CHECK(!holds((struct rule_config){ .pod = text("1234"), .uid = text("0") }, &pod));
	strcpy(name.domain, "guest-1");
	CHECK(holds((struct rule_config){ .domain = text("guest-*") }, &name));
	/* what is not known holds of nothing, not even '*' or every number */
	CHECK(!holds((struct rule_config){ .pod = text("*") }, &vm));
	CHECK(!holds((struct rule_config){ .domain = text("*") }, &vm));
	CHECK(!holds((struct rule_config){ .label = text("*") }, &vm));
	CHECK(!holds((struct rule_config){ .uid = text("0-4294967295") }, &vm));
	CHECK(!holds((struct rule_config){ .gid = text("0-4294967295") }, &vm));
	CHECK(!holds((struct rule_config){ .cid = text("0-4294967295") }, &pod));
}

/* Who has gone may be anybody: nothing is allowed by that, and what is denied is. */
static void test_gone(void)
{
	struct who w = { .peer = { .family = AF_UNIX, .a = 77 },
			 .uid = 107,
			 .gid = 36,
			 .vm = "pid:0",
			 .unsure = true };
	struct rule_config rules[] = { { .action = RULE_ALLOW, .pod = text("1234") },
				       { .action = RULE_DENY, .pod = text("evil") },
				       { .action = RULE_ALLOW } };
	struct rule_config by_vm[] = { { .action = RULE_DENY, .vm = text("domain:evil") },
				       { .action = RULE_ALLOW } };

	CHECK(!allow(rules, 3, "qgs", &w, 2));
	CHECK(!allow(by_vm, 2, "qgs", &w, 1));
	rules[1].uid = text("108"); /* which is known */
	CHECK(allow(rules, 3, "qgs", &w, 3));
	snprintf(w.vm, sizeof(w.vm), "name:vm-1"); /* so is this, by its folder */
	CHECK(allow(by_vm, 2, "qgs", &w, 2));
	w.unsure = false; /* it is in no pod */
	rules[1].uid = NULL;
	CHECK(allow(rules, 3, "qgs", &w, 3));
}

/* A pod with a network namespace of its own gives its VMs what CIDs it likes. */
static void test_elsewhere(void)
{
	struct who here = vsock_vm(42), there = vsock_vm(42);

	there.elsewhere = true;
	strcpy(there.vm, "cid:42@4026531840");
	CHECK(holds((struct rule_config){ .cid = text("42") }, &here));
	CHECK(!holds((struct rule_config){ .cid = text("42") }, &there));
	CHECK(!holds((struct rule_config){ .vm = text("cid:42") }, &there));
	CHECK(holds((struct rule_config){ .cid = text("42"), .listener = text("qgs") }, &there));
	CHECK(holds((struct rule_config){ 0 }, &there));
	CHECK(!allow((struct rule_config[]){ { .action = RULE_DENY, .cid = text("42") },
					     { .action = RULE_ALLOW } },
		     2, "qgs", &there, 1));
}

int main(void)
{
	test_none();
	test_first_decides();
	test_each();
	test_gone();
	test_elsewhere();
	return 0;
}
