/* commands: what attestctl can be told to do. */
#ifndef ATTESTCTL_COMMANDS_H
#define ATTESTCTL_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct client;
struct json_object;

/* Exit statuses. */
enum { CTL_DONE, CTL_REFUSED, CTL_USAGE, CTL_UNREACHABLE };

struct ctl {
	struct client *client;
	bool json;
	bool screen; /* the terminal's second one is shown: top.h */
	const char *service, *owner, *of_client, *tunnel; /* filters; NULL: any */
	uint64_t limit;                                   /* of rows; 0: all */
	int argc;                                         /* what follows the command's name */
	char **argv;
};

/* name: NULL, or none of them: usage. An exit status. */
int commands_run(struct ctl *c, const char *name);
void commands_help(FILE *to);

/* GET or POST: the answer, to be put, if it was 2xx; otherwise NULL: *status to exit with, said. */
struct json_object *commands_ask(struct ctl *c, const char *path, const char *body, int *status);
/* Members for people; missing ones: "" and 0. */
const char *commands_text(struct json_object *o, const char *key);
uint64_t commands_number(struct json_object *o, const char *key);
/* A member that is a list, or an object. NULL: there is none, or it is something else. */
struct json_object *commands_list(struct json_object *o, const char *key);
struct json_object *commands_object(struct json_object *o, const char *key);

#endif
