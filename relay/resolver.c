/*
 * resolver: a worker's way to the DNS (evdns), in step with this machine's own settings.
 *
 * Theory of operation: evdns reads resolv.conf and hosts once. A daemon may begin before the
 * network does, and outlive it, so both files are looked at (stat) for each name that is asked for,
 * and read again when they are others. Without resolv.conf all stays as it was: it is about to come
 * back. Reading replaces the servers; questions on their way are kept meanwhile, and asked again.
 *
 * Both families are asked for, whatever addresses this machine has (libevent would look at that
 * once, too). Some servers never answer for IPv6: the other's answer waits for RESOLVER_SKEW.
 */
#include "relay/resolver.h"

#include <event2/dns.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#ifndef RESOLVER_CONF /* a test has its own */
#define RESOLVER_CONF "/etc/resolv.conf"
#endif
#define RESOLVER_SKEW "0.5" /* seconds */
#define RESOLVER_HOSTS "/etc/hosts" /* where evdns looks */

static bool look(const char *path, struct resolver_version *version)
{
	struct stat st;

	memset(version, 0, sizeof(*version)); /* padding, too: they are compared whole */
	if (stat(path, &st) < 0)
		return false;
	version->device = st.st_dev;
	version->inode = st.st_ino;
	version->size = st.st_size;
	version->changed = st.st_mtim;
	return true;
}

static void read_again(struct evdns_base *dns)
{
	evdns_base_clear_nameservers_and_suspend(dns);
	evdns_base_search_clear(dns);
	evdns_base_clear_host_addresses(dns);
	/* if it names no server there is one on this machine, as for everybody else */
	evdns_base_resolv_conf_parse(dns, DNS_OPTIONS_ALL, RESOLVER_CONF);
	evdns_base_resume(dns);
}

struct evdns_base *resolver_dns(struct resolver *r, struct event_base *base)
{
	struct resolver_version now[RESOLVER_FILES];

	/* before it is read: what comes in between is seen the next time */
	look(RESOLVER_HOSTS, &now[RESOLVER_HOSTS_FILE]);
	if (!look(RESOLVER_CONF, &now[RESOLVER_CONF_FILE]) ||
	    (r->dns && memcmp(now, r->version, sizeof(now)) == 0))
		return r->dns;
	if (!r->dns) {
		r->dns = evdns_base_new(base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
		if (!r->dns)
			return NULL;
		evdns_base_set_option(r->dns, "getaddrinfo-allow-skew:", RESOLVER_SKEW);
	}
	read_again(r->dns);
	memcpy(r->version, now, sizeof(now));
	return r->dns;
}
