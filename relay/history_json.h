/* history_json: the last hour as JSON, for the admin API. */
#ifndef RELAY_HISTORY_JSON_H
#define RELAY_HISTORY_JSON_H

struct history;
struct json_object;

/* The caller's. NULL: out of memory. */
struct json_object *history_json(const struct history *h);

#endif
