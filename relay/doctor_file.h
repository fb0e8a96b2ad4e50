/* doctor_file: files that a program reads: secrets, certificates with their keys, CAs. */
#ifndef RELAY_DOCTOR_FILE_H
#define RELAY_DOCTOR_FILE_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "relay/doctor.h"

#define DOCTOR_NAME_MAX 256          /* of a certificate, for people */
#define DOCTOR_SOON (14 * 24 * 3600) /* seconds: what ends so soon is warned of */

/* Can it be read? Says so if not. */
bool doctor_readable(struct doctor *d, const char *path);
/* A line unless only owner and group may read it. True: there was no fault. */
bool doctor_secret(struct doctor *d, const char *path);

/* The certificates of a PEM file, in order; NULL: none, or none to be had. */
STACK_OF(X509) * doctor_certificates(const char *path);
const char *doctor_name(const X509_NAME *name, char buf[DOCTOR_NAME_MAX]);
const char *doctor_subject(const X509 *x, char buf[DOCTOR_NAME_MAX]);
const char *doctor_date(const ASN1_TIME *t, char buf[32]); /* "2026-01-31 23:59 UTC" */
/* A line if its time has not come, is over, or soon will be. OK: there was nothing to be said. */
enum doctor_status doctor_validity(struct doctor *d, X509 *x);
/* The same of all CAs of a file, which is read. The worst of it. */
enum doctor_status doctor_authorities(struct doctor *d, const char *path);

#endif
