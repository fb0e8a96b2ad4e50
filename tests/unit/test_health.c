/*
 * Which targets are tried first: after failed dials, trials, and checks; from several threads; and
 * what the config says of checks.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "relay/health.h"
#include "tests/unit/check.h"

#define BEGIN "listeners: [{name: a, address: \"tcp:127.0.0.1:1\", doors: [sni]}]\nservices:\n"

static const char text[] =
	BEGIN "- {name: kbs.acme, targets: [\"tcp:10.0.0.1:1\", \"tcp:10.0.0.2:1\"]}\n"
	      "- {name: tang.acme, targets: [\"unix:/run/x\"], check: {kind: tls, every: 200ms,\n"
	      "   server_name: Tang.Example}}\n";

static struct relay_config *config;
static const struct service_config *kbs, *tang;
static struct health *kbs_health, *tang_health;

static void begin(void)
{
	kbs_health = health_new(kbs, NULL);
	tang_health = health_new(tang, NULL);
	CHECK(kbs_health && tang_health);
}

static void end(void)
{
	health_free(kbs_health);
	health_free(tang_health);
}

static void failed(size_t target, uint64_t now)
{
	health_tried(kbs_health, target, false, "refused", now);
}

static void good(size_t target, uint64_t now)
{
	health_tried(kbs_health, target, true, NULL, now);
}

static void test_dials(void)
{
	uint64_t now = 1000, wait = HEALTH_WAIT_MS;

	begin();
	CHECK(health_admits(kbs_health, 0, now) && health_is_up(kbs_health, 0));
	failed(0, now);
	failed(0, now + 1); /* of the same moment */
	CHECK(!health_is_up(kbs_health, 0));
	CHECK(health_is_up(kbs_health, 1) && health_is_up(tang_health, 0)); /* each by itself */
	CHECK(health_admits(kbs_health, 1, now) && health_admits(tang_health, 0, now));
	for (unsigned i = 0; i < 5; i++) {
		CHECK(!health_admits(kbs_health, 0, now));
		CHECK(!health_admits(kbs_health, 0, now + wait - 1));
		CHECK(!health_may_answer(kbs_health, 0, now + wait - 1));
		now += wait;
		CHECK(health_may_answer(kbs_health, 0, now)); /* looking takes no trial */
		CHECK(health_admits(kbs_health, 0, now));     /* one */
		CHECK(!health_admits(kbs_health, 0, now));
		CHECK(!health_is_up(kbs_health, 0) && !health_may_answer(kbs_health, 0, now));
		wait = wait * 2 < HEALTH_WAIT_MAX_MS ? wait * 2 : HEALTH_WAIT_MAX_MS;
		failed(0, now + 1);
	}
	CHECK_INT(wait, HEALTH_WAIT_MAX_MS);
	good(0, now);
	CHECK(health_admits(kbs_health, 0, now) && health_is_up(kbs_health, 0));
	failed(0, now); /* from the start */
	CHECK(!health_admits(kbs_health, 0, now + HEALTH_WAIT_MS - 1));
	CHECK(health_admits(kbs_health, 0, now + HEALTH_WAIT_MS));
	end();
}

static void test_checks(void)
{
	begin();
	health_probed(kbs_health, 0, false, "the TLS handshake failed");
	CHECK(!health_admits(kbs_health, 0, 1000) && !health_is_up(kbs_health, 0));
	good(0, 1000); /* it connects, but that is not all */
	CHECK(!health_admits(kbs_health, 0, 1000) && !health_is_up(kbs_health, 0));
	CHECK(!health_may_answer(kbs_health, 0, UINT64_MAX) && health_may_answer(kbs_health, 1, 0));
	CHECK(health_is_up(kbs_health, 1));
	failed(0, 1000);
	health_probed(kbs_health, 0, true, NULL); /* forgives that too */
	CHECK(health_admits(kbs_health, 0, 1001) && health_is_up(kbs_health, 0));
	failed(0, 1002); /* between two checks */
	CHECK(!health_admits(kbs_health, 0, 1003));
	end();
}

