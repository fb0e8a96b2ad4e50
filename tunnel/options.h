/* options: attest-tunnel's command line: flags that fill a config, alone or on top of a file. */
#ifndef TUNNEL_OPTIONS_H
#define TUNNEL_OPTIONS_H

#include <stdbool.h>

struct config_errors;
struct tunnel_config;

enum options_action { OPTIONS_RUN, OPTIONS_CHECK, OPTIONS_DUMP, OPTIONS_DONE };

/* Exit statuses; attest-tunnel(1) explains them. */
enum { STATUS_ORDERLY, STATUS_FAILED, STATUS_USAGE, STATUS_REFUSED };

struct options {
	enum options_action action;
	int status;                   /* DONE: the exit status; what is wrong has been said */
	struct tunnel_config *config; /* else: complete and checked; the caller's */
	const char *path;             /* of the config file, in argv; NULL: none */
	bool once, no_sandbox;
	int argc; /* what was given: to be judged again by a reload */
	char **argv;
};

struct options options_read(int argc, char **argv);
/* The same; what is wrong with the config is left in errors, the caller's. */
struct options options_judge(int argc, char **argv, struct config_errors *errors);

#endif
