/* top: what passes, again and again, until q or an interrupt; once if it is no terminal. */
#ifndef ATTESTCTL_TOP_H
#define ATTESTCTL_TOP_H

struct ctl;

#define TOP_EVERY_MS 2000

int top_run(struct ctl *c); /* an exit status */
/* Before an error is told, which would go with the terminal's second screen. None: nothing. */
void top_give_back(struct ctl *c);

#endif
