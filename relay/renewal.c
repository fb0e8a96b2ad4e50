/*
 * renewal: another certificate for who shows one that the relay's own CA has signed.
 *
 * Theory of operation: the handshake has verified it, by the list of revoked ones that was read at
 * the last reload. An operator may have taken it back since, and the next reload would not find the
 * one that is made of it now: so the list is read anew, under the lock that relay/revoke holds from
 * its look at the records to the new list. Either that sees the record of this renewal, or this
 * sees its list.
 */
#include "relay/renewal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/authority.h"
#include "relay/identity.h"
#include "relay/issued.h"
#include "relay/log.h"
#include "relay/settings.h"
#include "relay/trust.h"

bool renewal_of(const struct settings *s, const struct identity *i, struct codes_grant *out)
{
	struct credential credential;
	struct issued record;

	if (!i || identity_kind(i) != IDENTITY_OWNER ||
	    !credentials_by_identity(s->credentials, i, &credential))
		return false;
	*out = (struct codes_grant){ .owner = "" };
	snprintf(out->owner, sizeof(out->owner), "%s", credential.owner->name);
	if (issued_find(s->config->enrolment.folder, identity_serial(i), &record) == 0)
		snprintf(out->label, sizeof(out->label), "%s", record.label);
	return true;
}

static int lock_folder(const char *folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0)
		return fd < 0 ? -errno : fd;
	r = -errno;
	close(fd);
	return r;
}

static enum reason fail(char *why)
{
	log_error("enrolment: %s", why ? why : "out of memory");
	free(why);
	return REASON_INTERNAL;
}

static enum reason judge(const struct relay_config *c, const struct identity *i)
{
	char *why = NULL, *warning = NULL, *crl = authority_crl_path(c);
	int there = crl ? authority_crl_look(crl, &why) : -ENOMEM;
	struct trust *t = there < 0 ? NULL
				    : trust_new(IDENTITY_OWNER, c->enrolment.ca, there ? crl : NULL,
						&warning, &why);
	enum reason r = !t ? fail(why) : trust_holds(t, i) ? REASON_NONE : REASON_REVOKED;

	trust_unref(t);
	free(warning); /* it was said when the settings were read */
	free(crl);
	return r;
}

enum reason renewal_begin(const struct settings *s, const struct identity *i, int *lock)
{
	enum reason why;

	*lock = lock_folder(s->config->enrolment.folder);
	if (*lock == -EWOULDBLOCK)
		return REASON_LIMIT;
	if (*lock < 0) {
		log_error("enrolment: cannot lock %s: %s", s->config->enrolment.folder,
			  strerror(-*lock));
		return REASON_INTERNAL;
	}
	why = judge(s->config, i);
	if (why != REASON_NONE)
		renewal_end(*lock);
	return why;
}

void renewal_end(int lock)
{
	if (lock >= 0)
		close(lock);
}
