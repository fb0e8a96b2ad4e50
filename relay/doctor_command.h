/*
 * doctor_command: the command `doctor` as a whole, the same in every program: the config, the
 * machine, then what the program's own config asks for, and the verdict.
 */
#ifndef RELAY_DOCTOR_COMMAND_H
#define RELAY_DOCTOR_COMMAND_H

#include <stdbool.h>

struct config_errors;
struct doctor_check;

/* What a program's doctor looks at. Each list ends with a check without an id. */
struct doctor_plan {
	const char *program;
	const struct doctor_check *machine; /* beyond what every program's has; NULL: none */
	const struct doctor_check *checks;  /* they need the config, and have a worker */
	const char *first;                  /* of them: it is said of this that they are left out */
};

/* What there was to begin with: the arguments and the config. */
struct doctor_case {
	bool json;
	const char *path;                   /* the config's; NULL: there was none */
	const struct config_errors *errors; /* why it is not good */
	void *patient;                      /* each check gets it; NULL: there is no good config */
};

/* The exit status. */
int doctor_examine(const struct doctor_plan *plan, const struct doctor_case *about);

#endif
