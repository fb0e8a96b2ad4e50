/* bind: from an address to a listening socket. */
#ifndef RELAY_BIND_H
#define RELAY_BIND_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "config/address.h"

#define BIND_BACKLOG 4096 /* vsock has no SYN retry; the kernel cuts it to somaxconn */

/*
 * Listens at tcp, unix, vsock, hybrid (a Unix socket PATH_PORT, where the VMM connects for its
 * guest) or takes over fd:NAME from systemd. One that inherit.h has for the address is used instead
 * of a new one. A Unix path left behind by a dead process is replaced; one that is served by a
 * living one is not. tcp:[::] takes IPv4 too. A non-blocking, close-on-exec fd, or -1 with *why an
 * allocated line for people. Blocks on DNS if the host is a name: for start-up only.
 */
int bind_listen(const struct address *a, char **why);

/* How a socket is to be made, beyond its address. Zeroed: no wishes. */
struct bind_access {
	const char *owner, *group; /* Unix: name or number; NULL: the process's own */
	const char *selinux;       /* Unix: label, or NULL */
	const char *netns;         /* TCP, vsock: namespace file to listen in, or NULL */
	mode_t mode;               /* Unix: of the socket; 0: by the umask */
	mode_t directory_mode;     /* Unix: of folders made because they are missing; 0: none are */
	/*
	 * Unix: so many bytes of the path lead to a folder of somebody whom we do not trust:
	 * neither it nor what is below may be a symbolic link. 0: links are followed.
	 */
	size_t beneath;
	/*
	 * TCP: sockets of ours at its port whose address overlaps (0.0.0.0 and 127.0.0.1), and
	 * which are about to go. All listen afterwards, or these alone; meanwhile the narrower
	 * address gets who connects.
	 */
	const int *leaving;
	size_t n_leaving;
};

/*
 * Which file a Unix path is: it may have been replaced by somebody else's since. Means something
 * while the socket is open; after that another file may get the same number.
 */
struct bind_file {
	dev_t dev;
	ino_t ino;      /* 0: no file */
	size_t beneath; /* as in bind_access, when it was made */
};

/*
 * The same with more say. A Unix path is made under another name beside it and renamed into place
 * when owner, mode, label and backlog are as they are to be: nobody ever finds it half-done (ss(8)
 * shows that other name). *file goes in zeroed and says then which file the path is; or it goes in
 * as the file of an earlier socket of ours, still open: that one is replaced although it is served,
 * and the path is never missing. *netns gets the inode of the network namespace listened in, 0 for
 * a path or an fd. Both may be NULL, and are untouched on failure. Blocks on the user database too.
 */
int bind_listen_with(const struct address *a, const struct bind_access *access,
		     struct bind_file *file, ino_t *netns, char **why);
/* Which file a path that bind_listen has just bound is; none (ino 0) where there is no path. */
void bind_identify(const struct address *a, struct bind_file *file);
/*
 * TCP: handshakes that are under way come to their end here, and no other begins: whoever knocks is
 * not answered, tries again within a second or two, and finds what listens at the address then. For
 * a socket that is about to be closed, and that no other process has.
 */
void bind_begin_no_more(int fd);
/* Removes the path if it still is that file. The socket is closed by the caller, afterwards. */
void bind_withdraw(const struct address *a, const struct bind_file *file);
/*
 * Lets go of a socket of ours: its path is removed if it still is that file (NULL: it stays), and
 * it is closed. But systemd's, fd:NAME, stays open for who asks next, be it another process, and
 * holds those in its queue until then. fd -1: nothing.
 */
void bind_release(const struct address *a, int fd, const struct bind_file *file);
/* Can only processes of this machine connect there? A Unix socket, or an IP one on loopback. */
bool bind_is_local(int fd);
/* True if the path is (still) that file; false where there is none (ino 0). */
bool bind_is_there(const struct address *a, const struct bind_file *file);
/* Closes fd and removes a Unix path that bind_listen made. */
void bind_close(const struct address *a, int fd);
/* Removes the path alone, for a socket that somebody else has closed. */
void bind_forget(const struct address *a);

/* Where fd really listens (the port, if 0 was asked for), as an address. Returns buf. */
const char *bind_describe(const struct address *a, int fd, char *buf, size_t size);

#endif
