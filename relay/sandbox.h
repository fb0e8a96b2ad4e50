/*
 * sandbox: what a program gives up for good once it has started: new privileges, capabilities, all
 * files but some, all system calls but some.
 *
 * The spec is filled with what the program will still need, then sandbox_enter is called: by the
 * main thread, before it makes others, which inherit all of it.
 */
#ifndef RELAY_SANDBOX_H
#define RELAY_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address;

/* Whose rows of sandbox_calls.def. */
enum sandbox_program {
	SANDBOX_RELAY = 1 << 0,
	SANDBOX_TUNNEL = 1 << 1,
	SANDBOX_BRIDGE = 1 << 2,
	/* not programs, but what gets some rows more: */
	SANDBOX_NAMESPACES = 1 << 3, /* spec.enters_namespaces */
	SANDBOX_SANITIZED = 1 << 4,  /* a build with sanitizers, which do much of their own */
};

/* What may be done to all that is beneath a folder. */
enum sandbox_access {
	SANDBOX_READ = 1 << 0,	  /* files are read */
	SANDBOX_LIST = 1 << 1,	  /* folders are listed */
	SANDBOX_SOCKETS = 1 << 2, /* Unix sockets are made, renamed and removed; folders are made */
	SANDBOX_WRITE = 1 << 3,	  /* files are made, read, written, renamed and removed; the same */
};

enum sandbox_place {
	SANDBOX_HERE,	 /* if it is there */
	SANDBOX_NEAREST, /* or the nearest folder above it that is */
	SANDBOX_FILE,	 /* opened once more before the program goes on */
};

struct sandbox_path {
	char *path;
	unsigned access; /* of enum sandbox_access */
	enum sandbox_place place;
};

/* Zero but for the program at first. Paths need not be there. */
struct sandbox_spec {
	enum sandbox_program program;
	uint64_t keep;		 /* capabilities that stay if they are there: 1 << CAP_... */
	bool runs_commands;	 /* it starts programs, which inherit it: a wide one, then */
	bool enters_namespaces;	 /* network namespaces: setns(2) */
	struct sandbox_path *paths;
	size_t n_paths;
};

/*
 * A file to be read now and later, when it may have been replaced: all files of its folder, and of
 * the one that links lead to at present. NULL: none.
 */
void sandbox_file(struct sandbox_spec *s, const char *path);
/* A folder, with all that is beneath it. If it is not there, the nearest above it that is. */
void sandbox_folder(struct sandbox_spec *s, const char *path, unsigned access);
/*
 * The same of one that may be removed and made again: what is allowed there would be lost with it,
 * so it is allowed above it.
 */
void sandbox_moving_folder(struct sandbox_spec *s, const char *path, unsigned access);
/* A Unix or hybrid listener, whose socket is removed at the end. Others need nothing. */
void sandbox_listener(struct sandbox_spec *s, const struct address *a);
/*
 * A place that is connected to. Root may connect to anybody's socket, by a capability; if this is a
 * socket, and we are root, that stays.
 */
void sandbox_target(struct sandbox_spec *s, const struct address *a);

/*
 * For good. What this kernel or this build lacks is said and gone without. False: the program would
 * fail later, for what it needs cannot be had any more; it has been said why.
 */
bool sandbox_enter(struct sandbox_spec *s);
/* Says at the top of its voice that there is none (--no-sandbox). */
void sandbox_stay_out(void);
void sandbox_spec_deinit(struct sandbox_spec *s);

#endif
