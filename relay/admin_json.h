/*
 * admin_json: small words for building the admin API's answers. Out of memory: what could not be
 * added is not there.
 */
#ifndef RELAY_ADMIN_JSON_H
#define RELAY_ADMIN_JSON_H

#include <json-c/json_object.h>
#include <stdbool.h>
#include <stdint.h>

struct address;

/* NULL or "": nothing. What is no UTF-8, and control characters, become '?'. */
void admin_json_text(struct json_object *o, const char *key, const char *text);
void admin_json_number(struct json_object *o, const char *key, uint64_t n);
void admin_json_flag(struct json_object *o, const char *key, bool is);
void admin_json_address(struct json_object *o, const char *key, const struct address *a);
/* Seconds since 1970, as "2030-01-31T12:00:00Z"; 0 or UINT64_MAX: nothing. */
void admin_json_time(struct json_object *o, const char *key, uint64_t seconds);
/* The moment that was ms ago. */
void admin_json_since(struct json_object *o, const char *key, uint64_t ms);
/* An object, or a list, in o under key; or at the end of the list. NULL: out of memory. */
struct json_object *admin_json_object(struct json_object *o, const char *key);
struct json_object *admin_json_list(struct json_object *o, const char *key);
struct json_object *admin_json_entry(struct json_object *list);

#endif
