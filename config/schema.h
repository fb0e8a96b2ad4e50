/*
 * schema: what may stand in each config file, as tables; and the one walker that reads them.
 *
 * The tables are the single truth about keys, types, bounds and defaults: reading, dumping, freeing
 * and the test that compares manual pages and examples all go by them.
 */
#ifndef CONFIG_SCHEMA_H
#define CONFIG_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "config/config.h"
#include "config/tree.h"

enum field_type {
	FIELD_TEXT,      /* char * */
	FIELD_NUMBER,    /* unsigned or uint64_t */
	FIELD_DURATION,  /* uint64_t, milliseconds */
	FIELD_SIZE,      /* uint64_t, bytes */
	FIELD_ADDRESS,   /* struct address */
	FIELD_ENUM,      /* int, one of words */
	FIELD_FLAGS,     /* unsigned, a list of words */
	FIELD_TEXTS,     /* struct strings */
	FIELD_ADDRESSES, /* struct addresses */
	FIELD_HASH,      /* struct token_hash */
	FIELD_TIME,      /* uint64_t, seconds since 1970, UTC; 0: none */
	FIELD_NETWORKS,  /* struct networks */
	FIELD_STRUCT,    /* a struct inside, by its own table */
	FIELD_STRUCTS,   /* pointer and count, each by its own table */
	FIELD_REFUSED,   /* known, but not done by this version: an error of its own */
	FIELD_TYPES
};

enum {
	FIELD_REQUIRED = 1 << 0,
	FIELD_NONEMPTY = 1 << 1, /* a list that is there holds something */
	FIELD_PATH = 1 << 2,     /* TEXT: relative to the file's folder, or credential:NAME */
	FIELD_LOWER = 1 << 3,    /* TEXT(S): kept in lower case */
	FIELD_AUTO = 1 << 4,     /* NUMBER: "auto" is 0 */
	FIELD_DIAL = 1 << 5,     /* ADDRESS(ES): to connect to, so no wildcards */
	FIELD_SHORT = 1 << 6,    /* STRUCT(S): it, or an entry, may be its first field alone */
	FIELD_HIDDEN = 1 << 7,   /* TEXT: may hold a secret by mistake: no error quotes it */
	FIELD_RESTART = 1 << 8,  /* of relay_table: a reload cannot change it */
};

struct word {
	const char *text;
	unsigned value;
};

struct table;

struct field {
	const char *key;
	enum field_type type;
	unsigned flags;
	size_t offset; /* of the value; of a list: of its pointer */
	size_t count;  /* of a list's size_t */
	size_t width;  /* NUMBER: of the member */
	uint64_t min;
	uint64_t max;    /* of numbers; of a list: entries, 0: CONFIG_LIST_MAX */
	const char *def; /* as a file would have it (of a list: its one entry), or NULL: none */
	const struct word *words;     /* ENUM, FLAGS; ends with a NULL text */
	const struct table *table;    /* STRUCT(S) */
	bool (*is)(const char *text); /* TEXT(S): the value is well-formed */
	unsigned kinds;               /* ADDRESS(ES): bits 1 << enum address_kind */
	const char *expected;         /* TEXT(S): in words */
	const char *help;
};

struct table {
	const char *what; /* "a listener" */
	const struct field *fields;
	size_t n;
	size_t size; /* of the struct */
	size_t line; /* offset of an int for the line it stands on; NO_LINE: none */
};
#define NO_LINE ((size_t)-1)
#define TABLE_FIELDS_MAX 32

extern const struct table relay_table;
extern const struct table relay_service_table; /* of one of its services */
extern const struct table relay_listener_table;
extern const struct table tunnel_table;

/* Where values come from, and where errors go. */
struct source {
	const char *name;   /* of the file, for errors */
	const char *folder; /* that relative paths are relative to; NULL: they stay as they are */
	struct config_errors *e;
};

/*
 * Fills a zeroed struct by its table; what map (or NULL) leaves out gets its default. Errors go to
 * s->e, and what they are about stays zero; entries of lists keep their places.
 */
void table_read(const struct source *s, const struct table *t, const struct node *map, void *to);
void table_free(const struct table *t, void *of); /* what the struct holds, not the struct */
/* All of it anew: to, of the table's size, is to be freed by table_free. */
void table_copy(const struct table *t, void *to, const void *from);
void table_dump(const struct table *t, const void *of, FILE *to);
/* Of one of its keys: are the values the same? As they would be written. */
bool table_same(const struct table *t, const char *key, const void *a, const void *b);

/* Of all of its keys. */
bool table_equal(const struct table *t, const void *a, const void *b);

/* An error at node, or at the file's start if there is none. */
void source_error(const struct source *s, const struct node *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Reports a key that t does not have, with the one it may have been meant to be. */
void table_unknown_key(const struct source *s, const struct table *t, const struct node *key);

/* What a field takes, in words, with or without the list around it. Returns buf. */
#define EXPECTED_MAX 400
const char *field_expected(const struct field *f, bool entry, char *buf, size_t size);

/* As address_parse; but what is of no kind is told of the kinds that may stand here. */
int field_parse_address(const struct field *f, const char *text, struct address *to, char **why)
	__attribute__((warn_unused_result));
/* One entry of a list, or a FIELD_ADDRESS: 0, or -EINVAL and *why what is wrong (allocated). */
int field_address(const struct field *f, const char *text, struct address *to, char **why);
/* NULL, or what is wrong with an address there. */
const char *field_address_wrong(const struct field *f, const struct address *a);

/* Relations between values, which tables cannot say (check.c). */
void check_relay(const struct source *s, struct relay_config *c, const struct node *root,
		 bool clean);
void check_enrolment(const struct source *s, const struct relay_config *c, const struct node *root);
void check_tunnel(const struct source *s, const struct tunnel_config *c, const struct node *root);
void check_locals(const struct source *s, const struct tunnel_config *c, const struct node *root);
/* certificate and key; what flags may complete, so for the whole only. */
void check_identity(const struct tunnel_config *c, const char *name, struct config_errors *e);
void check_status(const struct source *s, const struct relay_config *c, const struct node *root);
void check_admin(const struct source *s, const struct admin_config *a, const struct node *root);
/* Those of several programs. limits: the map that the windows stand in. */
void check_timeouts(const struct source *s, const struct timeouts_config *t,
		    const struct node *root);
void check_windows(const struct source *s, uint64_t stream, uint64_t session,
		   const struct node *limits);

#endif
