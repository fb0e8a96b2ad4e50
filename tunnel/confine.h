/* confine: attest-tunnel's sandbox: what a config will need for as long as the program runs. */
#ifndef TUNNEL_CONFINE_H
#define TUNNEL_CONFINE_H

#include <stdbool.h>

struct options;

/* After all has been read once, and listens. False: what is wrong has been logged. */
bool confine_tunnel(const struct options *o);

#endif
