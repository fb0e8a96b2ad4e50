/*
 * enroll_key: a new key, the request for its certificate, and the two files they end up in.
 *
 * Theory of operation: the key is on the disk, as key.pem.new, before anything is asked for: a
 * certificate whose key could not be kept would be lost, and the code with it. Only when the
 * certificate has come, and fits, and is on the disk as well, do both get their names; so an
 * enrolment that fails leaves nothing behind and a pair that was there as it was, and one that is
 * killed leaves files that the next one replaces.
 *
 * The folder is locked meanwhile, so that two at a time cannot mix their files. Who is killed when
 * the key has its name and the certificate not yet leaves one that fits beside it: the next one
 * begins by giving it its name.
 */
#include "tunnel/enroll_key.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "relay/atomic_file.h"
#include "relay/authority.h"

#define DUE_PART 3 /* of its time, when so much is left */

/* Sets *why; returns r. */
static __attribute__((format(printf, 3, 4))) int say(int r, char **why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (vasprintf(why, fmt, args) < 0)
		*why = NULL;
	va_end(args);
	return r;
}

static int no_password(char *buf, int size, int writing, void *arg)
{
	return -1; /* and never a prompt: what is read came from afar */
}

/* ---- before ---- */

static int check_free(const struct enroll_key *k, char **why)
{
	const char *const paths[] = { k->key_path, k->certificate_path };

	for (unsigned i = 0; i < 2 && !k->force; i++)
		if (access(paths[i], F_OK) == 0)
			return say(-EEXIST, why,
				   "%s is there already; give another --folder, or --force to "
				   "replace key and certificate, or --renew",
				   paths[i]);
	return 0;
}

static int save_key(struct enroll_key *k, char **why)
{
	BIO *pem = BIO_new(BIO_s_secmem());
	char *data;
	long len;
	int r = -EIO;

	if (pem && PEM_write_bio_PrivateKey(pem, k->key, NULL, NULL, 0, NULL, NULL)) {
		len = BIO_get_mem_data(pem, &data);
		r = atomic_file_write(k->new_path, data, (size_t)len, 0600, ATOMIC_FILE_SYNC);
	}
	BIO_free(pem); /* which wipes it */
	return r < 0 ? say(r, why, "cannot write %s: %s", k->new_path, strerror(-r)) : 0;
}

/* Of the user and mode that the key had which it is to replace. */
static int be_like_old(const struct enroll_key *k, const char *new_path, const char *path,
		       char **why)
{
	struct stat old, now;

	if (!k->force || stat(path, &old) < 0)
		return 0;
	if (stat(new_path, &now) == 0 &&
	    (now.st_uid == old.st_uid || chown(new_path, old.st_uid, old.st_gid) == 0) &&
	    chmod(new_path, old.st_mode & 0777) == 0)
		return 0;
	return say(-errno, why, "cannot make %s as %s is, for the same user: %s", new_path, path,
		   strerror(errno));
}

static char *path_beside(const char *path, const char *suffix)
{
	char *to;

	return asprintf(&to, "%s%s", path, suffix) < 0 ? NULL : to;
}

static bool set_paths(struct enroll_key *k, char *key, char *certificate)
{
	k->key_path = key;
	k->certificate_path = certificate;
	k->new_path = key ? path_beside(key, ".new") : NULL;
	k->new_certificate_path = certificate ? path_beside(certificate, ".new") : NULL;
	return k->new_path && k->new_certificate_path;
}

/* Of the key's folder, until deinit. */
static int lock(struct enroll_key *k, char **why)
{
	const char *slash = strrchr(k->key_path, '/');
	char *folder =
		slash ? strndup(k->key_path, (size_t)(slash - k->key_path) + 1) : strdup(".");
	int r = 0;

	k->lock = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (k->lock < 0)
		r = say(-errno, why, "cannot open the folder %s: %s", folder ? folder : "",
			strerror(errno));
	else if (flock(k->lock, LOCK_EX | LOCK_NB) < 0)
		r = say(-errno, why,
			errno == EWOULDBLOCK ? "another enrolment is under way in %s"
					     : "cannot lock the folder %s",
			folder);
	free(folder);
	return r;
}

