/* What attest-tunnel enroll leaves in its folder, above all when it fails. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/pem.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "relay/atomic_file.h"
#include "relay/authority.h"
#include "tests/unit/check.h"
#include "tunnel/enroll_key.h"

#define CERTIFICATE_MIN 400 /* bytes in PEM: some more than a key has */

static char folder[] = "/tmp/attest-enroll-key-XXXXXX";
static struct authority *ca;

static const char *path_of(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned turn;
	char *at = path[turn++ % 4];

	snprintf(at, PATH_MAX, "%s/%s", folder, name);
	return at;
}

static void make_ca(void)
{
	struct authority_made made;
	bool exposed;
	char *why;

	CHECK_INT(authority_make("test", time(NULL), &made), 0);
	CHECK_INT(atomic_file_write(path_of("ca.pem"), made.certificate, strlen(made.certificate),
				    0600, 0),
		  0);
	CHECK_INT(atomic_file_write(path_of("ca.key"), made.key, strlen(made.key), 0600, 0), 0);
	ca = authority_load(path_of("ca.pem"), path_of("ca.key"), &exposed, &why);
	CHECK(ca);
	free(made.certificate);
	free(made.key);
	CHECK(unlink(path_of("ca.pem")) == 0 && unlink(path_of("ca.key")) == 0);
}

/* What the relay answers. */
static void sign(const struct enroll_key *k, struct authority_certificate *out)
{
	char *request = enroll_key_request(k);
	const char *why;

	CHECK(request);
	CHECK_INT(authority_sign(ca, "acme", request, strlen(request), 86400000, time(NULL), out,
				 &why),
		  0);
	CHECK(out->len > CERTIFICATE_MIN);
	free(request);
}

