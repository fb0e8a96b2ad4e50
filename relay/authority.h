/*
 * authority: the relay's own CA for owners: what it signs, and the list of what it takes back.
 *
 * Knows PEM texts and two files, no sockets and no folders. A certificate says whose it is by one
 * URI among its subject's alternative names, AUTHORITY_OWNER_URI and the owner's name, and is good
 * for TLS clients only.
 */
#ifndef RELAY_AUTHORITY_H
#define RELAY_AUTHORITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct authority;
struct relay_config;

#define AUTHORITY_OWNER_URI "urn:attest-relay:owner:"
#define AUTHORITY_SERIAL_TEXT 33    /* 128 bits in lower-case hex, and a NUL */
#define AUTHORITY_REQUEST_MAX 16384 /* bytes of a certificate request in PEM */
#define AUTHORITY_REVOKED_MAX 65536 /* certificates in the list: some 2 MB to be read at a reload \
				     */

/*
 * Reads the CA's certificate and key anew and sees that they are good for signing: they fit, and it
 * is a CA of today. NULL: *why is an allocated line for people (NULL: no memory). exposed: users
 * other than owner and group may read the key.
 */
struct authority *authority_load(const char *certificate, const char *key, bool *exposed,
				 char **why);
void authority_free(struct authority *a); /* NULL is fine */

/* A new CA, EC P-256, good for ten years from now on, as texts to be freed. name: its CN. */
struct authority_made {
	char *certificate, *key; /* wipe the key */
};
int authority_make(const char *name, int64_t now, struct authority_made *out)
	__attribute__((warn_unused_result)); /* 0, or -EIO: libcrypto would not */

struct authority_certificate {
	char serial[AUTHORITY_SERIAL_TEXT];
	int64_t from, to; /* seconds since 1970 */
	char *pem;        /* to be freed; behind it the CA's, unless that has signed itself */
	size_t len;
};

/*
 * A certificate for an owner: of the request it takes the key alone, once its signature shows that
 * who asks has that. EC P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits. 0; -EINVAL: the
 * request will not do; -EIO: nothing to do with it. Then *why is a static line for people.
 */
int authority_sign(const struct authority *a, const char *owner, const char *request, size_t len,
		   uint64_t valid_ms, int64_t now, struct authority_certificate *out,
		   const char **why) __attribute__((warn_unused_result));

/*
 * Certificates taken back. NULL as crl: none so far. A list of another CA is an error and not an
 * empty one.
 */
struct authority_revoked {
	char (*serials)[AUTHORITY_SERIAL_TEXT]; /* sorted; to be freed */
	size_t n;
};
int authority_revoked(const struct authority *a, const char *crl, size_t len,
		      struct authority_revoked *out, char **why);
bool authority_is_revoked(const struct authority_revoked *r, const char *serial);

/* The list with these as well, signed anew, as a text to be freed. NULL: *why, as above. */
char *authority_revoke(const struct authority *a, const char *crl, size_t len,
		       const char (*serials)[AUTHORITY_SERIAL_TEXT], size_t n, int64_t now,
		       char **why);

/* A serial as people write it: hex in any case, with colons perhaps. False: it is none. */
bool authority_serial(const char *text, char out[AUTHORITY_SERIAL_TEXT]);

/*
 * Where the list is: who judges an owner's certificate loads it at the start and at each reload. To
 * be freed; NULL: no enrolment, or no memory.
 */
char *authority_crl_path(const struct relay_config *c);
/*
 * 1: it is there; 0: none was ever made; -ENOENT: one was, and is gone, *why as above; or another
 * -errno. Who has made one marks that.
 */
int authority_crl_look(const char *crl, char **why) __attribute__((warn_unused_result));
int authority_crl_mark(const char *crl) __attribute__((warn_unused_result)); /* 0 or -errno */

#endif
