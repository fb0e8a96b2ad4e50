/*
 * counter: what a worker counts. Written by one thread, read by any (relaxed): so a reader sees
 * each counter right and the set as a whole only roughly, which is all a metric needs.
 */
#ifndef RELAY_COUNTER_H
#define RELAY_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

#include "relay/durations.h"
#include "relay/reason.h"

enum counter {
	COUNTER_ACCEPTED,	   /* connections accepted by listeners */
	COUNTER_STREAMS,	   /* streams that reached their target */
	COUNTER_BYTES_UP,	   /* client to service */
	COUNTER_BYTES_DOWN,	   /* service to client */
	COUNTER_TUNNELS,	   /* sessions accepted */
	COUNTER_ACCEPT_PAUSED,	   /* times a listener paused (descriptors or limit) */
	COUNTER_ENROLMENTS,	   /* certificates handed out */
	COUNTER_ENROLMENTS_REFUSED,
	COUNTER_LIVE_INTAKES,	   /* gauge: clients that have not said yet what they want */
	COUNTER_LIVE_OPENINGS,	   /* gauge: routed, not yet joined (parked ones included) */
	COUNTER_LIVE_PARKED,	   /* gauge */
	COUNTER_LIVE_SPLICES,	   /* gauge */
	COUNTER_LIVE_TUNNELS,	   /* gauge */
	COUNTER_LIVE_H2_CLIENTS,   /* gauge: HTTP/2 connections at the connect door */
	COUNTER_LIVE_BUFFERS,	   /* gauge: worker_buffer_get; bytes wait in them for a reader */
	COUNTER_LIVE_SOCKETS,	   /* gauge: of conduits; those that only still close included */
	COUNTERS
};

struct counters {
	atomic_uint_fast64_t value[COUNTERS];
	atomic_uint_fast64_t ended[REASONS];	/* streams, by how they ended */
	atomic_uint_fast64_t refused[REASONS];	/* clients turned away before they had a target */
	atomic_uint_fast64_t sessions[REASONS]; /* tunnels, by how they ended or were refused */
	struct durations durations[DURATIONS_KINDS];
	atomic_uint_fast64_t turn_since; /* worker_now of the turn that goes on; 0: it sleeps */
	atomic_uint_fast64_t h2_clients[REASONS]; /* HTTP/2 clients that asked for something */
};

static inline void counter_add(atomic_uint_fast64_t *c, uint64_t n)
{
	/* one writer: no locked instruction needed */
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline void counter_set(atomic_uint_fast64_t *c, uint64_t n)
{
	atomic_store_explicit(c, n, memory_order_relaxed);
}

static inline uint64_t counter_get(const atomic_uint_fast64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

#endif
