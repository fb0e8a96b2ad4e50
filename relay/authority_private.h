/* authority_private: what authority.c shares with authority_list.c. */
#ifndef RELAY_AUTHORITY_PRIVATE_H
#define RELAY_AUTHORITY_PRIVATE_H

#include <openssl/x509.h>
#include <stddef.h>

#define AUTHORITY_EARLY 300 /* seconds: the clocks of those who judge it may be behind */

struct authority {
	X509 *certificate;
	EVP_PKEY *key;
};

/* What was written to a BIO in memory; NULL: no memory. len may be NULL. The BIO is consumed. */
char *authority_text(BIO *out, size_t *len);
/* For PEM files: nobody is asked for a password. */
int authority_no_password(char *buf, int size, int writing, void *arg);
/* What a key signs by; NULL: it has no choice. */
const EVP_MD *authority_digest(const EVP_PKEY *key);

#endif
