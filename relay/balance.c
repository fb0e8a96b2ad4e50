/*
 * balance: clients and instances as numbers, and what they are to each other.
 *
 * Theory of operation: hashes with a key that is no secret, so that several relays agree. A client
 * that chooses its address may so choose its agent, which gains it nothing: each would serve it.
 */
#include "relay/balance.h"

#include <string.h>
#include <sys/socket.h>

#include "relay/client.h"
#include "relay/hash.h"

static const struct hash_key known = { { 0, 0 } };

uint64_t balance_client(const struct client *k)
{
	const struct peer *p = &k->peer;
	uint8_t who[9] = { (uint8_t)p->family };

	if (k->verified && k->subject[0])
		return hash_string(&known, k->subject);
	if (p->family == AF_INET)
		memcpy(who + 1, p->ip, 4);
	else if (p->family == AF_INET6)
		memcpy(who + 1, p->ip, 8);
	else if (p->family == AF_VSOCK)
		memcpy(who + 1, &p->a, sizeof(p->a));
	else
		memcpy(who + 1, &p->b, sizeof(p->b));
	return hash_bytes(&known, who, sizeof(who));
}

uint64_t balance_instance(const char *owner, const char *instance)
{
	const struct hash_key key = { { hash_string(&known, owner), 0 } };

	return hash_string(&key, instance);
}

/* The finalizer of splitmix64: each bit of what goes in turns half of those that come out. */
uint64_t balance_score(uint64_t client, uint64_t instance)
{
	uint64_t x = client ^ instance;

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}
