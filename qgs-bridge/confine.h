/* confine: qgs-bridge's sandbox: what a config will need for as long as the program runs. */
#ifndef QGS_BRIDGE_CONFINE_H
#define QGS_BRIDGE_CONFINE_H

#include <stdbool.h>

struct bridge_config;
struct bridge_options;

/* After the listeners were tried. False: what is wrong has been logged. */
bool confine(const struct bridge_options *o);
/* Warns of what a config wants that the sandbox that was entered has no room for. */
void confine_check(const struct bridge_config *config);

#endif
