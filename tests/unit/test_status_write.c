/*
 * status_write: the page of views that are made by hand. With a name as its argument it prints that
 * page, for check_page.py and for eyes.
 */
#include "relay/status_write.h"

#include <event2/buffer.h>
#include <stdbool.h>
#include <stdint.h>

#include "relay/history.h"
#include "relay/quota.h"
#include "relay/status_view.h"

#include "tests/unit/check.h"

#define PAGE_MAX 60000          /* of a usual relay with an hour of traffic */
#define PAGE_LARGEST_MAX 400000 /* whatever there is */
#define HOSTILE "</bdi><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&#0;\x01\xff"
#define NOW 1790000000

struct page {
	struct status_view view;
	struct status_service services[STATUS_SERVICES_MAX];
	struct status_owner owners[STATUS_OWNERS_MAX];
	char names[STATUS_SERVICES_MAX][160];
};

/* An hour in which there is something new in every step. */
static struct history *busy_hour(void)
{
	struct history *h = history_new();
	struct history_totals t = { 0 };
	uint64_t x = 12345;

	for (uint64_t slot = 1000; slot <= 1000 + HISTORY_SAMPLES; slot++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		t.bytes_up += (x >> 33) % 90000000;
		t.bytes_down += (x >> 23) % 900000000;
		t.streams += (x >> 40) % 3000;
		t.live_streams = (x >> 50) % 500;
		t.live_parked = (x >> 55) % 9;
		t.live_tunnels = 3 + (x >> 60) % 3;
		t.ends[REASON_EOF] += (x >> 40) % 3000;
		for (unsigned i = REASON_RESET; i < REASONS; i += 3)
			t.refusals[i] += (x >> i) % 50;
		if (slot < 1100 || slot > 1120) /* the machine slept */
			history_feed(h, slot * HISTORY_STEP_MS, &t);
	}
	return h;
}

static void add_problem(struct problems *p, enum problem_severity severity, const char *what)
{
	struct problem *to = &p->at[p->n++];

	to->severity = severity;
	to->code = "service-down";
	snprintf(to->what, sizeof(to->what), "%s", what);
	snprintf(to->advice, sizeof(to->advice), "See whether %s runs.", what);
}

static struct page *page_new(struct history *h)
{
	struct page *p = calloc(1, sizeof(*p));

	CHECK(p);
	p->view = (struct status_view){
		.now = NOW,
		.history_now = (uint64_t)(1000 + HISTORY_SAMPLES) * HISTORY_STEP_MS + 400,
		.began = 1000,
		.workers = 2,
		.history = h,
		.filter = "",
		.services = p->services,
		.owners = p->owners,
	};
	p->view.limits[p->view.n_limits++] =
		(struct status_limit){ "Memory for unread bytes", "limits.memory",
				       (uint64_t)900 << 20, (uint64_t)1 << 30, true };
	p->view.limits[p->view.n_limits++] =
		(struct status_limit){ "Sources blocked now", "penalties", 0, QUOTA_NO_LIMIT, 0 };
	return p;
}

static void fill(struct page *p, size_t services, size_t owners, const char *first,
		 const char *last)
{
	for (size_t i = 0; i < services; i++) {
		struct status_service *s = &p->services[p->view.n_services++];

		snprintf(p->names[i], sizeof(p->names[i]), "%s%03zu%s", first, i, last);
		*s = (struct status_service){
			.name = p->names[i],
			.known = true,
			.expected = i % 4 != 3,
			.reach = { .by_tunnel = true, .tunnels = i % 3, .targets = i % 2 },
			.live = i,
			.streams = i * 1000,
			.up = i * 1234567,
			.down = i * 7654321,
		};
	}
	for (size_t i = 0; i < owners; i++)
		p->owners[p->view.n_owners++] = (struct status_owner){
			.name = p->names[i],
			.tunnels = i % 17,
			.most_tunnels = 16,
			.most_streams = 8192,
			.most_parked = 512,
			.memory = i * 1000000,
			.most_memory = QUOTA_NO_LIMIT,
		};
}

