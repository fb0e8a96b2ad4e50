/*
 * place: unix:/path, vsock:CID:PORT, tcp:ADDRESS:PORT as socket addresses.
 *
 * Theory of operation: nothing is resolved; TCP takes numeric IPv4 addresses.
 */
#include "tests/tools/place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char *parse_number(const char *text, uint64_t max, uint64_t *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return "not a number";
	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno || *end || *value > max ? "not a number in range" : NULL;
}

static const char *parse_unix(struct place *p, const char *path)
{
	struct sockaddr_un *a = (struct sockaddr_un *)&p->address;

	if (*path != '/')
		return "a path begins with /";
	if (strlen(path) >= sizeof(a->sun_path))
		return "too long a path";
	a->sun_family = AF_UNIX;
	strcpy(a->sun_path, path);
	p->path = path;
	p->len = sizeof(*a);
	return NULL;
}

static const char *parse_vsock(struct place *p, const char *host, const char *port)
{
	struct sockaddr_vm *a = (struct sockaddr_vm *)&p->address;
	uint64_t cid = VMADDR_CID_ANY, number;
	const char *why = parse_number(port, UINT32_MAX - 1, &number);

	if (!why && strcmp(host, "any") != 0)
		why = parse_number(host, UINT32_MAX - 1, &cid);
	if (why)
		return why;
	a->svm_family = AF_VSOCK;
	a->svm_cid = (unsigned)cid;
	a->svm_port = (unsigned)number;
	p->len = sizeof(*a);
	return NULL;
}

static const char *parse_tcp(struct place *p, const char *host, const char *port)
{
	struct sockaddr_in *a = (struct sockaddr_in *)&p->address;
	uint64_t number;
	const char *why = parse_number(port, UINT16_MAX, &number);

	if (!why && inet_pton(AF_INET, host, &a->sin_addr) != 1)
		why = "not a numeric IPv4 address";
	if (why)
		return why;
	a->sin_family = AF_INET;
	a->sin_port = htons((uint16_t)number);
	p->len = sizeof(*a);
	return NULL;
}

const char *place_parse(struct place *p, const char *text)
{
	char host[64];
	const char *rest = strchr(text, ':'), *port;

	*p = (struct place){ .text = text };
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(p, text + 5);
	port = rest ? strrchr(rest + 1, ':') : NULL;
	if (!port || (size_t)(port - rest) > sizeof(host))
		return "not unix:/PATH, vsock:CID:PORT or tcp:ADDRESS:PORT";
	memcpy(host, rest + 1, (size_t)(port - rest - 1));
	host[port - rest - 1] = '\0';
	if (strncmp(text, "vsock:", 6) == 0)
		return parse_vsock(p, host, port + 1);
	if (strncmp(text, "tcp:", 4) == 0)
		return parse_tcp(p, host, port + 1);
	return "not unix:/PATH, vsock:CID:PORT or tcp:ADDRESS:PORT";
}

bool place_is_host(const struct place *p)
{
	const struct sockaddr_vm *a = (const struct sockaddr_vm *)&p->address;

	return p->address.ss_family == AF_VSOCK &&
	       (a->svm_cid == VMADDR_CID_HOST || a->svm_cid == VMADDR_CID_HYPERVISOR ||
		a->svm_cid == VMADDR_CID_ANY);
}

int place_listen(const struct place *p, mode_t mode)
{
	int fd = socket(p->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int saved, one = 1;

	if (fd < 0)
		return -1;
	if (p->path && unlink(p->path) && errno != ENOENT)
		goto fail;
	if (p->address.ss_family == AF_INET)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&p->address, p->len) ||
	    (p->path && mode && chmod(p->path, mode)) || listen(fd, SOMAXCONN))
		goto fail;
	return fd;
fail:
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}
