/*
 * problems: what an operator should look at now: the worst first, each with what to do about it.
 *
 * One list for the status page and the admin API. Thread: the main one.
 */
#ifndef RELAY_PROBLEMS_H
#define RELAY_PROBLEMS_H

#include <stddef.h>

struct gateway;

#define PROBLEMS_MAX 64  /* further ones are counted, not kept */
#define PROBLEM_TEXT 512 /* an error in a config has a path and more */

/* The worst first. */
enum problem_severity {
	PROBLEM_CRITICAL, /* clients are refused */
	PROBLEM_WARNING,  /* they will be, or something is lost */
	PROBLEM_NOTICE,   /* as intended, but worth knowing */
	PROBLEM_SEVERITIES
};

/* Plain text, with names from the config and from agents in it. */
struct problem {
	enum problem_severity severity;
	const char *code; /* a word, static and stable: "service-down" */
	char what[PROBLEM_TEXT], advice[PROBLEM_TEXT];
};

struct problems {
	struct problem at[PROBLEMS_MAX];
	size_t n, more; /* more: those there was no room for */
};

void problems_find(const struct gateway *g, struct problems *out);

/* "critical", "warning", "notice". */
const char *problem_severity_word(enum problem_severity s);

#endif
