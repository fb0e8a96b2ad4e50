/* ask: a secret that a person types, or a program writes, once. */
#ifndef TUNNEL_ASK_H
#define TUNNEL_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* There is a terminal on standard input, so somebody can be asked. */
bool ask_can(void);

/*
 * One line without its end. Prompted for and not shown if standard input is a terminal. Its length,
 * or -errno: -ENODATA, there was nothing; -EFBIG; -EINTR, a signal came that ends programs. Wipe
 * buf.
 */
ssize_t ask_line(const char *prompt, char *buf, size_t size) __attribute__((warn_unused_result));

#endif
