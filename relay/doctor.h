/*
 * doctor: `PROGRAM doctor`: what usually is wrong, looked at in order and said in a line each: what
 * is so, and what to do about it. For people, or JSON.
 *
 * A check changes nothing, prints no secret, and takes a bounded time. It says something in every
 * case: that all is well, what is not, or because of what it could not be made.
 */
#ifndef RELAY_DOCTOR_H
#define RELAY_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct config_errors;
struct worker;

#define DOCTOR_MS 60000      /* all checks; those that would begin later are left out */
#define DOCTOR_CHECK_MS 5000 /* the longest that one may wait for somebody else */
#define DOCTOR_WHAT_MAX 640  /* what a line is about: an address, a file */

enum doctor_status { DOCTOR_OK, DOCTOR_WARNING, DOCTOR_WRONG, DOCTOR_SKIPPED, DOCTOR_STATUSES };

/* Exit statuses. */
enum { DOCTOR_GOOD, DOCTOR_BAD, DOCTOR_USAGE };

struct doctor {
	const char *program;
	FILE *to;
	bool json, colour;
	uint64_t end;          /* monotonic ms */
	struct worker *worker; /* for checks that need a loop; NULL: for those that do not */
	unsigned count[DOCTOR_STATUSES];
	const char *id; /* of the check that is being made */
	char what[DOCTOR_WHAT_MAX];
};

/* Takes --json out of the arguments: what is left is the daemon's. True: it was there. */
bool doctor_arguments(int *argc, char **argv);

void doctor_begin(struct doctor *d, const char *program, bool json, FILE *to);
int doctor_end(struct doctor *d); /* says how many there were of what; the exit status */

struct doctor_check {
	const char *id;
	void (*run)(struct doctor *d, void *user);
};
/* Makes them in order, for as long as there is time. The last has no id. */
void doctor_run(struct doctor *d, const struct doctor_check *checks, void *user);

/* What is said from now on is of this check, and of nothing in particular. id: static. */
void doctor_check(struct doctor *d, const char *id);
/* ... and of this. */
void doctor_about(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void doctor_ok(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* advice: what to do. */
void doctor_warn(struct doctor *d, const char *advice, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void doctor_wrong(struct doctor *d, const char *advice, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* because: completes "because of ...". */
void doctor_skip(struct doctor *d, const char *because);

/* Each error of a config as a line. */
void doctor_config(struct doctor *d, const char *path, const struct config_errors *errors);

uint64_t doctor_now(void); /* monotonic ms */
/*
 * How long the next wait may be: DOCTOR_CHECK_MS, what wanted says (0: nothing), what is left; but
 * DOCTOR_LEAST_MS, so that what is only late is not said to be wrong.
 */
#define DOCTOR_LEAST_MS 1000
uint64_t doctor_ms(const struct doctor *d, uint64_t wanted);

#endif
