/*
 * doctor: `attest-tunnel doctor`.
 *
 * Theory of operation: the daemon's options make the daemon's config; then what it would need is
 * looked at in the order in which it would: files, the way out, each relay (tunnel/doctor_relay),
 * each service, each local port. Without a config only the machine can be looked at.
 */
#include "tunnel/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/doctor.h"
#include "relay/doctor_certificate.h"
#include "relay/doctor_command.h"
#include "relay/doctor_dial.h"
#include "relay/doctor_file.h"
#include "relay/doctor_listen.h"
#include "relay/token.h"
#include "tunnel/doctor_relay.h"
#include "tunnel/egress.h"
#include "tunnel/instance.h"
#include "tunnel/link.h"
#include "tunnel/options.h"
#include "tunnel/proxy.h"

struct patient {
	const struct tunnel_config *config;
	struct egress egress;
	bool has_egress;
	char instance[HELLO_INSTANCE_MAX];
};

static void check_token(struct doctor *d, void *patient)
{
	const char *path = ((const struct patient *)patient)->config->token_file;
	char token[TOKEN_TEXT_MAX], *why = NULL;
	bool exposed, closed;

	if (!path)
		return;
	doctor_about(d, "%s", path);
	if (!doctor_readable(d, path))
		return;
	closed = doctor_secret(d, path);
	if (token_read_file(path, token, &exposed, &why) < 0) {
		doctor_wrong(d, "put the token there as the relay's operator gave it out, alone",
			     "%s", why ? why : "out of memory");
		free(why);
		return;
	}
	token_wipe(token);
	if (closed)
		doctor_ok(d, "a token stands there, and others cannot read it");
}

static void check_files(struct doctor *d, void *patient)
{
	const struct tunnel_config *c = ((const struct patient *)patient)->config;

	doctor_certificate_client(d, c->certificate, c->key);
	doctor_certificate_authorities(d, c->ca_file);
	doctor_certificate_authorities(d, c->proxy_ca_file);
}

static void check_egress(struct doctor *d, void *patient)
{
	struct patient *p = patient;
	char *why = NULL;

	if (egress_init(&p->egress, p->config, &why) < 0) {
		doctor_wrong(d, "correct it; --proxy none goes without", "%s",
			     why ? why : "out of memory");
		free(why);
		return;
	}
	p->has_egress = true;
	if (p->egress.proxied && p->egress.proxy.credentials_file &&
	    !doctor_secret(d, p->egress.proxy.credentials_file))
		return;
	if (p->egress.proxied)
		doctor_ok(d, "%s, by %s", p->egress.proxy.text, p->egress.proxy.source);
	else
		doctor_ok(d, "none: neither the config nor the environment names one");
}

static void check_relays(struct doctor *d, void *patient)
{
	struct patient *p = patient;
	const struct tunnel_config *c = p->config;

	if (!p->has_egress) {
		doctor_skip(d, "the proxy, without which nobody goes out");
		return;
	}
	for (size_t i = 0; i < c->relays.n; i++) {
		char instance[HELLO_INSTANCE_MAX];
		const struct doctor_relay r = {
			.address = &c->relays.at[i],
			.server_name = c->server_name,
			.ca_file = c->ca_file,
			.certificate = c->certificate,
			.key = c->key,
			.egress = &p->egress,
			.dial_ms = c->timeouts.dial,
			.handshake_ms = c->timeouts.handshake,
			.transport = c->transport,
			.offers = c->n_services ? c : NULL,
			.instance = instance,
			.connects = c->n_locals,
		};

		link_name_instance(instance, p->instance, (unsigned)i);
		doctor_check_relay(d, &r);
	}
	proxy_end_joints(&p->egress.proxy); /* nobody else goes through it */
}

static void check_services(struct doctor *d, void *patient)
{
	const struct patient *p = patient;
	char where[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < p->config->n_services; i++) {
		const struct offer_config *o = &p->config->services[i];

		doctor_about(d, "%s at %s", o->name,
			     address_format(&o->target, where, sizeof(where)));
		doctor_target(d, &o->target, p->config->timeouts.dial);
	}
}

static void check_locals(struct doctor *d, void *patient)
{
	const struct patient *p = patient;
	char where[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < p->config->n_locals; i++) {
		const struct address *a = &p->config->locals[i].address;

		doctor_about(d, "%s", address_format(a, where, sizeof(where)));
		doctor_listen(d, a, NULL);
	}
}

static void check_metrics(struct doctor *d, void *patient)
{
	doctor_listen_own(d, &((const struct patient *)patient)->config->metrics);
}

static void check_admin(struct doctor *d, void *patient)
{
	doctor_listen_own(d, &((const struct patient *)patient)->config->admin.address);
}

static const struct doctor_check checks[] = {
	{ "token", check_token },     { "certificate", check_files }, { "proxy", check_egress },
	{ "relay", check_relays },    { "service", check_services },  { "local", check_locals },
	{ "metrics", check_metrics }, { "admin", check_admin },       { 0 },
};

static void name_instance(struct patient *p)
{
	const struct tunnel_config *c = p->config;

	if (c->instance)
		snprintf(p->instance, sizeof(p->instance), "%s", c->instance);
	else if (instance_make(c, p->instance) < 0)
		snprintf(p->instance, sizeof(p->instance), "doctor");
}

int doctor_tunnel(int argc, char **argv)
{
	static const struct doctor_plan plan = { .program = "attest-tunnel",
						 .checks = checks,
						 .first = "relay" };
	struct config_errors errors = { 0 };
	struct doctor_case about = { .json = doctor_arguments(&argc, argv), .errors = &errors };
	struct options o = options_judge(argc, argv, &errors);
	struct patient p = { .config = o.config };
	int status = o.status;

	if (o.action == OPTIONS_DONE && o.status != STATUS_FAILED) {
		config_errors_print(&errors, stderr);
	} else {
		about.path = o.path;
		about.patient = o.config ? &p : NULL;
		if (o.config)
			name_instance(&p);
		status = doctor_examine(&plan, &about);
		if (p.has_egress)
			egress_deinit(&p.egress);
	}
	config_errors_deinit(&errors);
	tunnel_config_free(o.config);
	return status;
}
