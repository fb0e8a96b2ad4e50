/*
 * status_write: the status page, section by section.
 *
 * Theory of operation: what is wrong comes first, then what clients can reach, then the last hour,
 * then who uses how much. A state is said in a word with a sign before it; colours only repeat it.
 * Tables that may be wider than a screen scroll by themselves, by keyboard, too. All that comes
 * from configs and agents goes through html_text.
 */
#include "relay/status_write.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdio.h>

#include "relay/html.h"
#include "relay/quota.h"
#include "relay/status_hour.h"
#include "relay/status_view.h"

#define NEARLY 0.8 /* of a limit: said so, as in problems */

static void put_cell(struct evbuffer *out, const char *text)
{
	html_raw(out, "<td>");
	html_text(out, text);
	html_raw(out, "</td>");
}

static void put_count(struct evbuffer *out, uint64_t n)
{
	char buf[HTML_NUMBER_MAX];

	put_cell(out, html_count(buf, n));
}

static void put_name(struct evbuffer *out, const char *name)
{
	html_raw(out, "<tr><th scope=\"row\"><bdi>");
	html_text(out, name);
	html_raw(out, "</bdi></th>");
}

/* id: of the section; its heading names the part that scrolls. */
static void begin_table(struct evbuffer *out, const char *id, const char *head)
{
	html_format(out,
		    "<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
		    "aria-labelledby=\"%s-title\"><table><thead><tr>",
		    id);
	html_raw(out, head);
	html_raw(out, "</tr></thead><tbody>");
}

static void end_table(struct evbuffer *out)
{
	html_raw(out, "</tbody></table></div>");
}

static void begin_section(struct evbuffer *out, const char *id, const char *title)
{
	html_format(out, "<section id=\"%s\" aria-labelledby=\"%s-title\"><h2 id=\"%s-title\">%s",
		    id, id, id, title);
}

/* ---- the head ---- */

static void put_fact(struct evbuffer *out, const char *name, uint64_t n)
{
	char buf[HTML_NUMBER_MAX];

	html_format(out, "<div><dt>%s</dt><dd>", name);
	html_text(out, html_count(buf, n));
	html_raw(out, "</dd></div>");
}

static void put_facts(struct evbuffer *out, const struct status_view *v)
{
	char buf[HTML_NUMBER_MAX];

	html_raw(out, "<dl class=\"facts\">");
	put_fact(out, "Streams", v->live);
	put_fact(out, "Parked", v->parked);
	put_fact(out, "Tunnels", v->tunnels);
	put_fact(out, "Connections", v->connections);
	html_raw(out, "<div><dt>Up for</dt><dd>");
	if (v->began)
		html_time(out, v->now - (v->history_now - v->began) / 1000,
			  html_duration(buf, v->history_now - v->began));
	else
		html_raw(out, "\u2013");
	html_raw(out, "</dd></div>");
	put_fact(out, "Reloads", v->reloads);
	put_fact(out, "Workers", v->workers);
	html_raw(out, "<div><dt>Version</dt><dd>" VERSION "</dd></div></dl>");
}

static void put_head(struct evbuffer *out, const struct status_view *v)
{
	size_t n = v->problems.n + v->problems.more;

	html_raw(out, "<!DOCTYPE html>\n"
		      "<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
		      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
		      "<meta name=\"color-scheme\" content=\"light dark\"/><title>");
	if (n)
		html_format(out, "(%zu) ", n);
	html_raw(out, "attest-relay</title><link rel=\"icon\" href=\"data:,\"/>"
		      "<link rel=\"stylesheet\" href=\"status.css\"/>"
		      "<script src=\"status.js\" defer=\"defer\"></script></head><body>"
		      "<header><h1>attest-relay</h1>");
	html_raw(out, v->draining ? "<p class=\"state warning\">\u26a0 draining</p>"
				  : "<p class=\"state good\">\u2713 running</p>");
	html_raw(out, "<p id=\"asof\">As of ");
	html_time(out, v->now, NULL);
	html_raw(out, " UTC</p><div id=\"live\"></div>"
		      "<noscript><p>Reload the page for newer values.</p></noscript>");
	put_facts(out, v);
	html_raw(out, "</header><main>");
}

/* ---- problems ---- */

static void put_problems(struct evbuffer *out, const struct status_view *v)
{
	static const char *const sign[PROBLEM_SEVERITIES] = { "\u2717", "\u26a0", "\u2139" };
	const struct problems *p = &v->problems;

	begin_section(out, "problems", "Problems</h2>");
	if (!p->n)
		html_raw(out, "<p class=\"good\">\u2713 None.</p>");
	else
		html_raw(out, "<ul class=\"problems\">");
	for (size_t i = 0; i < p->n; i++) {
		const char *word = problem_severity_word(p->at[i].severity);

		html_format(out, "<li class=\"%s\"><strong>%s %s</strong> <span><bdi>", word,
			    sign[p->at[i].severity], word);
		html_text(out, p->at[i].what);
		html_raw(out, "</bdi> <em>");
		html_text(out, p->at[i].advice);
		html_raw(out, "</em></span></li>");
	}
	if (p->n)
		html_raw(out, "</ul>");
	if (p->more)
		html_format(out, "<p>%zu further ones.</p>", p->more);
	html_raw(out, "</section>");
}

/* ---- services ---- */

static void put_filter(struct evbuffer *out, const struct status_view *v)
{
	html_raw(out, "<form method=\"get\" action=\"./\" role=\"search\">"
		      "<label for=\"filter\">Services and owners with</label> "
		      "<input id=\"filter\" name=\"filter\" maxlength=\"130\" "
		      "spellcheck=\"false\" autocapitalize=\"none\" value=\"");
	html_text(out, v->filter);
	html_raw(out, "\"/> <button>Filter</button>");
	if (*v->filter)
		html_raw(out, " <a href=\"./\">Show all</a>");
	html_raw(out, "</form>");
}