/* Files of at most so many bytes can be written: as on a disk that is full. */
static void set_room(rlim_t bytes)
{
	const struct rlimit limit = { bytes, RLIM_INFINITY };

	CHECK_INT(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static int enroll(bool force, rlim_t room)
{
	struct authority_certificate made;
	struct enroll_owner owner;
	struct enroll_key k;
	char *why;
	int r;

	CHECK_INT(enroll_key_make(&k, folder, force, &why), 0);
	sign(&k, &made);
	set_room(room);
	r = enroll_key_finish(&k, made.pem, made.len, &owner, &why);
	set_room(RLIM_INFINITY);
	CHECK(r == 0 || why);
	if (r == 0)
		CHECK(strcmp(owner.name, "acme") == 0);
	free(why);
	free(made.pem);
	enroll_key_deinit(&k);
	return r;
}

static char *text_of(const char *name)
{
	char *text = NULL;

	CHECK(atomic_file_load(path_of(name), 65536, &text) > 0);
	return text;
}

static bool is_there(const char *name)
{
	struct stat st;

	return lstat(path_of(name), &st) == 0;
}

static void check_no_crumbs(void)
{
	CHECK(!is_there("key.pem.new") && !is_there("certificate.pem.new"));
}

static void test_no_room(void)
{
	CHECK_INT(enroll(false, CERTIFICATE_MIN), -EFBIG);
	CHECK(!is_there("key.pem") && !is_there("certificate.pem"));
	check_no_crumbs();
}

/* Whoever has a good pair keeps it, until there is another as good. */
static void test_replaced(void)
{
	char *key, *certificate, *now;

	CHECK_INT(enroll(false, RLIM_INFINITY), 0);
	check_no_crumbs();
	key = text_of("key.pem");
	certificate = text_of("certificate.pem");
	CHECK_INT(enroll(true, CERTIFICATE_MIN), -EFBIG);
	check_no_crumbs();
	now = text_of("key.pem");
	CHECK(strcmp(now, key) == 0);
	free(now);
	now = text_of("certificate.pem");
	CHECK(strcmp(now, certificate) == 0);
	free(now);
	CHECK_INT(enroll(true, RLIM_INFINITY), 0);
	now = text_of("key.pem");
	CHECK(strcmp(now, key) != 0);
	free(now);
	free(key);
	free(certificate);
}

/* Somebody else's certificate came in between. */
static void test_taken(void)
{
	struct authority_certificate made;
	struct enroll_owner owner;
	struct enroll_key k;
	char *why;

	CHECK(unlink(path_of("key.pem")) == 0 && unlink(path_of("certificate.pem")) == 0);
	CHECK_INT(enroll_key_make(&k, folder, false, &why), 0);
	sign(&k, &made);
	CHECK_INT(atomic_file_write(path_of("certificate.pem"), "x", 1, 0600, 0), 0);
	CHECK_INT(enroll_key_finish(&k, made.pem, made.len, &owner, &why), -EEXIST);
	CHECK(strstr(why, "certificate.pem"));
	free(why);
	free(made.pem);
	enroll_key_deinit(&k);
	CHECK(!is_there("key.pem"));
	check_no_crumbs();
	CHECK_INT(unlink(path_of("certificate.pem")), 0);
}

static char *full(const char *name)
{
	return strdup(path_of(name));
}

static void check_fits(void)
{
	BIO *c = BIO_new_file(path_of("certificate.pem"), "r");
	BIO *k = BIO_new_file(path_of("key.pem"), "r");
	X509 *x = c ? PEM_read_bio_X509(c, NULL, NULL, NULL) : NULL;
	EVP_PKEY *key = k ? PEM_read_bio_PrivateKey(k, NULL, NULL, NULL) : NULL;

	CHECK(x && key && X509_check_private_key(x, key) == 1);
	X509_free(x);
	EVP_PKEY_free(key);
	BIO_free(c);
	BIO_free(k);
}

static void clean(void)
{
	CHECK(unlink(path_of("key.pem")) == 0 && unlink(path_of("certificate.pem")) == 0);
	check_no_crumbs();
}

/* Two at a time: the second is told, and changes nothing of the first's. */
static void test_two(void)
{
	struct authority_certificate made;
	struct enroll_key first, second;
	struct enroll_owner owner;
	char *why;

	CHECK_INT(enroll_key_make(&first, folder, false, &why), 0);
	for (int force = 0; force < 2; force++) {
		CHECK_INT(enroll_key_make(&second, folder, force, &why), -EWOULDBLOCK);
		CHECK(strstr(why, "another enrolment is under way"));
		free(why);
		enroll_key_deinit(&second);
	}
	sign(&first, &made);
	CHECK_INT(enroll_key_finish(&first, made.pem, made.len, &owner, &why), 0);
	free(made.pem);
	enroll_key_deinit(&first);
	check_fits();
	CHECK_INT(enroll_key_make(&second, folder, false, &why), -EEXIST);
	free(why);
	enroll_key_deinit(&second);
	clean();
}

/* Killed when the key had its name, and the certificate not yet. */
static void test_killed_between(void)
{
	struct enroll_key k;
	char *why, *certificate;

	CHECK_INT(enroll(false, RLIM_INFINITY), 0);
	certificate = text_of("certificate.pem");
	CHECK_INT(rename(path_of("certificate.pem"), path_of("certificate.pem.new")), 0);
	CHECK_INT(atomic_file_write(path_of("certificate.pem"), "old", 3, 0644, 0), 0);
	CHECK_INT(enroll_key_make(&k, folder, false, &why), -EEXIST);
	free(why);
	enroll_key_deinit(&k);
	check_fits();
	free(certificate);
	clean();
}

static void renew(bool keep, mode_t mode)
{
	char *c = full("certificate.pem"), *p = full("key.pem"), *why, *before = text_of("key.pem");
	struct authority_certificate made;
	struct enroll_owner owner;
	struct enroll_key k;
	struct stat st;
	char *now;

	CHECK_INT(chmod(p, mode), 0);
	CHECK_INT(enroll_key_renew(&k, c, p, keep, &why), 0);
	sign(&k, &made);
	CHECK_INT(enroll_key_finish(&k, made.pem, made.len, &owner, &why), 0);
	free(made.pem);
	enroll_key_deinit(&k);
	check_fits();
	now = text_of("key.pem");
	CHECK((strcmp(now, before) == 0) == keep);
	CHECK(stat(p, &st) == 0 && (st.st_mode & 07777) == mode);
	free(now);
	free(before);
	free(c);
	free(p);
	check_no_crumbs();
}

static void test_renewed(void)
{
	char until[ENROLL_TIME_MAX], *why;
	bool due = true;

	CHECK_INT(enroll(false, RLIM_INFINITY), 0);
	renew(false, 0600);
	renew(true, 0640);
	CHECK_INT(enroll_key_is_due(path_of("certificate.pem"), until, &due, &why), 0);
	CHECK(!due && strlen(until) == 20);
	clean();
	CHECK_INT(enroll_key_is_due(path_of("certificate.pem"), until, &due, &why), -EINVAL);
	CHECK(strstr(why, "no certificate"));
	free(why);
}

int main(void)
{
	signal(SIGXFSZ, SIG_IGN);
	CHECK(mkdtemp(folder));
	make_ca();
	test_no_room();
	test_replaced();
	test_taken();
	test_two();
	test_killed_between();
	test_renewed();
	authority_free(ca);
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
