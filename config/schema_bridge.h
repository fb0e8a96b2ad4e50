/*
 * schema_bridge: the tables of qgs-bridge's files, and what must hold beyond them. For the library.
 */
#ifndef CONFIG_SCHEMA_BRIDGE_H
#define CONFIG_SCHEMA_BRIDGE_H

#include "config/bridge.h"
#include "config/schema.h"

extern const struct table bridge_table;
extern const struct table vm_file_table;

/* check_bridge.c. Also settles the listeners. clean: nothing was wrong so far. */
void check_bridge(const struct source *s, struct bridge_config *c, const struct node *root,
		  bool clean);
void check_vm_file(const struct source *s, struct vm_file *f, const struct node *root);
/* What flags and files may say together. At lines, since flags have no columns. */
void check_bridge_run(const char *name, const struct bridge_config *c, struct config_errors *e);
void check_vm_file_run(const char *name, const struct vm_file *f, const struct bridge_config *c,
		       struct config_errors *e);
/* NULL, or what is wrong with the address of a listener by itself, allocated. */
char *check_entrance_address(const struct entrance_config *l);
bool check_entrance_makes_file(const struct entrance_config *l);
/* Drops the modes, which have defaults, of what makes no file. */
void check_entrance_settle(struct entrance_config *l);
/* Two that could not both be there. */
bool check_entrances_clash(const struct entrance_config *a, const struct entrance_config *b);

#endif
