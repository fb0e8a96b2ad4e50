/*
 * check_enrolment: whether an enrolment that is configured could work.
 *
 * Theory of operation: as check.c's. It is on when it has a CA, so a CA without its key, and one
 * where nobody could ask for a certificate, are mistakes and not an enrolment that is off.
 */
#include "config/schema.h"

void check_enrolment(const struct source *s, const struct relay_config *c, const struct node *root)
{
	const struct node *enrolment = node_get(root, "enrolment");
	bool ca = node_get(enrolment, "ca"), key = node_get(enrolment, "key");
	bool tunnel = false;

	for (size_t i = 0; i < c->n_listeners; i++)
		tunnel |= (c->listeners[i].doors & DOOR_TUNNEL) != 0;
	if (!enrolment || enrolment->type != NODE_MAP)
		return;
	if (ca != key)
		source_error(s, enrolment, "enrolment: %s without %s; expected both or neither",
			     ca ? "ca" : "key", ca ? "key" : "ca");
	else if (ca && !tunnel)
		source_error(s, enrolment,
			     "enrolment: no listener has the door tunnel, so nobody could ask for "
			     "a certificate; expected it among the doors of one");
}
