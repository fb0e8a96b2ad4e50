/* doctor_relay: `attest-relay doctor`: what usually keeps a relay from working; relay/doctor.h. */
#ifndef RELAY_DOCTOR_RELAY_H
#define RELAY_DOCTOR_RELAY_H

/* argv[0] is "doctor". The exit status. */
int doctor_relay(int argc, char **argv);

#endif
