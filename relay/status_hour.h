/*
 * status_hour: the part of the status page that shows the last hour: curves, the same as a table,
 * and how streams ended.
 */
#ifndef RELAY_STATUS_HOUR_H
#define RELAY_STATUS_HOUR_H

struct evbuffer;
struct status_view;

/* Whole sections. Without a history they say so. */
void status_hour_write(struct evbuffer *out, const struct status_view *v);

#endif
