/* doctor_node: what else is on the node that decides whether VMs reach the bridge, and it QGS. */
#ifndef QGS_BRIDGE_DOCTOR_NODE_H
#define QGS_BRIDGE_DOCTOR_NODE_H

struct bridge_config;
struct doctor;

/* Lines of their checks: see qgs-bridge(8). */
void doctor_node_tdx(struct doctor *d);
void doctor_node_accounts(struct doctor *d, const struct bridge_config *c);
void doctor_node_selinux(struct doctor *d, const struct bridge_config *c);
void doctor_node_apparmor(struct doctor *d, const struct bridge_config *c);
void doctor_node_libvirt(struct doctor *d, const struct bridge_config *c);

#endif
