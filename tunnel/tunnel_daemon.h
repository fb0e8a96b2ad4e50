/* tunnel_daemon: attest-tunnel as a running program, from its options to its exit status. */
#ifndef TUNNEL_TUNNEL_DAEMON_H
#define TUNNEL_TUNNEL_DAEMON_H

struct options;

/* The exit status; what is wrong has been logged. Takes the config over. Once in a process. */
int tunnel_daemon_run(const struct options *o);

#endif
