/*
 * figure_class: how streams end, in few words: whose business it is. For metrics that have a label
 * beside it, where all reasons would be too many series.
 */
#ifndef RELAY_FIGURE_CLASS_H
#define RELAY_FIGURE_CLASS_H

#include "relay/reason.h"

enum figure_class {
	FIGURE_CLEAN,
	FIGURE_CLIENT,      /* the client left or broke off */
	FIGURE_TARGET,      /* the target did */
	FIGURE_TUNNEL,      /* the tunnel under it ended */
	FIGURE_NO_TUNNEL,   /* none came in time */
	FIGURE_UNREACHABLE, /* the target could not be had */
	FIGURE_IDLE,
	FIGURE_LIMIT,
	FIGURE_DENIED, /* it may not, or not any more */
	FIGURE_RELAY,  /* the relay's own: out of memory, shutting down */
	FIGURE_CLASSES
};

enum figure_class figure_class_of(enum reason why);
const char *figure_class_word(enum figure_class c);

#endif
