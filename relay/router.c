/*
 * router: names to services.
 *
 * Theory of operation: looks at the config and at nothing else. Whether a tunnel is there is not
 * its question: a name is routable when its owner could offer it.
 */
#include "relay/router.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

static struct address tunnel_only = { .kind = ADDRESS_TUNNEL };
static const struct addresses default_targets = { .at = &tunnel_only, .n = 1 };

static bool owner_may_offer(const struct owner_config *o, const char *label, size_t len)
{
	if (o->services.n == 0)
		return true;
	for (size_t i = 0; i < o->services.n; i++)
		if (strlen(o->services.at[i]) == len &&
		    strncasecmp(o->services.at[i], label, len) == 0)
			return true;
	return false;
}

int router_by_service(struct route *r, const struct relay_config *c, const char *name)
{
	const struct service_config *s = relay_config_service(c, name);
	const struct owner_config *o;
	const char *dot;

	if (strlen(name) >= SERVICE_NAME_MAX || !name_is_service(name))
		return -ENOENT;
	dot = strchr(name, '.');
	o = relay_config_owner(c, dot + 1);
	if (!s && (!o || !owner_may_offer(o, name, (size_t)(dot - name))))
		return -ENOENT;
	r->config = s;
	r->asked = NULL;
	for (size_t i = 0; i <= strlen(name); i++)
		r->service[i] = (char)tolower((unsigned char)name[i]);
	return 0;
}

static int by_host(struct route *r, const struct relay_config *c, const char *host)
{
	const struct service_config *s = relay_config_hostname(c, host);
	size_t len = strlen(host), tail = c->domain ? strlen(c->domain) : 0;
	char name[SERVICE_NAME_MAX];

	if (s)
		return router_by_service(r, c, s->name);
	if (!tail || len < tail + 2 || len - tail - 1 >= sizeof(name) ||
	    host[len - tail - 1] != '.' || strcasecmp(host + len - tail, c->domain) != 0)
		return -ENOENT;
	memcpy(name, host, len - tail - 1);
	name[len - tail - 1] = '\0';
	return router_by_service(r, c, name);
}

int router_by_host(struct route *r, const struct relay_config *c, const char *host)
{
	int found = by_host(r, c, host);

	if (found == 0)
		r->asked = host;
	return found;
}

int router_by_authority(struct route *r, const struct relay_config *c, const char *host)
{
	if (router_by_service(r, c, host) < 0)
		return router_by_host(r, c, host);
	r->asked = host;
	return 0;
}

const struct addresses *router_targets(const struct route *r)
{
	return r->config && r->config->targets.n ? &r->config->targets : &default_targets;
}