static X509 *load_certificate(const char *path)
{
	FILE *in = fopen(path, "re");
	X509 *x = in ? PEM_read_X509(in, NULL, no_password, NULL) : NULL;

	if (in)
		fclose(in);
	ERR_clear_error();
	return x;
}

static EVP_PKEY *load_key(const char *path)
{
	FILE *in = fopen(path, "re");
	EVP_PKEY *key = in ? PEM_read_PrivateKey(in, NULL, no_password, NULL) : NULL;

	if (in)
		fclose(in);
	ERR_clear_error();
	return key;
}

/* Whoever was killed between the two names. */
static int complete_last(const struct enroll_key *k, char **why)
{
	X509 *x = load_certificate(k->new_certificate_path);
	EVP_PKEY *key = x ? load_key(k->key_path) : NULL;
	int r = 0;

	if (key && X509_check_private_key(x, key) == 1)
		r = atomic_file_move(k->new_certificate_path, k->certificate_path,
				     ATOMIC_FILE_SYNC);
	EVP_PKEY_free(key);
	X509_free(x);
	ERR_clear_error();
	return r < 0 ? say(r, why, "cannot write %s: %s", k->certificate_path, strerror(-r)) : 0;
}

/* The folder is this one's own from now on. */
static int enter(struct enroll_key *k, char **why)
{
	int r = lock(k, why);

	if (r == 0)
		r = complete_last(k, why);
	return r < 0 ? r : check_free(k, why);
}

static int make_key(struct enroll_key *k, char **why)
{
	int r;

	if (!k->key)
		k->key = EVP_EC_gen("P-256");
	r = k->key ? save_key(k, why) : say(-EIO, why, "libcrypto cannot make a key");
	return r < 0 ? r : be_like_old(k, k->new_path, k->key_path, why);
}

int enroll_key_make(struct enroll_key *k, const char *folder, bool force, char **why)
{
	int r;

	*k = (struct enroll_key){ .force = force, .lock = -1 };
	*why = NULL;
	if (!set_paths(k, path_beside(folder, "/key.pem"), path_beside(folder, "/certificate.pem")))
		return -ENOMEM;
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return say(-errno, why, "cannot make the folder %s: %s", folder, strerror(errno));
	r = enter(k, why);
	return r < 0 ? r : make_key(k, why);
}

int enroll_key_renew(struct enroll_key *k, const char *certificate, const char *key, bool keep,
		     char **why)
{
	int r;

	*k = (struct enroll_key){ .force = true, .lock = -1 };
	*why = NULL;
	if (!set_paths(k, strdup(key), strdup(certificate)))
		return -ENOMEM;
	r = enter(k, why);
	if (r < 0)
		return r;
	if (keep)
		k->key = load_key(key);
	if (keep && !k->key)
		return say(-EINVAL, why, "%s is no private key in PEM without a password", key);
	return make_key(k, why);
}

int enroll_key_is_due(const char *certificate, char until[ENROLL_TIME_MAX], bool *due, char **why)
{
	X509 *x = load_certificate(certificate);
	const ASN1_TIME *from = x ? X509_get0_notBefore(x) : NULL;
	const ASN1_TIME *to = x ? X509_get0_notAfter(x) : NULL;
	int all_days, all_seconds, left_days, left_seconds, r = 0;
	struct tm tm;

	*why = NULL;
	if (!x || ASN1_TIME_diff(&all_days, &all_seconds, from, to) != 1 ||
	    ASN1_TIME_diff(&left_days, &left_seconds, NULL, to) != 1 ||
	    ASN1_TIME_to_tm(to, &tm) != 1) {
		r = say(-EINVAL, why, "there is no certificate in %s that could be renewed",
			certificate);
	} else {
		strftime(until, ENROLL_TIME_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm);
		*due = (left_days * INT64_C(86400) + left_seconds) * DUE_PART <
		       all_days * INT64_C(86400) + all_seconds;
	}
	X509_free(x);
	ERR_clear_error();
	return r;
}

