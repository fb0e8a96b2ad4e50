/* doctor: `attest-tunnel doctor`: what usually keeps an agent from working; see relay/doctor.h. */
#ifndef TUNNEL_DOCTOR_H
#define TUNNEL_DOCTOR_H

/* The exit status; -1: argv[1] is not "doctor". */
int doctor_tunnel(int argc, char **argv);

#endif
