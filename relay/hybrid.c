/*
 * hybrid: the opening words of hybrid vsock.
 *
 * Theory of operation: bytes are judged one by one, since nothing behind the line may be taken; so
 * how many were heard is all the state there is. What is no "OK " is refused at its first wrong
 * byte: who does not speak this may never end a line. The number is the VMM's own affair.
 */
#include "relay/hybrid.h"

#include <stdio.h>
#include <string.h>

static const char word[] = "OK ";

size_t hybrid_request(char out[HYBRID_REQUEST_MAX], uint32_t port)
{
	return (size_t)snprintf(out, HYBRID_REQUEST_MAX, "CONNECT %u\n", port);
}

enum hybrid_verdict hybrid_hear(unsigned *heard, char byte)
{
	unsigned at = *heard;

	if (at >= HYBRID_ANSWER_MAX || (at < strlen(word) && byte != word[at]))
		return HYBRID_NO;
	++*heard;
	return byte == '\n' ? HYBRID_OPEN : HYBRID_MORE;
}
