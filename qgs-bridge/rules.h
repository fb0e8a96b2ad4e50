/* rules: who may use which listener. Pure. */
#ifndef QGS_BRIDGE_RULES_H
#define QGS_BRIDGE_RULES_H

#include <stdbool.h>

#include "config/bridge.h"

struct who;

/*
 * The first rule of which all that is said holds decides; with rules, but none that matches: no.
 * What a rule asks for and the kernel does not know does not hold; but where it only cannot be told
 * any more (a Unix peer whose process has gone), what a rule denies does. *line: that of the rule
 * that decided, 0: none did.
 */
bool rules_allow(const struct bridge_config *c, const char *listener, const struct who *who,
		 int *line);

#endif
