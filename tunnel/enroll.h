/*
 * enroll: attest-tunnel enroll: a code becomes a key and a certificate, by which the relay knows
 * this agent from then on.
 */
#ifndef TUNNEL_ENROLL_H
#define TUNNEL_ENROLL_H

/* argv[0] is "enroll". The exit status, of tunnel/options.h. */
int enroll_run(int argc, char **argv);

#endif
