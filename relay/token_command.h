/* token_command: attest-relay token new, and token hash. */
#ifndef RELAY_TOKEN_COMMAND_H
#define RELAY_TOKEN_COMMAND_H

/* argv[0] is "token". The exit status; -1: it was called wrongly, and nothing has been said. */
int token_command(int argc, char **argv);

#endif
