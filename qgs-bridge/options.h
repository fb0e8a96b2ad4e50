/* options: qgs-bridge's command line: flags that fill a config, alone or on top of a file. */
#ifndef QGS_BRIDGE_OPTIONS_H
#define QGS_BRIDGE_OPTIONS_H

#include <stdbool.h>

struct bridge_config;
struct config_errors;

enum bridge_options_action { BRIDGE_RUN, BRIDGE_CHECK, BRIDGE_DUMP, BRIDGE_DONE };

/* Exit statuses; qgs-bridge(8) explains them. */
enum { BRIDGE_ORDERLY, BRIDGE_FAILED, BRIDGE_USAGE };

struct bridge_options {
	enum bridge_options_action action;
	int status;                   /* DONE: the exit status; what is wrong has been said */
	struct bridge_config *config; /* else: complete and checked; a reference, the caller's */
	const char *path;             /* of the config file, in argv; NULL: none */
	bool no_sandbox;
};

struct bridge_options bridge_options_read(int argc, char **argv);
/* The same; what is wrong with config or flags is left in errors, the caller's. */
struct bridge_options bridge_options_judge(int argc, char **argv, struct config_errors *errors);
/*
 * For a reload: the file read anew, and the flags on top. The arguments are those that
 * bridge_options_read has found good. NULL: what is wrong has been logged, and is in *why:
 * allocated; NULL: out of memory.
 */
struct bridge_config *bridge_options_reload(int argc, char **argv, char **why);

#endif
