/* doctor: `qgs-bridge doctor`: what usually keeps a bridge from working; see relay/doctor.h. */
#ifndef QGS_BRIDGE_DOCTOR_H
#define QGS_BRIDGE_DOCTOR_H

/* argv[0] is "doctor". The exit status. */
int doctor_bridge(int argc, char **argv);

#endif
