/*
 * instance: SHA-256 over the machine's identity and the sorted offers, cut to 16 hex digits.
 *
 * Theory of operation: /etc/machine-id is confidential, so its application-specific derivation is
 * hashed (sd_id128_get_machine_app_specific(3)); without one, the host's name has to do. An offer
 * counts with its target: two agents for the same service on one machine are two instances.
 */
#include "tunnel/instance.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include "config/address.h"
#include "config/config.h"

#define INSTANCE_BYTES 8

/* Made for this purpose with systemd-id128 new; must never change. */
#define APPLICATION                                                                                \
	SD_ID128_MAKE(6d, 1e, 0f, 93, 5b, 7a, 4c, 48, 9a, 32, c7, 55, 1b, e2, 80, 4f)

static int compare(const void *a, const void *b)
{
	return strcmp((*(const struct offer_config *const *)a)->name,
		      (*(const struct offer_config *const *)b)->name);
}

static int hash_machine(EVP_MD_CTX *md)
{
	sd_id128_t id;
	char host[256] = "";

	if (sd_id128_get_machine_app_specific(APPLICATION, &id) >= 0)
		return EVP_DigestUpdate(md, &id, sizeof(id));
	gethostname(host, sizeof(host) - 1);
	return EVP_DigestUpdate(md, host, strlen(host));
}

static int hash_offers(EVP_MD_CTX *md, const struct tunnel_config *config)
{
	size_t n = config->n_services;
	const struct offer_config **sorted = calloc(n ? n : 1, sizeof(*sorted));
	int ok = sorted != NULL;

	for (size_t i = 0; ok && i < n; i++)
		sorted[i] = &config->services[i];
	if (ok)
		qsort(sorted, n, sizeof(*sorted), compare);
	for (size_t i = 0; ok && i < n; i++) {
		char target[ADDRESS_TEXT_MAX], line[ADDRESS_TEXT_MAX + HELLO_LABEL_MAX + 3];

		address_format(&sorted[i]->target, target, sizeof(target));
		snprintf(line, sizeof(line), "\n%s=%s", sorted[i]->name, target);
		ok = EVP_DigestUpdate(md, line, strlen(line));
	}
	free(sorted);
	return ok;
}

int instance_make(const struct tunnel_config *config, char out[HELLO_INSTANCE_MAX])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	unsigned char digest[EVP_MAX_MD_SIZE];
	int ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) && hash_machine(md) &&
		 hash_offers(md, config) && EVP_DigestFinal_ex(md, digest, NULL);

	EVP_MD_CTX_free(md);
	if (!ok)
		return -EIO;
	for (unsigned i = 0; i < INSTANCE_BYTES; i++)
		snprintf(out + 2 * i, 3, "%02x", digest[i]);
	return 0;
}
