/*
 * health_answer: what a probe is told: 200, or 503 and why, in plain text.
 *
 * The same words in all programs, and those that Kubernetes' own servers have: "ok", or with
 * ?verbose a line for each check.
 */
#ifndef RELAY_HEALTH_ANSWER_H
#define RELAY_HEALTH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

struct admin_request;
struct evbuffer;

struct health_check {
	const char *name;
	bool good;
	const char *why; /* one line, if it is not good; else anything */
};

/* what: "readyz". Of those that are not good the first is told. */
void health_answer(struct admin_request *r, const char *what, const struct health_check *checks,
		   size_t n);
/* The same as text alone. False: something is not good. */
bool health_answer_write(struct evbuffer *out, const char *what, const struct health_check *checks,
			 size_t n, bool verbose);
/* Plain text, a line. */
void health_answer_line(struct admin_request *r, int status, const char *line);

#endif
