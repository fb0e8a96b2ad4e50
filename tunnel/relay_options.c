/*
 * relay_options: the flags that say where relays are and how to get there.
 *
 * Theory of operation: lists grow, single values replace what a config file had. Only what no
 * config can judge is judged here: an address, which has to be understood to be kept.
 */
#include "tunnel/relay_options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "config/xalloc.h"

bool relay_options_complain(const char *fmt, ...)
{
	va_list args;

	fputs("attest-tunnel: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return false;
}

bool relay_options_address(struct address *a, const char *flag, const char *text)
{
	char *why = NULL;

	if (address_parse(a, text, &why) < 0) {
		relay_options_complain("--%s %s: %s", flag, text, why ? why : "out of memory");
		free(why);
		return false;
	}
	if (a->kind == ADDRESS_TCP || a->kind == ADDRESS_UNIX)
		return true;
	address_deinit(a);
	return relay_options_complain("--%s %s: expected tcp:HOST:PORT or unix:PATH", flag, text);
}

static bool add_relay(struct tunnel_config *c, const char *text)
{
	struct address a = { 0 };

	if (!relay_options_address(&a, "relay", text))
		return false;
	c->relays.at = xreallocarray(c->relays.at, c->relays.n + 1, sizeof(*c->relays.at));
	c->relays.at[c->relays.n++] = a;
	return true;
}

static bool set_no_proxy(struct tunnel_config *c, const char *text)
{
	char *why = NULL;

	if (tunnel_config_set_no_proxy(c, text, &why) == 0)
		return true;
	relay_options_complain("--no-proxy: %s", why);
	free(why);
	return false;
}

/* Where an option's text goes as it is. */
static char **text_of(struct tunnel_config *c, int option)
{
	switch (option) {
	case RELAY_OPTION_CA_FILE:
		return &c->ca_file;
	case RELAY_OPTION_SERVER_NAME:
		return &c->server_name;
	case RELAY_OPTION_PROXY:
		return &c->proxy;
	case RELAY_OPTION_PROXY_CREDENTIALS:
		return &c->proxy_credentials_file;
	default:
		return &c->proxy_ca_file;
	}
}

bool relay_options_has(int option)
{
	return option == RELAY_OPTION_RELAY ||
	       (option >= RELAY_OPTION_CA_FILE && option < RELAY_OPTIONS_END);
}

bool relay_options_apply(struct tunnel_config *c, int option, const char *value)
{
	char **text;

	if (option == RELAY_OPTION_RELAY)
		return add_relay(c, value);
	if (option == RELAY_OPTION_NO_PROXY)
		return set_no_proxy(c, value);
	if (option == RELAY_OPTION_SERVER_NAME && !*value)
		return relay_options_complain(
			"--server-name: expected the name in the relay's certificate");
	text = text_of(c, option);
	free(*text);
	*text = xstrdup(value);
	return true;
}
