/*
 * confine: attest-relay's sandbox: what a config will need for as long as the program runs.
 *
 * Theory of operation: files that a reload reads again, folders in which sockets are made and
 * removed, targets that are dialled; sandbox.c takes the rest away.
 */
#include "relay/confine.h"

#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/sandbox.h"

static void add_folder_of(struct sandbox_spec *s, const char *path)
{
	char *folder = strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;

	if (slash)
		slash[slash == folder] = '\0';
	if (folder)
		sandbox_folder(s, slash ? folder : ".", SANDBOX_WRITE);
	free(folder);
}

/* After a SIGHUP the file is made again; where a link leads to, too. NULL: there is none. */
static void add_audit_folders(struct sandbox_spec *s, const char *file)
{
	char *real = file ? realpath(file, NULL) : NULL;

	if (file)
		add_folder_of(s, file);
	if (real)
		add_folder_of(s, real);
	free(real);
}

/* What it will still need: files that are read again, sockets to be removed or connected to. */
static void fill_sandbox(struct sandbox_spec *s, const struct relay_config *config,
			 const char *path)
{
	sandbox_file(s, path);
	sandbox_file(s, config->tls.certificate);
	sandbox_file(s, config->tls.key);
	if (config->enrolment.ca) {
		sandbox_file(s, config->enrolment.ca);
		sandbox_file(s, config->enrolment.key);
		sandbox_folder(s, config->enrolment.folder, SANDBOX_READ | SANDBOX_WRITE);
	}
	sandbox_listener(s, &config->metrics);
	sandbox_listener(s, &config->status);
	sandbox_listener(s, &config->admin.address);
	for (size_t i = 0; i < config->n_listeners; i++) {
		sandbox_listener(s, &config->listeners[i].address);
		sandbox_file(s, config->listeners[i].client_ca);
		sandbox_file(s, config->listeners[i].client_crl);
	}
	for (size_t i = 0; i < config->n_services; i++)
		for (size_t j = 0; j < config->services[i].targets.n; j++)
			sandbox_target(s, &config->services[i].targets.at[j]);
	add_audit_folders(s, config->audit.file);
}

bool confine_relay(const struct relay_config *config, const char *path)
{
	struct sandbox_spec s = { .program = SANDBOX_RELAY };
	bool good;

	if (!path) {
		sandbox_stay_out();
		return true;
	}
	fill_sandbox(&s, config, path);
	good = sandbox_enter(&s);
	sandbox_spec_deinit(&s);
	return good;
}
