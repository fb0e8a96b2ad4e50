/*
 * setup: a config, its TLS contexts, and what a change of it means.
 *
 * Theory of operation: immutable but for setup_refresh, which exchanges TLS contexts that
 * connections hold themselves. The last holder frees it, and the config with it.
 *
 * The way out (proxies) is decided once, for its environment has been wiped since; the HTTP
 * listeners are made once. So settings of these have to stay as they are.
 */
#include "tunnel/setup.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"
#include "relay/fileprint.h"
#include "relay/log.h"
#include "relay/tls.h"
#include "relay/token.h"
#include "tunnel/hello.h"

static struct tls_context *make_tls(const struct tunnel_config *config, enum carrier_kind kind,
				    char **why)
{
	static const char *const alpn[CARRIER_KINDS][2] = {
		[CARRIER_DIRECT] = { HELLO_ALPN, NULL },
		[CARRIER_WEBSOCKET] = { CARRIER_ALPN_WEBSOCKET, NULL },
	};
	struct tls_context *t = tls_client_context_new(config->ca_file, alpn[kind], why);

	if (t && config->certificate &&
	    tls_client_context_identify(t, config->certificate, config->key, why) < 0)
		t = tls_context_unref(t);
	return t;
}

bool setup_refresh(struct setup *s, char **why)
{
	struct tls_context *made[CARRIER_KINDS];

	*why = NULL;
	for (unsigned i = 0; i < CARRIER_KINDS; i++) {
		made[i] = make_tls(s->config, i, why);
		if (made[i])
			continue;
		while (i-- > 0)
			tls_context_unref(made[i]);
		return false;
	}
	for (unsigned i = 0; i < CARRIER_KINDS; i++) {
		tls_context_unref(s->carrier.tls[i]);
		s->carrier.tls[i] = made[i];
	}
	return true;
}

/* 0: one of them is not there. */
static uint64_t look_at_files(const struct tunnel_config *config)
{
	const char *const paths[] = { config->certificate, config->key, config->ca_file };

	return fileprint_of(paths, sizeof(paths) / sizeof(paths[0]));
}

bool setup_files_changed(struct setup *s)
{
	const uint64_t now = look_at_files(s->config);

	if (!now || now == s->files)
		return false;
	s->files = now;
	return true;
}

/* Later readings only fail a connection: the file may be being replaced just then. */
static bool check_token(const struct tunnel_config *config, char **why)
{
	char token[TOKEN_TEXT_MAX];
	bool exposed;

	if (!config->token_file)
		return true;
	if (token_read_file(config->token_file, token, &exposed, why) < 0)
		return false;
	token_wipe(token);
	if (exposed)
		log_warning("%s is a secret that other users of this machine can read: chmod 600 "
			    "it",
			    config->token_file);
	return true;
}

struct setup *setup_new(struct tunnel_config *config, struct worker *w, const struct egress *egress,
			char **why)
{
	struct setup *s = calloc(1, sizeof(*s));

	*why = NULL;
	if (!s) {
		tunnel_config_free(config);
		return NULL;
	}
	s->config = config;
	s->holders = 1;
	s->files = look_at_files(config);
	s->carrier = (struct carrier_shared){ .worker = w,
					      .egress = egress,
					      .dial_ms = config->timeouts.dial,
					      .handshake_ms = config->timeouts.handshake,
					      .dead_ms = config->timeouts.dead };
	if (config->n_services && (!check_token(config, why) || !setup_refresh(s, why)))
		return setup_unref(s);
	return s;
}

struct setup *setup_ref(struct setup *s)
{
	s->holders++;
	return s;
}

struct setup *setup_unref(struct setup *s)
{
	if (!s || --s->holders > 0)
		return NULL;
	for (unsigned i = 0; i < CARRIER_KINDS; i++)
		tls_context_unref(s->carrier.tls[i]);
	tunnel_config_free(s->config);
	free(s);
	return NULL;
}

/* ---- what has changed ---- */

static bool same_text(const char *a, const char *b)
{
	return !a == !b && (!a || strcmp(a, b) == 0);
}

static bool same_list(const struct strings *a, const struct strings *b)
{
	bool same = a->n == b->n;

	for (size_t i = 0; same && i < a->n; i++)
		same = strcmp(a->at[i], b->at[i]) == 0;
	return same;
}

static bool same_admin(const struct admin_config *a, const struct admin_config *b)
{
	return address_equal(&a->address, &b->address) && same_text(a->owner, b->owner) &&
	       same_text(a->group, b->group) && same_text(a->mode, b->mode);
}

const char *setup_differs(const struct setup *before, const struct setup *now)
{
	const struct tunnel_config *a = before->config, *b = now->config;

	if (!same_text(a->proxy, b->proxy))
		return "proxy";
	if (!same_text(a->proxy_credentials_file, b->proxy_credentials_file))
		return "proxy_credentials_file";
	if (!same_text(a->proxy_ca_file, b->proxy_ca_file))
		return "proxy_ca_file";
	if (!same_list(&a->no_proxy, &b->no_proxy))
		return "no_proxy";
	if (!same_text(a->instance, b->instance))
		return "instance";
	if (!address_equal(&a->metrics, &b->metrics))
		return "metrics";
	if (!same_admin(&a->admin, &b->admin))
		return "admin";
	return NULL;
}

static bool same_offers(const struct tunnel_config *a, const struct tunnel_config *b)
{
	size_t same = 0;

	for (size_t i = 0; i < a->n_services; i++)
		for (size_t j = 0; j < b->n_services; j++)
			same += strcasecmp(a->services[i].name, b->services[j].name) == 0 &&
				a->services[i].dial == b->services[j].dial;
	return same == a->n_services && same == b->n_services;
}

bool setup_needs_sessions(const struct setup *before, const struct setup *now)
{
	const struct tunnel_config *a = before->config, *b = now->config;

	return !same_offers(a, b) || !same_text(a->token_file, b->token_file) ||
	       !same_text(a->certificate, b->certificate) || !same_text(a->key, b->key) ||
	       !same_text(a->ca_file, b->ca_file) || !same_text(a->server_name, b->server_name) ||
	       a->transport != b->transport;
}
