/*
 * attest-tunnel: the guest owner's agent: what the command line asks for.
 *
 * Stages: enroll and doctor are commands of their own; otherwise flags and file become one config,
 * with which the program runs (tunnel_daemon), or which is only looked at.
 */
#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "tunnel/doctor.h"
#include "tunnel/enroll.h"
#include "tunnel/options.h"
#include "tunnel/tunnel_daemon.h"

int main(int argc, char **argv)
{
	struct options o;

	if (argc > 1 && strcmp(argv[1], "enroll") == 0)
		return enroll_run(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "doctor") == 0)
		return doctor_tunnel(argc - 1, argv + 1);
	o = options_read(argc, argv);
	switch (o.action) {
	case OPTIONS_DONE:
		return o.status;
	case OPTIONS_CHECK:
		fprintf(stderr, "attest-tunnel: the config is good\n");
		break;
	case OPTIONS_DUMP:
		tunnel_config_dump(o.config, stdout);
		break;
	case OPTIONS_RUN:
		return tunnel_daemon_run(&o);
	}
	tunnel_config_free(o.config);
	return STATUS_ORDERLY;
}