char *enroll_key_request(const struct enroll_key *k)
{
	X509_REQ *r = X509_REQ_new();
	BIO *pem = BIO_new(BIO_s_mem());
	char *data, *text = NULL;
	long len;

	/* no subject: the relay knows by the code whose it is */
	if (r && pem && X509_REQ_set_pubkey(r, k->key) && X509_REQ_sign(r, k->key, EVP_sha256()) &&
	    PEM_write_bio_X509_REQ(pem, r)) {
		len = BIO_get_mem_data(pem, &data);
		text = strndup(data, (size_t)len);
	}
	X509_REQ_free(r);
	BIO_free(pem);
	return text;
}

/* ---- after ---- */

static void read_owner(X509 *x, struct enroll_owner *owner)
{
	const size_t prefix = sizeof(AUTHORITY_OWNER_URI) - 1;
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	struct tm tm;

	*owner = (struct enroll_owner){ .name = "" };
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const char *uri;

		if (name->type != GEN_URI)
			continue;
		uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
		if (strncmp(uri, AUTHORITY_OWNER_URI, prefix) == 0)
			snprintf(owner->name, sizeof(owner->name), "%s", uri + prefix);
	}
	GENERAL_NAMES_free(names);
	if (ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1)
		strftime(owner->until, sizeof(owner->until), "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* Written to a terminal later. */
static bool is_plain(const char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			return false;
	return true;
}

/* Gives it its name. */
static int move(char **from, const char *to, unsigned flags, char **why)
{
	int r = atomic_file_move(*from, to, flags);

	if (r < 0)
		return say(r, why, "cannot write %s: %s", to, strerror(-r));
	free(*from);
	*from = NULL;
	return 0;
}

static int place(struct enroll_key *k, const char *pem, size_t len, char **why)
{
	/* without force nothing is replaced, whoever made it since check_free */
	const unsigned flags = k->force ? 0 : ATOMIC_FILE_NEW;
	/* what may find the disk full comes first: half a new pair is worse than the old one */
	int r = atomic_file_write(k->new_certificate_path, pem, len, 0644, ATOMIC_FILE_SYNC);

	if (r < 0)
		return say(r, why, "cannot write %s: %s", k->new_certificate_path, strerror(-r));
	r = be_like_old(k, k->new_certificate_path, k->certificate_path, why);
	if (r < 0)
		return r;
	r = move(&k->new_path, k->key_path, flags, why);
	if (r < 0)
		return r;
	r = move(&k->new_certificate_path, k->certificate_path, flags | ATOMIC_FILE_SYNC, why);
	if (r < 0 && !k->force)
		unlink(k->key_path); /* it was made just now, and is of no use */
	return r;
}

int enroll_key_finish(struct enroll_key *k, const char *pem, size_t len, struct enroll_owner *owner,
		      char **why)
{
	BIO *in = BIO_new_mem_buf(pem, (int)len);
	X509 *x = in ? PEM_read_bio_X509(in, NULL, no_password, NULL) : NULL;
	int r = 0;

	*why = NULL;
	if (!x)
		r = say(-EBADMSG, why, "what came from the relay is no certificate");
	else if (X509_check_private_key(x, k->key) != 1)
		r = say(-EBADMSG, why,
			"the certificate that came from the relay is for another "
			"key");
	if (r == 0) {
		read_owner(x, owner);
		if (!is_plain(owner->name))
			owner->name[0] = '\0';
		r = place(k, pem, len, why);
	}
	BIO_free(in);
	X509_free(x);
	ERR_clear_error();
	return r;
}

void enroll_key_deinit(struct enroll_key *k)
{
	EVP_PKEY_free(k->key);
	if (k->new_path && k->key) /* else it is not ours */
		unlink(k->new_path);
	if (k->new_certificate_path && k->key)
		unlink(k->new_certificate_path);
	if (k->key_path && k->lock >= 0)
		close(k->lock);
	free(k->key_path);
	free(k->certificate_path);
	free(k->new_path);
	free(k->new_certificate_path);
	*k = (struct enroll_key){ .lock = -1 };
}
