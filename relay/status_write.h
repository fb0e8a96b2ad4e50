/*
 * status_write: the status page as text, from what it is to show. Pure.
 *
 * XHTML in its syntax, so that any XML tool can check it; served as HTML.
 */
#ifndef RELAY_STATUS_WRITE_H
#define RELAY_STATUS_WRITE_H

struct evbuffer;
struct status_view;

void status_write(struct evbuffer *out, const struct status_view *v);

#endif
