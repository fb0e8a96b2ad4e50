/*
 * enrolment: owners' agents ask for a certificate, with a code that is good once: POST /enroll in
 * the relay's own TLS at a listener with the door tunnel.
 */
#ifndef RELAY_ENROLMENT_H
#define RELAY_ENROLMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENROLMENT_PATH "/enroll"
#define ENROLMENT_TYPE "application/pkcs10" /* of the request, in PEM */
#define ENROLMENTS_MAX 64 /* per worker, each with a good code: one holds 16 KiB */

struct client;
struct conduit;
struct gateway;
struct gateway_worker;
struct httphead;
struct listener;
struct relay_config;
struct worker;

/*
 * Main thread, before this config is in effect: sees that the CA is good, and makes the folder.
 * False, and *why is what is wrong, allocated; or NULL: out of memory.
 */
bool enrolment_check(const struct relay_config *c, char **why);

/* Whatever the method. */
bool enrolment_is_wanted(const struct httphead *head);
/*
 * The conduit is consumed. head is that of the first bytes of data, all of which are gone from the
 * conduit and need not live on. ms: for the rest of the request.
 */
void enrolment_begin(struct listener *l, struct worker *w, struct conduit *c,
		     const struct client *client, const struct httphead *head, const char *data,
		     size_t len, uint64_t ms);
/* Shutting down. */
void enrolment_end_all(struct gateway_worker *gw);

#endif
