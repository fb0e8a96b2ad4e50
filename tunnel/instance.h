/* instance: the agent's own name when it was given none. */
#ifndef TUNNEL_INSTANCE_H
#define TUNNEL_INSTANCE_H

#include "tunnel/hello.h"

struct tunnel_config;

/*
 * Hex of a hash over this machine and what is offered, in whatever order: the same after a restart,
 * so a restarted agent takes over from its former self; another one for two agents on one machine
 * that offer different things. 0, or -EIO: libcrypto could not hash.
 */
int instance_make(const struct tunnel_config *config, char out[HELLO_INSTANCE_MAX]);

#endif
