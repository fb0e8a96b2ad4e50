/*
 * exposition: Prometheus' text format (version 0.0.4), written into a buffer.
 *
 * A metric is a head and then its samples, all together. Labels are pairs of name and value, ended
 * by EXPOSITION_END. Values of labels may be any text; names are ours.
 *
 *	exposition_sample(e, 3, "service", name, "direction", "up", EXPOSITION_END);
 */
#ifndef RELAY_EXPOSITION_H
#define RELAY_EXPOSITION_H

#include <stddef.h>
#include <stdint.h>

#include "relay/durations.h"

struct evbuffer;

#define EXPOSITION_END ((const char *)NULL) /* of the right type, as va_arg wants it */

struct exposition {
	struct evbuffer *out;
	const char *prefix; /* of all names of this program, such as "attest_relay_" */
	const char *bare;   /* the metric at hand, and whether it has the prefix */
	const char *name;
};

static inline struct exposition exposition_begin(struct evbuffer *out, const char *prefix)
{
	return (struct exposition){ .out = out, .prefix = prefix, .bare = "", .name = "" };
}

/* From here on samples are of this metric. type: "counter", "gauge" or "histogram". */
void exposition_head(struct exposition *e, const char *name, const char *type, const char *help);
/* The same of one whose name is the same in all programs: without the prefix. */
void exposition_common(struct exposition *e, const char *name, const char *type, const char *help);

void exposition_sample(struct exposition *e, uint64_t value, ...) __attribute__((sentinel));
/* So many microseconds, as seconds. */
void exposition_seconds(struct exposition *e, uint64_t us, ...) __attribute__((sentinel));
/* All series of one histogram. */
void exposition_durations(struct exposition *e, enum durations_kind kind,
			  const struct durations_sum *sum, ...) __attribute__((sentinel));

/* Head and the one sample without labels. */
void exposition_one(struct exposition *e, const char *name, const char *type, const char *help,
		    uint64_t value);

#endif
