/*
 * confine: attest-tunnel's sandbox: what a config will need for as long as the program runs.
 *
 * Theory of operation: all that is read at the start is read again: the token for each connection,
 * the config, certificates and CAs at a SIGHUP. Sockets of local listeners are removed at the end,
 * services' are connected to. There is no state, and nothing is ever written.
 */
#include "tunnel/confine.h"

#include <stddef.h>

#include "config/config.h"
#include "relay/sandbox.h"
#include "tunnel/options.h"

static void add_all(struct sandbox_spec *s, const struct tunnel_config *config)
{
	const char *const files[] = { config->token_file,	      config->ca_file,
				      config->certificate,	      config->key,
				      config->proxy_credentials_file, config->proxy_ca_file };

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		sandbox_file(s, files[i]);
	sandbox_listener(s, &config->metrics);
	sandbox_listener(s, &config->admin.address);
	for (size_t i = 0; i < config->n_locals; i++)
		sandbox_listener(s, &config->locals[i].address);
	for (size_t i = 0; i < config->n_services; i++)
		sandbox_target(s, &config->services[i].target);
	for (size_t i = 0; i < config->relays.n; i++)
		sandbox_target(s, &config->relays.at[i]);
}

bool confine_tunnel(const struct options *o)
{
	struct sandbox_spec s = { .program = SANDBOX_TUNNEL };
	bool good;

	if (o->no_sandbox) {
		sandbox_stay_out();
		return true;
	}
	sandbox_file(&s, o->path);
	add_all(&s, o->config);
	good = sandbox_enter(&s);
	sandbox_spec_deinit(&s);
	return good;
}
