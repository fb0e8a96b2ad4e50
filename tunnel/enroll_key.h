/*
 * enroll_key: a new key, the request for its certificate, and the two files they end up in. Only
 * one at a time in a folder; the pair there is always one that fits, or becomes it by the next one.
 */
#ifndef TUNNEL_ENROLL_KEY_H
#define TUNNEL_ENROLL_KEY_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>

#define ENROLL_OWNER_MAX 64
#define ENROLL_TIME_MAX 64

/* What is on the way to the folder. */
struct enroll_key {
	EVP_PKEY *key;
	char *key_path, *certificate_path; /* where they end up */
	char *new_path;                    /* where the key is until then; NULL: nowhere */
	char *new_certificate_path;        /* the same of the certificate */
	bool force;                        /* they may replace what is there */
	int lock;                          /* of the folder: one at a time; -1: none */
};

/* What a certificate says. */
struct enroll_owner {
	char name[ENROLL_OWNER_MAX]; /* "": it does not say */
	char until[ENROLL_TIME_MAX];
};

/*
 * Makes a key and keeps it in the folder, which is made if need be, under a name that is not its
 * last. 0, or -errno and *why an allocated line for people (NULL: no memory).
 */
int enroll_key_make(struct enroll_key *k, const char *folder, bool force, char **why);
/*
 * The same for a pair that is there and is to be replaced, by files of the same user and mode; with
 * its key once more if keep, else with a new one.
 */
int enroll_key_renew(struct enroll_key *k, const char *certificate, const char *key, bool keep,
		     char **why);
/* When a certificate ends, as text, and whether so little is left that it is time for another. */
int enroll_key_is_due(const char *certificate, char until[ENROLL_TIME_MAX], bool *due, char **why);
/* A request for a certificate, in PEM, to be freed. NULL: libcrypto would not. */
char *enroll_key_request(const struct enroll_key *k);
/* The certificate has come: sees that it is for this key, and puts both in their places. */
int enroll_key_finish(struct enroll_key *k, const char *pem, size_t len, struct enroll_owner *owner,
		      char **why);
/* Without a finish, nothing is left in the folder. */
void enroll_key_deinit(struct enroll_key *k);

#endif