static void put_state(struct evbuffer *out, const struct status_service *s)
{
	const char *state =
		!s->known ? "quiet\">\u2013 not offered any more"
		: !reach_is_good(&s->reach)
			? s->expected ? "critical\">\u2717 unreachable" : "quiet\">\u2013 no tunnel"
		: s->reach.live < s->reach.targets ? "warning\">\u26a0 partly"
						   : "good\">\u2713 reachable";

	html_format(out, "<td class=\"text\"><span class=\"%s</span></td>", state);
}

static void put_ways(struct evbuffer *out, const struct reach *r)
{
	if (r->by_tunnel)
		html_format(out, "<td>%zu</td>", r->tunnels);
	else
		html_raw(out, "<td>\u2013</td>");
	if (r->targets)
		html_format(out, "<td>%zu of %zu</td>", r->live, r->targets);
	else
		html_raw(out, "<td>\u2013</td>");
}

static void put_services(struct evbuffer *out, const struct status_view *v)
{
	char buf[HTML_NUMBER_MAX];

	begin_section(out, "services", "Services");
	html_format(out, " <small>%zu</small></h2>", v->n_services + v->more_services);
	put_filter(out, v);
	if (!v->n_services) {
		html_raw(out, "<p>None that the config names or a tunnel offers.</p></section>");
		return;
	}
	begin_table(out, "services",
		    "<th scope=\"col\">Service</th><th scope=\"col\" class=\"text\">State</th>"
		    "<th scope=\"col\">Tunnels</th><th scope=\"col\">Addresses up</th>"
		    "<th scope=\"col\">Streams</th><th scope=\"col\">Parked</th>"
		    "<th scope=\"col\">Since start</th><th scope=\"col\">To service</th>"
		    "<th scope=\"col\">To clients</th>");
	for (size_t i = 0; i < v->n_services; i++) {
		const struct status_service *s = &v->services[i];

		put_name(out, s->name);
		put_state(out, s);
		put_ways(out, &s->reach);
		put_count(out, s->live);
		put_count(out, s->parked);
		put_count(out, s->streams);
		put_cell(out, html_bytes(buf, (double)s->up));
		put_cell(out, html_bytes(buf, (double)s->down));
		html_raw(out, "</tr>");
	}
	end_table(out);
	if (v->more_services)
		html_format(out, "<p>%zu further services: use the filter.</p>", v->more_services);
	html_raw(out, "</section>");
}

/* ---- who uses how much ---- */

/* "12 of 16", and said in a word when that is much. */
static void put_use(struct evbuffer *out, uint64_t used, uint64_t most, bool bytes)
{
	char a[HTML_NUMBER_MAX], b[HTML_NUMBER_MAX];
	bool limited = most != QUOTA_NO_LIMIT && most > 0;
	bool much = limited && used && (double)used >= (double)most * NEARLY;

	html_format(out, "<td%s>", much ? " class=\"much\"" : "");
	html_text(out, bytes ? html_memory(a, used) : html_count(a, used));
	if (limited) {
		html_raw(out, " of ");
		html_text(out, bytes ? html_memory(b, most) : html_count(b, most));
	}
	if (much)
		html_raw(out, used >= most ? " \u2717 all" : " \u26a0 nearly all");
	html_raw(out, "</td>");
}

static void put_owners(struct evbuffer *out, const struct status_view *v)
{
	begin_section(out, "owners", "Owners");
	html_format(out, " <small>%zu</small></h2>", v->n_owners + v->more_owners);
	if (!v->n_owners) {
		html_raw(out, "<p>None.</p></section>");
		return;
	}
	begin_table(out, "owners",
		    "<th scope=\"col\">Owner</th><th scope=\"col\">Tunnels</th>"
		    "<th scope=\"col\">Streams</th><th scope=\"col\">Parked</th>"
		    "<th scope=\"col\">Memory</th>");
	for (size_t i = 0; i < v->n_owners; i++) {
		const struct status_owner *o = &v->owners[i];

		put_name(out, o->name);
		put_use(out, o->tunnels, o->most_tunnels, false);
		put_use(out, o->streams, o->most_streams, false);
		put_use(out, o->parked, o->most_parked, false);
		put_use(out, o->memory, o->most_memory, true);
		html_raw(out, "</tr>");
	}
	end_table(out);
	if (v->more_owners)
		html_format(out, "<p>%zu further owners: use the filter.</p>", v->more_owners);
	html_raw(out, "</section>");
}

static void put_limits(struct evbuffer *out, const struct status_view *v)
{
	begin_section(out, "limits", "Limits in use</h2>");
	begin_table(out, "limits",
		    "<th scope=\"col\">What</th><th scope=\"col\">In use</th>"
		    "<th scope=\"col\" class=\"text\">Setting</th>");
	for (size_t i = 0; i < v->n_limits; i++) {
		const struct status_limit *l = &v->limits[i];

		put_name(out, l->what);
		put_use(out, l->used, l->most, l->bytes);
		html_format(out, "<td class=\"text\"><code>%s</code></td></tr>", l->setting);
	}
	end_table(out);
	html_raw(out, "</section>");
}

void status_write(struct evbuffer *out, const struct status_view *v)
{
	put_head(out, v);
	put_problems(out, v);
	put_services(out, v);
	status_hour_write(out, v);
	put_owners(out, v);
	put_limits(out, v);
	html_raw(out, "</main><footer><p>All times are UTC. The last hour as JSON: "
		      "<a href=\"v1/history\">/v1/history</a></p></footer></body></html>\n");
}
