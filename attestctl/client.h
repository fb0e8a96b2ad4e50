/*
 * client: one question to a daemon's admin socket, and its answer.
 *
 * HTTP by libcurl over a Unix socket, bounded in size and time. Thread: one.
 */
#ifndef ATTESTCTL_CLIENT_H
#define ATTESTCTL_CLIENT_H

#include <stddef.h>

struct json_object;

#define CLIENT_ANSWER_MAX ((size_t)64 * 1024 * 1024)
#define CLIENT_TIMEOUT_S 120 /* a reload may read many files */

struct client;

/* NULL: out of memory. socket stays the caller's, for as long. */
struct client *client_new(const char *socket);
struct client *client_free(struct client *c); /* NULL is fine; returns NULL */

/*
 * body: NULL: none, GET; otherwise POST. The status, and *answer what it said (NULL: no JSON), to
 * be put; or -1: it could not be asked, and client_why says why.
 */
int client_ask(struct client *c, const char *path, const char *body, struct json_object **answer);
const char *client_why(const struct client *c);
/* text for a query: percent-encoded, to be freed; NULL: out of memory. */
char *client_escape(struct client *c, const char *text);

#endif
