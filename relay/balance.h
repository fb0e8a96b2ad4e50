/*
 * balance: which of several tunnels is a client's, where a service's balance is sticky. Pure.
 */
#ifndef RELAY_BALANCE_H
#define RELAY_BALANCE_H

#include <stdint.h>

struct client;

/*
 * Who it is, as a number: by the CN of its verified certificate; else its IPv4 address, its IPv6
 * network (/64: one machine has many addresses there), its CID, its uid. Ports and pids, which are
 * others each time, are left out.
 */
uint64_t balance_client(const struct client *k);
/* An agent's instance as a number. Both are the same in every relay, and after a restart. */
uint64_t balance_instance(const char *owner, const char *instance);

/*
 * The client's tunnel is the one with the highest score (rendezvous hashing): when one goes, only
 * its own clients move, and when it is back they return.
 */
uint64_t balance_score(uint64_t client, uint64_t instance);

#endif
