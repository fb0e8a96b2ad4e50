/*
 * admin_private: what admin.c (listeners, routes, answers) and admin_http.c (one connection's
 * requests and replies) share.
 */
#ifndef RELAY_ADMIN_PRIVATE_H
#define RELAY_ADMIN_PRIVATE_H

#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "relay/admin.h"
#include "relay/bind.h"

struct bufferevent;
struct event;
struct evconnlistener;
struct httphead;

struct admin_listener {
	struct admin *admin;
	struct admin_listener *next;
	struct address address;
	struct bind_file file; /* of a Unix path: removed only while it is that */
	unsigned scopes;
	struct evconnlistener *accept; /* NULL: given away */
	unsigned connections;	       /* at most ADMIN_CONNECTIONS_MAX: then it accepts none */
};

struct admin {
	struct event_base *base;
	const struct admin_route *routes;
	size_t n_routes;
	void *user;
	void (*control)(const struct admin_request *r, const char *what, void *user);
	struct admin_listener *listeners;
	struct admin_connection *connections;
	struct event *resume;           /* after an error of accept */
	struct admin_request *requests; /* that have no answer yet */
};

/* One request, from its head to its answer; it may outlive its connection. */
struct admin_request {
	struct admin *admin;
	struct admin_connection *connection; /* NULL: gone, the answer is for nobody */
	struct admin_request *next, **at;    /* in admin->requests */
	bool get, head, keep;                /* HEAD is get as well; keep: more may follow */
	char *method, *path, *rest; /* path, rest: decoded; rest points into path, or is "" */
	struct evkeyvalq query, headers, reply_headers;
	size_t body_len;
	struct json_object *body; /* NULL: none, or no object */
	bool peer_known;
	uid_t uid;
	pid_t pid;
	bool local, unnamed; /* came by a Unix socket; by one that has no path */
	unsigned scopes;     /* the listener's */
};

enum admin_state {
	ADMIN_READING_HEAD,
	ADMIN_READING_BODY,
	ADMIN_RUNNING, /* the answer is awaited */
	ADMIN_WRITING,
	ADMIN_LINGERING, /* all is written; until the peer has read it and closes */
};

struct admin_connection {
	struct admin *admin;
	struct admin_connection *next, **at; /* in admin->connections */
	struct admin_listener *listener;
	struct bufferevent *stream;
	struct event *deadline; /* of a whole request, and of lingering */
	enum admin_state state;
	bool ended;                    /* the peer sends no more */
	bool closing;                  /* what is being written is the last */
	struct admin_request *request; /* from its whole head on */
};

/* admin.c: whole, with its body read: runs its route, or answers why not. */
void admin_dispatch(struct admin_request *r);
void admin_request_free(struct admin_request *r);

/* admin_http.c: fd is consumed. */
void admin_connection_start(struct admin_listener *l, int fd);
void admin_connection_free(struct admin_connection *c);
/* The answer to c's request, which is freed. body may be NULL. */
void admin_connection_reply(struct admin_request *r, int status, const char *type,
			    struct evbuffer *body);
/* The descriptor, which is the caller's; c is freed. -1: it has said more already. */
int admin_connection_detach(struct admin_connection *c);
/* admin.c: one of its connections is over. */
void admin_connection_gone(struct admin_listener *l);

#endif
