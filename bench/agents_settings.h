/* agents_settings: what bench-agents is to do. */
#ifndef BENCH_AGENTS_SETTINGS_H
#define BENCH_AGENTS_SETTINGS_H

#include <stdbool.h>

/* The texts are the command line's. In three of them a % stands for the agent's number. */
struct settings {
	const char *address, *ca_file, *server_name, *target;
	const char *token_file, *service, *instance; /* with % */
	unsigned count;
	double spread; /* seconds until all have started */
	int transport; /* enum transport: direct or websocket */
	int log_level; /* enum config_log_level */
};

/* False: what is wrong has been said. Ends the program for --help. */
bool settings_read(struct settings *s, int argc, char **argv);

#endif
