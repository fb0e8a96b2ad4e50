/*
 * vms: which service a VM's streams go to: the config's table, and drop-in files beside it.
 *
 * The folder is watched: a file NAME.yaml that is written or renamed into it counts from then on,
 * one that is removed counts no more. A file that is wrong is logged, and what it said before
 * stays.
 * Hidden files, and names that do not end in .yaml, are left alone (so a writer can rename).
 */
#ifndef QGS_BRIDGE_VMS_H
#define QGS_BRIDGE_VMS_H

#include <stdint.h>

#include "config/bridge.h"

struct vms;
struct who;
struct worker;

#define VMS_FILES_MAX 4096

/*
 * config: its vms and vms_dir; must outlive it. The folder is read at once; one that is not there
 * is watched for. changed: the drop-ins' listeners may be others now (from the loop); what
 * vms_listeners told before is valid until it returns. NULL: errno says why.
 */
struct vms *vms_new(struct worker *w, const struct bridge_config *config,
		    void (*changed)(void *user), void *user);
struct vms *vms_free(struct vms *v); /* NULL is fine */
/* What files that are wrong said before, from another that is to be freed. */
void vms_inherit(struct vms *v, struct vms *from);

/* Files are asked first, by name; then the config. NULL: nobody's. Valid until the loop goes on. */
const char *vms_service(const struct vms *v, const char *listener, const struct who *who,
			const char *path, uint32_t port);

/* Listeners that the drop-ins have, in order of file names. config: valid until the next change. */
void vms_listeners(const struct vms *v,
		   void (*each)(void *user, const struct entrance_config *config), void *user);

#endif
