/* confine: attest-relay's sandbox: what a config will need for as long as the program runs. */
#ifndef RELAY_CONFINE_H
#define RELAY_CONFINE_H

#include <stdbool.h>

struct relay_config;

/*
 * After all has been opened that needs more; config was read from path. path: NULL, there is to be
 * no sandbox. False: what is wrong has been logged.
 */
bool confine_relay(const struct relay_config *config, const char *path);

#endif
