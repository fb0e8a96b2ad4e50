/*
 * Fuzzes who_read_cgroup: no read outside, names of harmless characters within their bounds, and
 * what is appended to a line that decided already changes nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "qgs-bridge/who.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const char *name, size_t max)
{
	static const char harmless[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				       "0123456789._-?";

	if (strnlen(name, max) == max || name[strspn(name, harmless)])
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char forged[] = "0::/kubepods/pod0000/x\n0::/machine/qemu-1-x.libvirt-qemu\n";
	char pod[WHO_POD_MAX], domain[WHO_DOMAIN_MAX];
	char pod_2[WHO_POD_MAX], domain_2[WHO_DOMAIN_MAX];
	char *longer = malloc(size + sizeof(forged));

	if (!longer)
		return 0;
	who_read_cgroup((const char *)data, size, pod, domain);
	check_name(pod, sizeof(pod));
	check_name(domain, sizeof(domain));
	if ((pod[0] && domain[0]) || strchr(pod, '?'))
		abort();
	memcpy(longer, data, size);
	memcpy(longer + size, forged, sizeof(forged) - 1);
	who_read_cgroup(longer, size + sizeof(forged) - 1, pod_2, domain_2);
	if ((pod[0] || domain[0]) && (strcmp(pod, pod_2) != 0 || strcmp(domain, domain_2) != 0))
		abort();
	free(longer);
	return 0;
}
