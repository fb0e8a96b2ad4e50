/*
 * vm-svsm: coconut-svsm at its attestation, and aproxy, to which it talks.
 *
 *   vm-svsm aproxy PORT        listen at this port of vsock, any CID
 *   vm-svsm attest CID PORT N  N SVSMs at once; 0: all were answered right
 *
 * A message is its length, 8 bytes little-endian, and so many bytes; here they come back reversed.
 * aproxy has one SVSM at a time, two messages of each, then waits for its end, however long that
 * takes; whatever is wrong ends it. An SVSM has no time-outs: an alarm ends this program.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define MESSAGE_MAX 8192
#define LIMIT	    60 /* seconds for all SVSMs: an emulated machine is slow */

static void die(const char *what)
{
	fprintf(stderr, "vm-svsm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void read_exactly(int fd, void *to, size_t len)
{
	ssize_t n;

	for (size_t have = 0; have < len; have += (size_t)n) {
		n = read(fd, (char *)to + have, len - have);
		if (n < 0)
			die("read");
		if (!n) {
			errno = EPIPE;
			die("the end within a message");
		}
	}
}

static void write_exactly(int fd, const void *from, size_t len)
{
	ssize_t n;

	for (size_t done = 0; done < len; done += (size_t)n) {
		n = write(fd, (const char *)from + done, len - done);
		if (n < 0)
			die("write");
	}
}

static size_t read_message(int fd, uint8_t *to)
{
	uint64_t len;

	read_exactly(fd, &len, sizeof(len));
	if (len > MESSAGE_MAX) {
		errno = EMSGSIZE;
		die("a message's length");
	}
	read_exactly(fd, to, len);
	return len;
}

static void write_message(int fd, const uint8_t *from, size_t n)
{
	uint64_t len = n;

	write_exactly(fd, &len, sizeof(len));
	write_exactly(fd, from, n);
}

static int vsock(unsigned cid, unsigned port, struct sockaddr_vm *a)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	memset(a, 0, sizeof(*a));
	a->svm_family = AF_VSOCK;
	a->svm_cid = cid;
	a->svm_port = port;
	return fd;
}

static void reverse(const uint8_t *from, uint8_t *to, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = from[len - 1 - i];
}

static void aproxy(unsigned port)
{
	uint8_t asked[MESSAGE_MAX], told[MESSAGE_MAX];
	struct sockaddr_vm at;
	int fd = vsock(VMADDR_CID_ANY, port, &at);

	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 64) < 0)
		die("listen");
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		int s = accept(fd, NULL, NULL);
		ssize_t n;

		if (s < 0)
			die("accept");
		for (int round = 0; round < 2; round++) {
			size_t len = read_message(s, asked);

			reverse(asked, told, len);
			write_message(s, told, len);
		}
		while ((n = read(s, asked, sizeof(asked))) > 0)
			;
		if (n < 0)
			die("its end");
		close(s);
		printf("served\n");
		fflush(stdout);
	}
}

/* Its requests are some 100 bytes, and some 3 KB for the report. */
static void attest(unsigned cid, unsigned port, unsigned seed)
{
	static const size_t sizes[] = { 100, 3000 };
	uint8_t asked[MESSAGE_MAX], told[MESSAGE_MAX], wanted[MESSAGE_MAX];
	struct sockaddr_vm to;
	int fd = vsock(cid, port, &to);

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die("connect");
	for (int round = 0; round < 2; round++) {
		size_t len = sizes[round];

		for (size_t i = 0; i < len; i++)
			asked[i] = (uint8_t)(seed * 31 + i * 7 + i / 256);
		reverse(asked, wanted, len);
		write_message(fd, asked, len);
		errno = EBADMSG;
		if (read_message(fd, told) != len || memcmp(told, wanted, len) != 0)
			die("the answer");
	}
	close(fd);
}

int main(int argc, char **argv)
{
	unsigned wrong = 0, n, cid, port;
	int status;

	if (argc == 3 && strcmp(argv[1], "aproxy") == 0)
		aproxy((unsigned)strtoul(argv[2], NULL, 10));
	if (argc != 5 || strcmp(argv[1], "attest") != 0) {
		fprintf(stderr, "usage: vm-svsm aproxy PORT | attest CID PORT N\n");
		return 2;
	}
	cid = (unsigned)strtoul(argv[2], NULL, 10);
	port = (unsigned)strtoul(argv[3], NULL, 10);
	n = (unsigned)strtoul(argv[4], NULL, 10);
	/* On a machine that is no VM of these tests, CID 2 is somebody else's. */
	if (cid == VMADDR_CID_HOST && access("/this-is-a-test-vm", F_OK) < 0)
		die("vsock CID 2 outside a test VM");
	for (unsigned i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (!pid) {
			alarm(LIMIT);
			attest(cid, port, i);
			return 0;
		}
	}
	while (wait(&status) > 0)
		wrong += status != 0;
	printf("attested=%u wrong=%u\n", n - wrong, wrong);
	return wrong ? 1 : 0;
}
