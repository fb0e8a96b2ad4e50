/* figures: names known and unknown, how many there are, sums that never go down. */
#include "relay/figures.h"

#include <pthread.h>
#include <unistd.h>

#include "tests/unit/check.h"
#include "config/config.h"

static const struct figures_row *row(const struct figures_rows *rows, const char *name)
{
	for (size_t i = 0; i < rows->n; i++)
		if (strcmp(rows->at[i].name, name) == 0)
			return &rows->at[i];
	return NULL;
}

static uint64_t count(struct figures *f, enum figures_kind kind, const char *name,
		      enum figure_count which)
{
	struct figures_rows rows;
	uint64_t value;

	CHECK(figures_read(f, kind, &rows));
	CHECK(row(&rows, name));
	value = row(&rows, name)->value[which];
	figures_rows_deinit(&rows);
	return value;
}

static bool has(struct figures *f, enum figures_kind kind, const char *name)
{
	struct figures_rows rows;
	bool there;

	CHECK(figures_read(f, kind, &rows));
	there = row(&rows, name);
	figures_rows_deinit(&rows);
	return there;
}

/* Names, and the sum of what was counted under all of them. */
static size_t names(struct figures *f, enum figures_kind kind, uint64_t *streams)
{
	struct figures_rows rows;
	size_t n;

	CHECK(figures_read(f, kind, &rows));
	*streams = 0;
	n = rows.n;
	for (size_t i = 0; i < n; i++)
		*streams += rows.at[i].value[FIGURE_STREAMS];
	CHECK_STR(rows.at[n - 1].name, FIGURES_OTHER);
	figures_rows_deinit(&rows);
	return n - 1;
}

static struct relay_config *config_of(const char *text)
{
	struct config_errors errors = { 0 };
	char path[] = "/tmp/test-figures-XXXXXX";
	int fd = mkstemp(path);
	struct relay_config *c;
	FILE *out;

	CHECK(fd >= 0 && (out = fdopen(fd, "w")));
	CHECK(fputs(text, out) >= 0 && fclose(out) == 0);
	c = relay_config_load(path, &errors);
	config_errors_print(&errors, stderr);
	config_errors_deinit(&errors);
	unlink(path);
	CHECK(c);
	return c;
}

#define LISTENERS "listeners:\n- name: front\n  address: tcp:127.0.0.1:1\n  doors: [connect]\n"
#define OWNER(name)                            \
	"- name: " name "\n  tokens: [sha256:" \
	"00000000000000000000000000000000000000000000000000000000000000" name "]\n"

static void test_asking_makes_no_name(void)
{
	struct figures *f = figures_new(2);
	struct figure *a, *b;
	uint64_t streams;

	a = figures_of(f, FIGURES_SERVICES, "made-up.acme");
	CHECK(figure_is_other(a));
	figure_add(a, 0, FIGURE_STREAMS, 1);
	CHECK_INT(names(f, FIGURES_SERVICES, &streams), 0);
	CHECK_INT(streams, 1);
	CHECK_INT(names(f, FIGURES_OWNERS, &streams), 0);
	CHECK_INT(count(f, FIGURES_OWNERS, FIGURES_OTHER, FIGURE_STREAMS), 1);

	b = figures_offered(f, "kbs.acme");
	figure_put(a);
	a = figures_of(f, FIGURES_SERVICES, "kbs.acme");
	CHECK(a == b && !figure_is_other(a));
	figure_add(a, 0, FIGURE_STREAMS, 1);
	figure_add(a, 1, FIGURE_STREAMS, 2);
	figure_ended(a, 1, REASON_EOF);
	CHECK_INT(count(f, FIGURES_SERVICES, "kbs.acme", FIGURE_STREAMS), 3);
	CHECK_INT(count(f, FIGURES_OWNERS, "acme", FIGURE_STREAMS), 3);
	CHECK_INT(count(f, FIGURES_OWNERS, "acme", FIGURE_COUNTS + FIGURE_CLEAN), 1);
	figure_put(a);
	figure_put(b);

	/* of a known owner, but no service of it: the owner is known all the same */
	a = figures_of(f, FIGURES_SERVICES, "nobody.acme");
	CHECK(figure_is_other(a));
	figure_add(a, 0, FIGURE_UP, 7);
	figure_put(a);
	CHECK_INT(count(f, FIGURES_SERVICES, FIGURES_OTHER, FIGURE_UP), 7);
	CHECK_INT(count(f, FIGURES_OWNERS, "acme", FIGURE_UP), 7);
	figures_free(f);
}

static void test_one_owner_takes_no_more_than_its_part(void)
{
	struct figures *f = figures_new(1);
	struct figure *held[2 * FIGURES_OFFERED_MAX], *other;
	uint64_t streams;
	char name[64];

	for (unsigned i = 0; i < 2 * FIGURES_OFFERED_MAX; i++) {
		snprintf(name, sizeof(name), "s%u.greedy", i);
		held[i] = figures_offered(f, name);
		figure_add(held[i], 0, FIGURE_STREAMS, 1);
		CHECK_INT(figure_is_other(held[i]), i >= FIGURES_OFFERED_MAX);
	}
	CHECK_INT(names(f, FIGURES_SERVICES, &streams), FIGURES_OFFERED_MAX);
	CHECK_INT(streams, 2 * FIGURES_OFFERED_MAX);
	CHECK_INT(count(f, FIGURES_OWNERS, "greedy", FIGURE_STREAMS), 2 * FIGURES_OFFERED_MAX);
	other = figures_offered(f, "kbs.modest");
	CHECK(!figure_is_other(other));
	figure_put(other);
	for (unsigned i = 0; i < 2 * FIGURES_OFFERED_MAX; i++)
		figure_put(held[i]);
	figures_free(f);
}

