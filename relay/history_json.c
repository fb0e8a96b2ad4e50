/*
 * history_json: the last hour as JSON.
 *
 * Theory of operation: samples stand there with what came in them, not with rates, and gaps are
 * left out: each sample says when it ended and how long it took. Of reasons, those that came.
 */
#include "relay/history_json.h"

#include <json-c/json_object.h>
#include <stdbool.h>
#include <stdint.h>

#include "relay/history.h"
#include "relay/settings.h"

static void put(struct json_object *to, const char *name, uint64_t n)
{
	json_object_object_add(to, name, json_object_new_uint64(n));
}

static void put_reasons(struct json_object *to, const char *name, const uint32_t of[REASONS])
{
	struct json_object *o = json_object_new_object();

	for (unsigned i = 0; i < REASONS; i++)
		if (of[i])
			put(o, reason_word(i), of[i]);
	json_object_object_add(to, name, o);
}

static struct json_object *sample(const struct history_sample *s, uint64_t ended)
{
	struct json_object *o = json_object_new_object();

	put(o, "ended_at", ended);
	put(o, "milliseconds", s->ms);
	put(o, "bytes_up", s->bytes_up);
	put(o, "bytes_down", s->bytes_down);
	put(o, "streams", s->streams);
	put(o, "tunnels", s->tunnels);
	put(o, "audit_lost", s->audit_lost);
	put(o, "live_streams", s->live_streams);
	put(o, "live_parked", s->live_parked);
	put(o, "live_tunnels", s->live_tunnels);
	put_reasons(o, "ended", s->ends);
	put_reasons(o, "refused", s->refusals);
	return o;
}

struct json_object *history_json(const struct history *h)
{
	const uint64_t now = settings_now(), clock = history_now(), newest = history_newest(h);
	struct json_object *o = json_object_new_object(), *samples = json_object_new_array();

	put(o, "now", now);
	put(o, "step_seconds", HISTORY_STEP_MS / 1000);
	for (uint64_t slot = newest > HISTORY_SAMPLES ? newest - HISTORY_SAMPLES + 1 : 1;
	     slot <= newest; slot++) {
		const struct history_sample *s = history_at(h, slot);

		if (s)
			json_object_array_add(
				samples, sample(s, now - (clock - slot * HISTORY_STEP_MS) / 1000));
	}
	json_object_object_add(o, "samples", samples);
	return o;
}
