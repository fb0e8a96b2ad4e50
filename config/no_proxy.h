/*
 * no_proxy: which hosts are connected to without the proxy, by the entries of NO_PROXY. Pure.
 *
 *   *                       every host
 *   example.com             that host and all below it; .example.com and *.example.com are the same
 *   192.0.2.7  [2001:db8::7]  that address
 *   192.0.2.0/24            addresses of that network; names are not resolved for it
 *   example.com:8443        the same, for that port only
 */
#ifndef CONFIG_NO_PROXY_H
#define CONFIG_NO_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NO_PROXY_BETWEEN ", \t" /* entries of a list */

/* host: a name or an IP address, without brackets. An entry that is none covers nothing. */
bool no_proxy_covers(const char *entry, size_t len, const char *host, uint32_t port);
/* The same for a list as in the environment: entries between commas or spaces. */
bool no_proxy_list_covers(const char *list, const char *host, uint32_t port);

bool no_proxy_is_entry(const char *text); /* well-formed */

#endif
