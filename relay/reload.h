/*
 * reload: the config file is read again and takes effect (gateway_reload), or all stays as it was.
 * Host names at which it is to listen are resolved aside, which may take NAMES_WAIT_S; all else
 * goes on meanwhile.
 *
 * Thread: the main one, that of base.
 */
#ifndef RELAY_RELOAD_H
#define RELAY_RELOAD_H

#include <stdbool.h>

struct event_base;
struct gateway;
struct handover;
struct reload;

struct reload_spec {
	struct event_base *base;
	struct gateway *gateway;
	struct handover *handover;
	const char *path;         /* of the config, read each time */
	void (*over)(void *user); /* whatever came of one */
	void *user;
};

/* why: good for the call; NULL: there is nothing to say, or it is out of memory. */
typedef void reload_told(void *user, bool good, const char *why);

/* NULL: out of memory. */
struct reload *reload_new(const struct reload_spec *spec);
/*
 * told, once, if it is not NULL: now or later. Who asks while another waits for names gets the same
 * answer: what is in effect then is the file as it was when the last one asked.
 */
void reload_ask(struct reload *r, reload_told *told, void *user);
/* Of what waits nothing comes; whoever asked is told so. NULL is fine. */
void reload_cancel(struct reload *r, const char *why);
/* Cancels. NULL is fine; returns NULL. */
struct reload *reload_free(struct reload *r);

#endif
