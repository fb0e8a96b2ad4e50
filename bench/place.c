/*
 * place: sockets for addresses.
 *
 * Theory of operation: accepted sockets inherit TCP_NODELAY from the listening one, which saves a
 * call for each. A Unix socket connects blocking, since a full backlog is EAGAIN there and nothing
 * tells when to try again; every send and recv says MSG_DONTWAIT, so the socket may stay as it is.
 */
#include "bench/place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/loop.h"

#define BACKLOG 4096

static void parse_unix(struct place *p, const char *path)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&p->address;

	if (!*path || strlen(path) >= sizeof(un->sun_path))
		fatal("unix:%s: not 1 to %zu bytes", path, sizeof(un->sun_path) - 1);
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	p->len = sizeof(*un);
}

void place_parse(struct place *p, const char *text)
{
	struct addrinfo ask = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *list;
	const char *colon = strrchr(text, ':');
	char host[256];
	size_t len;
	int r;

	memset(p, 0, sizeof(*p));
	if (strncmp(text, "unix:", 5) == 0) {
		parse_unix(p, text + 5);
		return;
	}
	len = colon ? (size_t)(colon - text) : 0;
	if (len == 0 || len >= sizeof(host))
		fatal("%s: not HOST:PORT or unix:PATH", text);
	if (text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	memcpy(host, text, len);
	host[len] = '\0';
	r = getaddrinfo(host, colon + 1, &ask, &list);
	if (r)
		fatal("%s port %s: %s", host, colon + 1, gai_strerror(r));
	memcpy(&p->address, list->ai_addr, list->ai_addrlen);
	p->len = list->ai_addrlen;
	freeaddrinfo(list);
}

int place_listen(const struct place *p, const char *text)
{
	int fd = socket(p->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const struct sockaddr_un *un = (const struct sockaddr_un *)&p->address;
	struct stat st;
	int one = 1;

	if (fd < 0)
		fatal("socket: %s", strerror(errno));
	if (p->address.ss_family == AF_UNIX) {
		if (lstat(un->sun_path, &st) == 0 && S_ISSOCK(st.st_mode))
			unlink(un->sun_path);
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	if (bind(fd, (const struct sockaddr *)&p->address, p->len) < 0 || listen(fd, BACKLOG) < 0)
		fatal("cannot listen at %s: %s", text, strerror(errno));
	return fd;
}

static int connect_unix(const struct place *p, int fd, uint64_t timeout_ns)
{
	struct timeval t = { .tv_sec = (time_t)(timeout_ns / 1000000000),
			     .tv_usec = (suseconds_t)(timeout_ns / 1000 % 1000000) };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
	return connect(fd, (const struct sockaddr *)&p->address, p->len) < 0 ? -errno : 0;
}

static int connect_tcp(const struct place *p, int fd, uint64_t source)
{
	struct sockaddr_in from = { .sin_family = AF_INET };
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (source) {
		from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(source % PLACE_SOURCES));
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0)
			return -errno;
	}
	if (connect(fd, (const struct sockaddr *)&p->address, p->len) < 0 && errno != EINPROGRESS)
		return -errno;
	return 0;
}

int place_connect(const struct place *p, uint64_t source, uint64_t timeout_ns)
{
	bool local = p->address.ss_family == AF_UNIX;
	int fd = socket(p->address.ss_family,
			SOCK_STREAM | SOCK_CLOEXEC | (local ? 0 : SOCK_NONBLOCK), 0);
	int r;

	if (fd < 0)
		return -errno;
	r = local ? connect_unix(p, fd, timeout_ns) : connect_tcp(p, fd, source);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}
