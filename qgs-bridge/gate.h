/*
 * gate: one socket of a listener (entrance.h): a listening one that is made, and made anew when its
 * path vanishes; or, with socket: connect, a connection that is held (chardev.h).
 */
#ifndef QGS_BRIDGE_GATE_H
#define QGS_BRIDGE_GATE_H

#include <stdbool.h>
#include <sys/types.h>

#include "config/address.h"
#include "qgs-bridge/folders.h"
#include "relay/acceptor.h"
#include "relay/bind.h"
#include "relay/worker.h"

struct bridge;
struct chardev;
struct entrance_config;

struct gate {
	struct gate *next, **prevp; /* the owner's list */
	struct bridge *bridge;
	const struct entrance_config *config; /* the owner keeps it */
	struct acceptor acceptor;
	struct reapable reapable;
	struct address address;      /* '*' replaced */
	char name[FOLDERS_NAME_MAX]; /* what '*' stood for; "": no pattern */
	int fd;                      /* listening; -1: not made */
	struct bind_file file;
	ino_t netns;   /* listened in; 0: none, or not known */
	uint32_t port; /* really listened at; 0: none */
	struct chardev *chardev;
	bool due;    /* the owner's: to be tried soon */
	bool shut;   /* who comes is closed at once */
	bool failed; /* the last try; what was said of it: */
	char *told;
};

/* Nothing is open yet. name, path: those of folders.h, or NULL. NULL: out of memory. */
struct gate *gate_new(struct bridge *b, const struct entrance_config *config, const char *name,
		      const char *path);
/*
 * Closed, and its path removed; one of systemd's stays open. Connections that came by it go on. May
 * be called while it accepts. NULL is fine.
 */
struct gate *gate_free(struct gate *g);
/*
 * Who is in its queue already is taken in, nobody else; to be freed then. One of systemd's is left
 * alone: its queue is for the next process.
 */
void gate_drain(struct gate *g);
/* Tries once; open already: nothing. What fails is logged once for each cause. */
void gate_open(struct gate *g);
bool gate_is_open(const struct gate *g);
/* One whose path, or network namespace, is not there any more is closed: true. */
bool gate_has_vanished(struct gate *g);
void gate_adopt(struct gate *g, const struct entrance_config *config);
/* A try that leaves nothing open: 0, or -EADDRNOTAVAIL with *why, to be freed. */
int gate_try(struct gate *g, char **why);

#endif
