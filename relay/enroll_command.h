/* enroll_command: attest-relay enroll OWNER, enroll init, enroll list and enroll revoke. */
#ifndef RELAY_ENROLL_COMMAND_H
#define RELAY_ENROLL_COMMAND_H

/* argv[0] is "enroll". The exit status; -1: it was called wrongly, and why has been said. */
int enroll_command(int argc, char **argv);

#endif
