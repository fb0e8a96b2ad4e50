/* listing: lists of things as tables: which of their members, and how these are written. */
#ifndef ATTESTCTL_LISTING_H
#define ATTESTCTL_LISTING_H

#include <stddef.h>
#include <stdint.h>

struct json_object;

/* How a value is written. */
enum shape { TEXT, NUMBER, BYTES, AGE, MICROSECONDS, LIMIT };

struct column {
	const char *title, *key; /* key: of one inside, "limits.streams" */
	enum shape shape;
};

/* Each ends with a NULL title. */
extern const struct column listing_listeners[], listing_owners[], listing_services[];
extern const struct column listing_tunnels[], listing_streams[], listing_limits[];
extern const struct column listing_sources[], listing_failures[], listing_problems[];
extern const struct column listing_relays[], listing_vms[];

/* "1.2M": for columns. Returns buf. */
const char *listing_bytes(uint64_t n, char *buf, size_t size);

void listing_show(struct json_object *list, const struct column *columns);

#endif
