/*
 * destination: a service as a config has it, with what is made of that.
 *
 * Theory of operation: what a config says of the service is copied. Were the config held instead,
 * each of a thousand services that came one at a time would keep one with all that were there then.
 */
#include "relay/destination.h"

#include <stdlib.h>

#include "relay/health.h"
#include "relay/opening.h"
#include "relay/probe.h"

static bool is_same(const struct destination *d, const struct service_config *s,
		    const struct splice_spec *splice)
{
	if (!d || !d->config != !s || d->splice.idle_ms != splice->idle_ms ||
	    d->splice.half_closed_ms != splice->half_closed_ms)
		return false;
	return !s || relay_config_same_service(d->config, s);
}

struct destination *destination_of(const struct relay_config *c, const struct service_config *s,
				   struct destination *before)
{
	const struct splice_spec splice = { .idle_ms = s && s->idle ? s->idle : c->timeouts.idle,
					    .half_closed_ms = c->timeouts.half_closed,
					    .may_pass = opening_may_pass,
					    .passed = opening_passed,
					    .room = opening_room,
					    .kept = opening_kept,
					    .end = opening_on_splice_end };
	struct destination *d;

	if (is_same(before, s, &splice))
		return destination_ref(before);
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	atomic_init(&d->refs, 1);
	d->splice = splice;
	if (s) {
		d->config = service_config_copy(s);
		d->health = health_new(d->config, before ? before->health : NULL);
		if (!d->health || probes_new(&d->probes, d->config, d->health) < 0)
			return destination_unref(d);
	}
	return d;
}

struct destination *destination_ref(struct destination *d)
{
	atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	return d;
}

struct destination *destination_unref(struct destination *d)
{
	if (!d || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	probes_free(d->probes);
	health_free(d->health);
	service_config_free(d->config);
	free(d);
	return NULL;
}
