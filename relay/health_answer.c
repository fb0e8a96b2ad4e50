/*
 * health_answer: what a probe is told.
 *
 * Theory of operation: nothing is kept between probes, and an answer is not to be kept either.
 */
#include "relay/health_answer.h"

#include <event2/buffer.h>

#include "relay/admin.h"

static const char type[] = "text/plain; charset=utf-8";

static void put_each(struct evbuffer *out, const char *what, const struct health_check *checks,
		     size_t n, bool good)
{
	for (size_t i = 0; i < n; i++)
		if (checks[i].good)
			evbuffer_add_printf(out, "[+]%s ok\n", checks[i].name);
		else
			evbuffer_add_printf(out, "[-]%s failed: %s\n", checks[i].name,
					    checks[i].why);
	evbuffer_add_printf(out, "%s check %s\n", what, good ? "passed" : "failed");
}

bool health_answer_write(struct evbuffer *out, const char *what, const struct health_check *checks,
			 size_t n, bool verbose)
{
	const struct health_check *bad = NULL;

	for (size_t i = 0; i < n && !bad; i++)
		if (!checks[i].good)
			bad = &checks[i];
	if (verbose)
		put_each(out, what, checks, n, !bad);
	else if (bad)
		evbuffer_add_printf(out, "%s: %s\n", bad->name, bad->why);
	else
		evbuffer_add_printf(out, "ok\n");
	return !bad;
}

static void reply(struct admin_request *r, int status, struct evbuffer *out)
{
	admin_reply_header(r, "Cache-Control", "no-store");
	admin_reply(r, status, out ? type : NULL, out);
}

void health_answer(struct admin_request *r, const char *what, const struct health_check *checks,
		   size_t n)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		reply(r, 503, NULL);
		return;
	}
	reply(r, health_answer_write(out, what, checks, n, admin_query(r, "verbose")) ? 200 : 503,
	      out);
	evbuffer_free(out);
}

void health_answer_line(struct admin_request *r, int status, const char *line)
{
	struct evbuffer *out = evbuffer_new();

	if (out)
		evbuffer_add_printf(out, "%s\n", line);
	reply(r, status, out);
	if (out)
		evbuffer_free(out);
}
