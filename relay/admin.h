/*
 * admin: a program's own HTTP listeners: metrics, health, the status page, the admin API.
 *
 * HTTP/1.1 on libevent under a table of routes. What a listener serves is its scope: a route
 * outside of it is not there (404). Requests and replies are bounded and time out; a stuck reader
 * costs its own connection only. Thread: that of the event base.
 */
#ifndef RELAY_ADMIN_H
#define RELAY_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct address;
struct admin;
struct admin_config;
struct admin_request;
struct bind_access;
struct bind_file;
struct evbuffer;
struct event_base;
struct json_object;

#define ADMIN_BODY_MAX 65536     /* bytes of a request's body */
#define ADMIN_HEAD_MAX 8192      /* bytes of a request's head */
#define ADMIN_CONNECTIONS_MAX 64 /* of a listener at a time; further ones wait in its queue */
#define ADMIN_TIMEOUT_S 10       /* for a whole request, or for a reply's next bytes */

/* What a listener serves. */
enum admin_scope {
	ADMIN_HEALTH = 1 << 0,  /* /livez, /readyz, /healthz: for whoever can connect */
	ADMIN_METRICS = 1 << 1, /* /metrics */
	ADMIN_READ = 1 << 2,    /* the status page; all of /v1/ that changes nothing */
	ADMIN_CONTROL = 1 << 3, /* the rest: a Unix socket only, whose peers are asked for */
	ADMIN_CONFIG = 1 << 4,  /* the config: hashes and paths are not for all of this machine */
	ADMIN_ALL = (1 << 5) - 1,
};

/* method: "GET" serves HEAD, too. path: whole, or, ending in '/', with one part more. */
struct admin_route {
	const char *method, *path;
	enum admin_scope scope;
	/* Answers, now or later (admin_reply and the like), each request exactly once. */
	void (*run)(struct admin_request *r, void *user);
};

/* routes stay the caller's, for as long. NULL: out of memory. */
struct admin *admin_new(struct event_base *base, const struct admin_route *routes, size_t n,
			void *user);
/*
 * Serves scopes (of enum admin_scope) at a tcp or unix address. access: of a Unix socket's path, or
 * NULL. 0, or -1 with *why an allocated line, or NULL: out of memory. Blocks on DNS: at the start.
 */
int admin_listen(struct admin *a, const struct address *address, unsigned scopes,
		 const struct bind_access *access, char **why);
/*
 * Before each request of ADMIN_CONTROL is run, for audit records; the log has it anyway. what: its
 * method and path, behind "refused: " if it is not.
 */
void admin_on_control(struct admin *a,
		      void (*control)(const struct admin_request *r, const char *what, void *user));
/*
 * The same for a listener of a config, if there is one: "key: why" if it cannot be. False: it
 * cannot, or out of memory.
 */
bool admin_listen_at(struct admin *a, const char *key, const struct address *address,
		     unsigned scopes, char **why);
/* The admin socket, which serves everything, by who may open it. The same. */
bool admin_listen_admin(struct admin *a, const struct admin_config *config, char **why);
/* Each socket that is listened at. */
void admin_each_socket(const struct admin *a,
		       void (*each)(void *arg, const struct address *address,
				    const struct bind_file *file, int fd),
		       void *arg);
/* Another process listens there from now on. Who is connected stays; paths are left alone. */
void admin_give_away(struct admin *a);
/* Requests that have no answer yet get none. NULL is fine; returns NULL. */
struct admin *admin_free(struct admin *a);

/* ---- a request, until it is answered ---- */

/* What is behind a path that ends in '/', decoded; else "". */
const char *admin_rest(const struct admin_request *r);
/* A parameter of the query, decoded; NULL: not there. */
const char *admin_query(const struct admin_request *r, const char *name);
/* As a number of at most max. False, and answered with 400: it is none. Not there: *value stays. */
bool admin_query_number(struct admin_request *r, const char *name, uint64_t max, uint64_t *value);
/* A header of the request; NULL: not there. */
const char *admin_header(const struct admin_request *r, const char *name);
/* The body, a JSON object; the request's. NULL: there was none, or no good one. */
struct json_object *admin_body(const struct admin_request *r);
/* Who asks, by SO_PEERCRED: false where that is not known (tcp). For the log and the audit. */
bool admin_peer(const struct admin_request *r, uid_t *uid, pid_t *pid);
/*
 * The connection's descriptor: the caller's, to speak another protocol on it from now on
 * (Upgrade:). The request is over and has no answer. -1: there is none to be had, and the request
 * is still to be answered.
 */
int admin_detach(struct admin_request *r);

/* One more header of the reply to come: Cache-Control, ETag and the like. */
void admin_reply_header(struct admin_request *r, const char *name, const char *value);
/* body: taken from, not freed; NULL: none. */
void admin_reply(struct admin_request *r, int status, const char *type, struct evbuffer *body);
/* Takes over o's reference. NULL: out of memory, 500. */
void admin_reply_json(struct admin_request *r, int status, struct json_object *o);
/* {"error": {"code": code, "message": ...}}. code: a word, stable; docs/admin-api.md has them. */
void admin_fail(struct admin_request *r, int status, const char *code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* A route for all programs, POST /v1/log: {"level": "debug"}. */
void admin_log_level(struct admin_request *r, void *user);

#endif
