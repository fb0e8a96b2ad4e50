/*
 * rules: who may use which listener.
 *
 * Theory of operation: a walk down the config's list. Everything is text from the kernel against a
 * pattern from the config, or a number against a range; nothing is kept.
 */
#include "qgs-bridge/rules.h"

#include <fnmatch.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "config/scalar.h"
#include "qgs-bridge/who.h"

/* Nothing asked for always holds; "" is not known, so no pattern does. */
static bool text_holds(const char *pattern, const char *text)
{
	return !pattern || (text[0] && fnmatch(pattern, text, 0) == 0);
}

/* The same of what a cgroup tells; to deny, it is enough that it may be so. */
static bool cgroup_holds(const struct rule_config *r, const struct who *who)
{
	bool maybe = who->unsure && r->action == RULE_DENY;

	return ((maybe && strncmp(who->vm, "pid:", 4) == 0) || text_holds(r->vm, who->vm)) &&
	       (maybe || text_holds(r->pod, who->pod)) &&
	       (maybe || text_holds(r->domain, who->domain));
}

static bool number_holds(const char *range, bool known, uint64_t number)
{
	uint64_t from, to;

	if (!range)
		return true;
	return known && scalar_range(range, &from, &to) == 0 && number >= from && number <= to;
}

/* Whoever has a network namespace of his own has what CIDs he likes there. */
static bool is_cid_known(const struct rule_config *r, const struct who *who)
{
	return who->peer.family == AF_VSOCK &&
	       (!who->elsewhere || r->listener || r->action == RULE_DENY);
}

static bool rule_holds(const struct rule_config *r, const char *listener, const struct who *who)
{
	return text_holds(r->listener, listener) && cgroup_holds(r, who) &&
	       number_holds(r->cid, is_cid_known(r, who), who->peer.a) &&
	       number_holds(r->uid, who->uid != UINT32_MAX, who->uid) &&
	       number_holds(r->gid, who->gid != UINT32_MAX, who->gid) &&
	       text_holds(r->label, who->label);
}

bool rules_allow(const struct bridge_config *c, const char *listener, const struct who *who,
		 int *line)
{
	*line = 0;
	if (!c->n_rules)
		return true;
	for (size_t i = 0; i < c->n_rules; i++)
		if (rule_holds(&c->rules[i], listener, who)) {
			*line = c->rules[i].line;
			return c->rules[i].action == RULE_ALLOW;
		}
	return false;
}
