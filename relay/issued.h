/*
 * issued: what is on record of the certificates that owners were given: FOLDER/issued/SERIAL.json.
 *
 * Plain blocking calls on small local files. Any number of threads and processes at a time.
 */
#ifndef RELAY_ISSUED_H
#define RELAY_ISSUED_H

#include <stdint.h>

#include "relay/authority.h"
#include "relay/client.h"
#include "relay/codes.h"

struct issued {
	char serial[AUTHORITY_SERIAL_TEXT];
	char owner[CODES_OWNER_MAX];
	char label[CODES_LABEL_MAX];
	char client[CLIENT_TEXT_MAX]; /* who claimed it, by address */
	int64_t at, expires;          /* seconds since 1970 */
};

/* "2026-11-21T12:00:00Z" */
#define ISSUED_TIME 32
const char *issued_time(int64_t at, char text[ISSUED_TIME]);

/* 0 or -errno. */
int issued_prepare(const char *folder) __attribute__((warn_unused_result));
int issued_add(const char *folder, const struct issued *record) __attribute__((warn_unused_result));
/* The record of one; -ENOENT: there is none; or another -errno. */
int issued_find(const char *folder, const char *serial, struct issued *out)
	__attribute__((warn_unused_result));
/*
 * Calls each for each record, in no order. Reads them all, so not in a worker. 0 or -errno; what
 * cannot be read as a record is told by its name to bad.
 */
int issued_each(const char *folder, void (*each)(const struct issued *record, void *arg),
		void (*bad)(const char *name, void *arg), void *arg);

#endif