/* Of many who come at once when its time is over, one tries. */
static atomic_uint trials;

static void *come(void *arg)
{
	for (unsigned i = 0; i < 1000; i++)
		if (health_admits(kbs_health, 0, HEALTH_WAIT_MS + 1))
			atomic_fetch_add(&trials, 1);
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[4];

	begin();
	failed(0, 1);
	for (unsigned i = 0; i < 4; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, come, NULL), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_INT(atomic_load(&trials), 1);
	end();
}

/* A reload: what is known of a target that stays is known on both sides, unless it is checked
 * in another way. */
static void test_reload(void)
{
	static const char later[] =
		BEGIN "- {name: kbs.acme, targets: [\"tcp:10.0.0.3:1\", \"tcp:10.0.0.1:1\"]}\n"
		      "- {name: tang.acme, targets: [\"unix:/run/x\"]}\n";
	struct config_errors e = { 0 };
	struct relay_config *c = relay_config_parse("r.yaml", later, strlen(later), &e);
	struct health *kbs_now, *tang_now;

	CHECK(c);
	begin();
	failed(0, 1000);
	failed(1, 1000);
	health_probed(tang_health, 0, false, "no");
	kbs_now = health_new(&c->services[0], kbs_health);
	tang_now = health_new(&c->services[1], tang_health);
	CHECK(kbs_now && tang_now);
	CHECK(health_is_up(kbs_now, 0) && !health_is_up(kbs_now, 1));
	CHECK(health_is_up(tang_now, 0));
	good(0, 1000); /* of a stream that began before */
	CHECK(health_is_up(kbs_now, 1));
	health_tried(kbs_now, 1, false, "refused", 2000);
	CHECK(!health_is_up(kbs_health, 0));
	end();
	CHECK(!health_is_up(kbs_now, 1));
	health_free(kbs_now);
	health_free(tang_now);
	relay_config_unref(c);
}

static void refuses(const char *service, const char *why)
{
	struct config_errors e = { 0 };
	char all[1024];

	snprintf(all, sizeof(all), BEGIN "%s\n", service);
	CHECK(!relay_config_parse("r.yaml", all, strlen(all), &e));
	CHECK_INT(e.n, 1);
	if (!strstr(e.at[0], why))
		fprintf(stderr, "%s\n", e.at[0]);
	CHECK(strstr(e.at[0], why));
	config_errors_deinit(&e);
}

static void test_config(void)
{
	CHECK_INT(kbs->check.kind, CHECK_NONE);
	CHECK_INT(kbs->check.every, 5000);
	CHECK_INT(kbs->balance, BALANCE_PRIMARY);
	CHECK_INT(tang->check.kind, CHECK_TLS);
	CHECK_INT(tang->check.every, 200);
	CHECK_STR(tang->check.server_name, "tang.example");
	refuses("- {name: a.b, targets: [\"tcp:[::1]:1\"], check: {kind: tcp, server_name: x.y}}",
		"r.yaml:3:48: check: server_name is only for a check of TLS");
	refuses("- {name: a.b, targets: [\"tcp:[::1]:1\"], check: {kind: ping}}", "kind");
	refuses("- {name: a.b, targets: [\"tcp:[::1]:1\"], check: {every: 1ms}}", "every");
	refuses("- {name: a.b, targets: [\"tcp:[::1]:1\"], balance: random}", "balance");
}

int main(void)
{
	struct config_errors e = { 0 };

	config = relay_config_parse("r.yaml", text, strlen(text), &e);
	config_errors_print(&e, stderr);
	CHECK(config);
	kbs = &config->services[0];
	tang = &config->services[1];
	test_dials();
	test_checks();
	test_threads();
	test_reload();
	test_config();
	relay_config_unref(config);
	return 0;
}
