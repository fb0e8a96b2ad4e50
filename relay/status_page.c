/*
 * status_page: the relay's state as a web page, by HTTP.
 *
 * Theory of operation: each request for the page gathers a view, has it written as a whole and
 * frees it; there is nothing in between to get old. The script fetches the same page again and puts
 * what differs in its place, so there is no second way in which anything is shown.
 *
 * What a browser may load and send is said in a Content-Security-Policy: nothing but the page's own
 * style sheet and script. These are part of the program and known by their hash.
 */
#include "relay/status_page.h"

#include <event2/buffer.h>
#include <json-c/json_object.h>
#include <stdlib.h>
#include <string.h>

#include "relay/admin.h"
#include "relay/daemon.h"
#include "relay/gateway.h"
#include "relay/history_json.h"
#include "relay/page_files.h"
#include "relay/status_view.h"
#include "relay/status_write.h"

#define FILTER_MAX 130 /* a service's name */

/* As that of all answers, but for its form, and its icon, which is none. */
static const char policy[] =
	"default-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; "
	"frame-ancestors 'none'; object-src 'none'";

void status_page_html(struct admin_request *r, void *daemon)
{
	const char *filter = admin_query(r, "filter");
	struct evbuffer *out = evbuffer_new();
	struct status_view *v;

	filter = filter && strlen(filter) <= FILTER_MAX ? filter : "";
	v = out ? status_view_new(daemon_gateway(daemon), filter) : NULL;
	if (!v) {
		admin_fail(r, 500, "no-memory", "out of memory");
	} else {
		status_write(out, v);
		admin_reply_header(r, "Content-Security-Policy", policy);
		admin_reply_header(r, "Cache-Control", "no-store");
		admin_reply(r, 200, "text/html; charset=utf-8", out);
	}
	status_view_free(v);
	if (out)
		evbuffer_free(out);
}

/* What is part of the program. */
static void reply_file(struct admin_request *r, const struct page_file *f)
{
	const char *had = admin_header(r, "If-None-Match");
	struct evbuffer *out;

	admin_reply_header(r, "ETag", f->etag);
	/* asked for each time, and the answer is a line: a new version is there at once */
	admin_reply_header(r, "Cache-Control", "no-cache");
	if (had && strstr(had, f->etag)) {
		admin_reply(r, 304, NULL, NULL);
		return;
	}
	out = evbuffer_new();
	if (!out || evbuffer_add_reference(out, f->text, f->len, NULL, NULL) < 0)
		admin_fail(r, 500, "no-memory", "out of memory");
	else
		admin_reply(r, 200, f->type, out);
	if (out)
		evbuffer_free(out);
}

void status_page_css(struct admin_request *r, void *daemon)
{
	reply_file(r, &page_status_css);
}

void status_page_js(struct admin_request *r, void *daemon)
{
	reply_file(r, &page_status_js);
}

void status_page_history(struct admin_request *r, void *daemon)
{
	const struct gateway *g = daemon_gateway(daemon);

	if (g->history)
		admin_reply_json(r, 200, history_json(g->history));
	else
		admin_fail(r, 404, "no-history", "no history is kept");
}