/* NULL: there is no page of this name. */
static struct page *page_of(const char *name, struct history *busy)
{
	struct page *p;

	if (strcmp(name, "empty") == 0) {
		p = page_new(NULL);
		p->view.draining = true;
		p->view.n_limits = 0;
	} else if (strcmp(name, "three") == 0) {
		p = page_new(busy);
		fill(p, 3, 2, "kbs-", ".acme");
		add_problem(&p->view.problems, PROBLEM_CRITICAL, "kbs-0.acme");
		add_problem(&p->view.problems, PROBLEM_WARNING, "The certificate");
		add_problem(&p->view.problems, PROBLEM_NOTICE, "The relay");
	} else if (strcmp(name, "hostile") == 0) {
		p = page_new(busy);
		fill(p, 3, 2, HOSTILE, HOSTILE);
		p->view.filter = HOSTILE;
		add_problem(&p->view.problems, PROBLEM_CRITICAL, HOSTILE);
	} else if (strcmp(name, "many") == 0) {
		p = page_new(busy);
		fill(p, STATUS_SERVICES_MAX, STATUS_OWNERS_MAX,
		     "a-service-with-a-name-as-long-as-any-that-could-be-configured-",
		     ".an-owner-with-a-name-as-long-as-any-other-owner-there-may-be-x");
		p->view.more_services = 7;
		p->view.more_owners = 7;
		while (p->view.problems.n < PROBLEMS_MAX)
			add_problem(&p->view.problems, PROBLEM_WARNING, p->names[0]);
		p->view.problems.more = 3;
	} else {
		return NULL;
	}
	return p;
}

/* To be freed. */
static char *write_page(const char *name, struct history *busy)
{
	struct page *p = page_of(name, busy);
	struct evbuffer *out = evbuffer_new();
	size_t len;
	char *text;

	CHECK(p && out);
	status_write(out, &p->view);
	len = evbuffer_get_length(out);
	text = malloc(len + 1);
	CHECK(text);
	CHECK(evbuffer_remove(out, text, len) == (int)len);
	text[len] = '\0';
	evbuffer_free(out);
	free(p);
	return text;
}

static void sizes(struct history *busy)
{
	char *text = write_page("three", busy);

	CHECK(strlen(text) < PAGE_MAX);
	free(text);
	text = write_page("many", busy);
	CHECK(strlen(text) < PAGE_LARGEST_MAX);
	CHECK(strstr(text, "7 further services"));
	CHECK(strstr(text, "7 further owners"));
	CHECK(strstr(text, "3 further ones"));
	free(text);
}

static void names_are_text(struct history *busy)
{
	char *text = write_page("hostile", busy);

	CHECK(!strstr(text, "<script>"));
	CHECK(!strstr(text, "<img"));
	CHECK(!strstr(text, "\"'>"));
	CHECK(strstr(text, "&lt;/bdi&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&gt;"));
	free(text);
}

static void words_say_it(struct history *busy)
{
	char *text = write_page("empty", busy);

	CHECK(strstr(text, "draining"));
	CHECK(strstr(text, "None."));
	CHECK(strstr(text, "No history is kept."));
	free(text);
	text = write_page("three", busy);
	CHECK(strstr(text, "running"));
	CHECK(strstr(text, "<title>(3) attest-relay</title>"));
	CHECK(strstr(text, "unreachable"));
	CHECK(strstr(text, "nearly all"));
	CHECK(strstr(text, "not known")); /* a row of the hour in which it slept */
	CHECK(strstr(text, "900\u00a0MiB of 1.0\u00a0GiB"));
	free(text);
}

int main(int argc, char **argv)
{
	struct history *busy = busy_hour();

	if (argc > 1) {
		char *text = write_page(argv[1], busy);

		fputs(text, stdout);
		free(text);
	} else {
		sizes(busy);
		names_are_text(busy);
		words_say_it(busy);
	}
	history_free(busy);
	return 0;
}
