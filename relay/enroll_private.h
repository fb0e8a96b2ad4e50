/* enroll_private: what the files of attest-relay enroll share. */
#ifndef RELAY_ENROLL_PRIVATE_H
#define RELAY_ENROLL_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/authority.h"

/* One call of the command. */
struct enroll_call {
	const char *config_path, *owner, *label; /* owner: NULL if none was given */
	char **serials;                          /* argv's */
	int n_serials;
	struct relay_config *config;
	const struct enrolment_config *enrolment;
	int64_t now;
};

/* Both return false. The second takes over an allocated line. */
bool enroll_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool enroll_complain_why(const char *about, char *why);

/* NULL: what is wrong has been said. */
struct authority *enroll_load(const struct enroll_call *call);

bool enroll_list(const struct enroll_call *call);
bool enroll_revoke(const struct enroll_call *call);

#endif
