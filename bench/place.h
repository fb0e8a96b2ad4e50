/*
 * place: where to listen or to connect, HOST:PORT or unix:PATH.
 */
#ifndef BENCH_PLACE_H
#define BENCH_PLACE_H

#include <stdint.h>
#include <sys/socket.h>

/* Sources that --source-spread takes in turn: each has ephemeral ports of its own. */
#define PLACE_SOURCES 64

struct place {
	struct sockaddr_storage address;
	socklen_t len;
};

/* Ends the program if that is no address. */
void place_parse(struct place *p, const char *text);

/* A listening socket, whose connections will have TCP_NODELAY. Ends the program on failure. */
int place_listen(const struct place *p, const char *text);

/*
 * A socket on its way there, or -errno. TCP: non-blocking and not yet connected; the first send
 * tells. source: 0 leaves it to the kernel, others choose 127.0.0.x.
 */
int place_connect(const struct place *p, uint64_t source, uint64_t timeout_ns);

#endif
