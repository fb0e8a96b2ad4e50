/* agents_settings: what bench-agents is to do. */
#ifndef BENCH_AGENTS_SETTINGS_H
#define BENCH_AGENTS_SETTINGS_H

#include <stdbool.h>

/* The texts are the command line's. In three of them a % stands for the agent's number. */
struct settings {
	char **addresses; /* the relay's; agents take them in turn */
	unsigned n_addresses;
	const char *ca_file, *server_name, *target;
	const char *token_file, *service, *instance; /* with % */
	unsigned count;
	double spread;   /* seconds until all have started */
	double patience; /* seconds for connecting, and for the handshake; 0: the default */
	int transport;   /* enum transport: direct or websocket */
	int log_level;   /* enum config_log_level */
};

/* False: what is wrong has been said. Ends the program for --help. Reorders argv, and keeps it. */
bool settings_read(struct settings *s, int argc, char **argv);

#endif
