/*
 * egress: which proxy an agent goes through to which relay, and the credentials for it: by the
 * config, else by the environment, as curl and most programs read it.
 */
#ifndef TUNNEL_EGRESS_H
#define TUNNEL_EGRESS_H

#include <stdbool.h>

#include "config/config.h"
#include "config/proxy_url.h"
#include "tunnel/proxy_words.h"

#define EGRESS_TEXT_MAX (ADDRESS_TEXT_MAX + 16)
#define EGRESS_SOURCE_MAX 32
#define EGRESS_REJECTED_MS 60000 /* credentials that were refused rest so long, ... */
#define EGRESS_REJECTED_MAX 10	 /* ... and as long again for each time, up to so often */

struct proxy_joint;
struct proxy_rejection;
struct tls_context;

struct proxy {
	struct proxy_url url; /* a password in it is the environment's */
	char text[EGRESS_TEXT_MAX]; /* for people, nothing secret */
	char source[EGRESS_SOURCE_MAX]; /* the key or variable that says so */
	const char *credentials_file;	/* NULL: what is in url */
	struct tls_context *tls; /* PROXY_HTTPS: for the TLS with the proxy itself */
	struct proxy_rejection *rejection; /* NULL: none is remembered */
	struct proxy_joint **joints;	   /* tunnel/proxy's; NULL: they are not kept */
};

struct egress {
	bool proxied; /* there is a proxy */
	struct proxy proxy;
	struct proxy_joint *joints;
	const struct strings *exceptions; /* the config's no_proxy... */
	char *list;			  /* ... or the environment's; either may be NULL */
	char list_source[EGRESS_SOURCE_MAX];
};

/*
 * Reads the config, or else the environment, whose variables are wiped then. config must outlive
 * it. 0, or -EINVAL and *why an allocated line for people (NULL: out of memory).
 */
int egress_init(struct egress *e, const struct tunnel_config *config, char **why);
void egress_deinit(struct egress *e);

/* NULL: directly. e may be NULL, too. */
const struct proxy *egress_to(const struct egress *e, const struct address *relay);

/* Says for each relay which way it is connected to, if that needs saying. */
void egress_log(const struct egress *e, const struct addresses *relays);

/*
 * Reads the file anew, if there is one. 0, with *exposed saying whether users other than owner and
 * group may read it; or -errno, *why as above and c empty. Wipe c with explicit_bzero when done.
 */
int egress_credentials(const struct proxy *p, struct proxy_credentials *c, bool *exposed,
		       char **why);

/*
 * The proxy has refused these. Many lock an account after a few, so the same are not to be shown to
 * it again while they rest; others may be at once. now: worker_now.
 */
void egress_rejected(const struct proxy *p, const struct proxy_credentials *c, uint64_t now);
bool egress_rests(const struct proxy *p, const struct proxy_credentials *c, uint64_t now);
void egress_hope(const struct egress *e); /* the proxy may have learnt: none rest */

#endif