/* Thousands come and go: as many names as there may be, and no sum goes down. */
static void test_names_come_and_go(void)
{
	struct figures *f = figures_new(3);
	struct figure *kept = figures_offered(f, "kept.owner0");
	uint64_t streams, before = 0, made = 0;
	char name[64];

	for (unsigned i = 0; i < 6000; i++) {
		struct figure *at;

		snprintf(name, sizeof(name), "s%u.owner%u", i, i % 2000);
		at = figures_offered(f, name);
		figure_add(at, i % 3, FIGURE_STREAMS, 1);
		made++;
		figure_put(at);
		if (i % 100)
			continue;
		CHECK(names(f, FIGURES_SERVICES, &streams) <= FIGURES_MAX);
		CHECK_INT(streams, made);
		CHECK(streams >= before);
		before = streams;
		CHECK(names(f, FIGURES_OWNERS, &streams) <= FIGURES_MAX);
		CHECK_INT(streams, made);
	}
	CHECK(has(f, FIGURES_SERVICES, "kept.owner0"));
	CHECK(has(f, FIGURES_SERVICES, name)); /* the last */
	CHECK(!has(f, FIGURES_SERVICES, "s1.owner1"));
	figure_put(kept);
	figures_free(f);
}

static void test_config(void)
{
	struct relay_config *c =
		config_of(LISTENERS "owners:\n" OWNER("aa") "  services: [kbs]\n" OWNER(
			"bb") "services:\n- name: static.aa\n  targets: [tcp:127.0.0.1:2]\n");
	struct relay_config *less = config_of(LISTENERS "owners:\n" OWNER("bb"));
	struct figures *f = figures_new(1);
	struct figures_rows rows;
	struct figure *at;
	char name[64];

	CHECK(figures_declare(f, c));
	CHECK(figures_read(f, FIGURES_SERVICES, &rows));
	CHECK_INT(rows.n, 3);
	CHECK(row(&rows, "kbs.aa")->offered);
	CHECK(!row(&rows, "static.aa")->offered);
	figures_rows_deinit(&rows);
	CHECK(has(f, FIGURES_LISTENERS, "front"));
	CHECK(has(f, FIGURES_OWNERS, "bb"));
	at = figures_of(f, FIGURES_LISTENERS, "front");
	figure_add(at, 0, FIGURE_ACCEPTED, 1);
	figure_ended(at, 0, REASON_PENALTY);
	figure_put(at);
	CHECK_INT(count(f, FIGURES_LISTENERS, "front", FIGURE_COUNTS + (int)REASON_PENALTY), 1);

	CHECK(figures_declare(f, less)); /* there for as long as there is room */
	CHECK(has(f, FIGURES_SERVICES, "static.aa"));
	for (unsigned i = 0; i < FIGURES_MAX + 8; i++) {
		snprintf(name, sizeof(name), "x.o%u", i);
		figure_put(figures_offered(f, name));
	}
	CHECK(!has(f, FIGURES_SERVICES, "static.aa"));
	CHECK(!has(f, FIGURES_OWNERS, "aa"));
	CHECK(has(f, FIGURES_OWNERS, "bb"));
	figures_free(f);
	relay_config_unref(c);
	relay_config_unref(less);
}

static void test_every_reason_has_a_class(void)
{
	for (unsigned i = 0; i < REASONS; i++)
		CHECK(figure_class_word(figure_class_of(i)));
	CHECK_STR(figure_class_word(figure_class_of(REASON_PICKUP_TIMEOUT)), "no-tunnel");
	CHECK_STR(figure_class_word(figure_class_of(REASON_EOF)), "clean");
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		if (reason_is_clean(i))
			CHECK_INT(figure_class_of(i), FIGURE_CLEAN);
}

/* ---- several workers, and a reader ---- */

enum { WORKERS = 4, ROUNDS = 20000 };

struct one {
	struct figures *figures;
	unsigned worker;
};

static void *work(void *arg)
{
	const struct one *o = arg;
	char name[64];

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct figure *f;

		snprintf(name, sizeof(name), "s%u.o%u", i % 3000, i % 1500);
		f = i % 2 ? figures_offered(o->figures, name)
			  : figures_of(o->figures, FIGURES_SERVICES, name);
		figure_add(f, o->worker, FIGURE_STREAMS, 1);
		figure_put(f);
	}
	return NULL;
}

static void test_threads(void)
{
	struct figures *f = figures_new(WORKERS);
	struct one one[WORKERS];
	pthread_t thread[WORKERS];
	uint64_t streams = 0, before = 0;

	for (unsigned i = 0; i < WORKERS; i++) {
		one[i] = (struct one){ f, i };
		CHECK(pthread_create(&thread[i], NULL, work, &one[i]) == 0);
	}
	for (unsigned i = 0; i < 50; i++, before = streams) {
		CHECK(names(f, FIGURES_SERVICES, &streams) <= FIGURES_MAX);
		CHECK(streams >= before);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	names(f, FIGURES_SERVICES, &streams);
	CHECK_INT(streams, (long long)WORKERS * ROUNDS);
	names(f, FIGURES_OWNERS, &streams);
	CHECK_INT(streams, (long long)WORKERS * ROUNDS);
	figures_free(f);
}

int main(void)
{
	test_asking_makes_no_name();
	test_one_owner_takes_no_more_than_its_part();
	test_names_come_and_go();
	test_config();
	test_every_reason_has_a_class();
	test_threads();
	return 0;
}
