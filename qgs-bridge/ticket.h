/*
 * ticket: a place in a VM's line, and then a connection to QGS: what quote and plain have in
 * common.
 *
 *   waiting   in its line (fair.h): timeouts.queue, in all
 *   dialling  its turn has come. Refused while QGS may be back soon (qgs_is_away): waits again, at
 *             the head of its line
 *   in QGS    the connection was handed over; the slot is kept until ticket_over
 */
#ifndef QGS_BRIDGE_TICKET_H
#define QGS_BRIDGE_TICKET_H

#include <stdint.h>

#include "qgs-bridge/fair.h"
#include "relay/reason.h"
#include "relay/timer.h"

struct bridge;
struct bridge_config;
struct conduit;
struct dial;

struct ticket;
/*
 * With a connection, the callee's from then on; or NULL, why not, and words (valid during the
 * call), perhaps "". The callee calls ticket_over, now or later.
 */
typedef void ticket_done(struct ticket *t, struct conduit *qgs, enum reason why,
			 const char *detail);

/* Embedded; zero at first. */
struct ticket {
	struct fair_item item;
	struct bridge *bridge;	      /* NULL: not begun */
	struct bridge_config *config; /* dialling: a reference, for the address */
	struct dial *dial;
	struct timer timer; /* waiting */
	uint64_t entered, deadline;
	uint64_t waited_ms; /* when it no longer waits */
	ticket_done *done;
};

/* Joins the line. done is called once, perhaps before this returns. */
void ticket_begin(struct ticket *t, struct bridge *b, struct fair_line *line, ticket_done *done);
/* Leaves the line, or the slot in QGS, to the next. Twice, or not begun: nothing. */
void ticket_over(struct ticket *t);

/*
 * QGS has not answered it: who sends what QGS hangs on would have all slots before long. So its VM
 * gets one at a time for TICKET_HOLD_MS.
 */
#define TICKET_HOLD_MS 60000
void ticket_unanswered(struct ticket *t);

/* Whoever may run does. After limits changed. */
void ticket_schedule(struct bridge *b);
/* QGS came, went, or got wedged: lines are served, or everybody in them fails at once. */
void ticket_qgs_changed(struct bridge *b);

#endif
