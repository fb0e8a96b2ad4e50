/* doctor_listen: could the daemon listen there, or does it already? */
#ifndef RELAY_DOCTOR_LISTEN_H
#define RELAY_DOCTOR_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct address;
struct doctor;

/* How the daemon would do it, beyond the address; see struct bind_access. */
struct doctor_place {
	const char *netns; /* NULL: ours */
	bool makes_folder; /* one that is not there is made */
};

/* One line. */
void doctor_listen(struct doctor *d, const struct address *a, const struct doctor_place *place);
/* The same of a program's own listener, such as for metrics, named by its address; NONE: none. */
void doctor_listen_own(struct doctor *d, const struct address *a);
/* How many connections there are to the Unix socket at path, as far as the kernel tells. */
unsigned doctor_listen_connections(const char *path);
/* The folder of a path: is it there, and may we make files in it? Empty: all is well; or a fault.
 */
const char *doctor_folder_fault(const char *path, bool makes_folder, char *buf, size_t size);

#endif
