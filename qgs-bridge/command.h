/*
 * command: runs a program now and then, without waiting for it and without a shell.
 *
 * One at a time, and not again within COMMAND_PAUSE_MS of the last start. Its input and output are
 * /dev/null, its errors our own; how it ended is logged.
 */
#ifndef QGS_BRIDGE_COMMAND_H
#define QGS_BRIDGE_COMMAND_H

#include <stdbool.h>

struct command;
struct strings;
struct worker;

#define COMMAND_PAUSE_MS 60000

/* texts: the program and its arguments; copied, as pointers: they must outlive it. over: it has
 * ended, from the loop. NULL: out of memory. */
struct command *command_new(struct worker *w, const struct strings *texts,
			    void (*over)(void *user), void *user);
/* True: it runs now. */
bool command_run(struct command *c);
/* A program that still runs goes on, and is nobody's. NULL is fine. */
struct command *command_free(struct command *c);

#endif
