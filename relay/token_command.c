/*
 * token_command: makes tokens and their hashes, for the config.
 *
 * Theory of operation: a token is printed once and stored nowhere.
 */
#include "relay/token_command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/token.h"

static int print_token(const char *token, bool show)
{
	uint8_t hash[TOKEN_HASH_BYTES];
	char text[TOKEN_HASH_TEXT];

	if (token_hash(token, strlen(token), hash) < 0) {
		fprintf(stderr, "attest-relay: cannot hash: libcrypto has no SHA-256\n");
		return 1;
	}
	token_format_hash(hash, text);
	if (show)
		printf("token (for the owner's token file; it is not shown again):\n%s\n\n"
		       "for relay.yaml, under the owner's tokens:\n",
		       token);
	printf("%s\n", text);
	return 0;
}

int token_command(int argc, char **argv)
{
	char token[TOKEN_TEXT_MAX], *why = NULL;
	bool exposed;
	int r;

	if (argc == 2 && strcmp(argv[1], "new") == 0) {
		if (token_new(token) < 0) {
			fprintf(stderr, "attest-relay: no random numbers to be had\n");
			return 1;
		}
		r = print_token(token, true);
	} else if (argc == 2 && strcmp(argv[1], "hash") == 0) {
		if (token_read_file("/dev/stdin", token, &exposed, &why) < 0) {
			fprintf(stderr, "attest-relay: %s\n", why ? why : "out of memory");
			free(why);
			return 1;
		}
		r = print_token(token, false);
	} else {
		return -1;
	}
	token_wipe(token);
	return r;
}
