/* doctor: `attest-tunnel doctor`: what usually keeps an agent from working; see relay/doctor.h. */
#ifndef TUNNEL_DOCTOR_H
#define TUNNEL_DOCTOR_H

/* argv[0] is "doctor". The exit status. */
int doctor_tunnel(int argc, char **argv);

#endif
