/*
 * refresh: takes certificates, keys, CAs and revocation lists anew when their files have changed.
 *
 * Theory of operation: a few stat(2) every REFRESH_LOOK_MS, followed through links, made into one
 * number (settings_files); if that is another one than when the settings in effect were made, and
 * has stayed so for one look more, the config in effect is reloaded. inotify would tell sooner, but
 * not of everything: nothing of NFS or of what is below an overlay, and of links (a mounted
 * Secret's ..data, certbot's live/) only to who watches every folder on the way, some of which are
 * made anew. A sandbox does not forbid to look.
 *
 * What cannot be taken (a certificate whose key has not come yet) leaves the old ones in effect,
 * and is tried again when the files change, and now and then: it may have been for want of memory
 * or descriptors, and a revocation must not wait for the next one.
 */
#include "relay/refresh.h"

#include <event2/event.h>
#include <stdint.h>
#include <stdlib.h>

#include "relay/gateway.h"
#include "relay/log.h"

struct refresh {
	struct gateway *gateway;
	struct event *timer;
	uint64_t seen;    /* by the last look */
	uint64_t refused; /* could not be taken; 0: none */
	unsigned looks;   /* since then */
};

static void on_look(evutil_socket_t fd, short what, void *arg)
{
	struct refresh *r = arg;
	struct gateway *g = r->gateway;
	struct settings *s = g->settings;
	uint64_t now = settings_files(s->config), seen = r->seen;
	char *why;

	r->seen = now;
	if (now != seen || now == s->files || atomic_load(&g->draining))
		return;
	if (now == r->refused && ++r->looks < REFRESH_AGAIN_LOOKS)
		return;
	r->looks = 0;
	log_info("reload: the files of certificates or revocation lists have changed");
	if (gateway_reload(g, s->config, NULL, &why)) {
		log_info("reload: certificates and revocation lists are those of now");
		r->refused = 0;
	} else {
		r->refused = now;
	}
	free(why);
}

struct refresh *refresh_start(struct event_base *base, struct gateway *g)
{
	const struct timeval often = { .tv_sec = REFRESH_LOOK_MS / 1000 };
	struct refresh *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->gateway = g;
	r->seen = g->settings->files;
	r->timer = event_new(base, -1, EV_PERSIST, on_look, r);
	if (!r->timer || event_add(r->timer, &often) < 0)
		return refresh_stop(r);
	return r;
}

struct refresh *refresh_stop(struct refresh *r)
{
	if (!r)
		return NULL;
	if (r->timer)
		event_free(r->timer);
	free(r);
	return NULL;
}
