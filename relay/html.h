/*
 * html: text, numbers and times into a page. Nothing that is put here can become markup.
 */
#ifndef RELAY_HTML_H
#define RELAY_HTML_H

#include <stdint.h>

struct evbuffer;

/*
 * Into the page as it is shown: in an element or between the quotes of an attribute. Control
 * characters and what is no UTF-8 become '?'.
 */
void html_text(struct evbuffer *out, const char *text);
/* Markup of our own: never a text from elsewhere. */
void html_raw(struct evbuffer *out, const char *markup);
void html_format(struct evbuffer *out, const char *markup, ...)
	__attribute__((format(printf, 2, 3)));

/* As people read them; each returns buf. */
#define HTML_NUMBER_MAX 32
char *html_count(char buf[HTML_NUMBER_MAX], uint64_t n);       /* "1 234 567" */
char *html_rate(char buf[HTML_NUMBER_MAX], double per_second); /* "0", "0.4", "12", "1 234" */
char *html_bytes(char buf[HTML_NUMBER_MAX], double bytes);     /* "1.2 MB", of 1000 each */
char *html_memory(char buf[HTML_NUMBER_MAX], uint64_t bytes);  /* "1.2 MiB", of 1024 each */
/* "45 s", "12 min", "3 h 20 min", "5 d 3 h" */
char *html_duration(char buf[HTML_NUMBER_MAX], uint64_t ms);

/*
 * <time> with words and, as its title, the time itself in UTC. at: seconds since 1970. words: ours;
 * NULL: the time of day.
 */
void html_time(struct evbuffer *out, uint64_t at, const char *words);
#define HTML_TIME_MAX 32
char *html_utc(char buf[HTML_TIME_MAX], uint64_t at); /* "2026-01-31 23:59:59 UTC" */

#endif
