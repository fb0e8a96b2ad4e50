/*
 * doctor_file: files that a program reads.
 *
 * Theory of operation: opened as this user, without blocking (what looks like a file may be a
 * pipe). Of a secret nothing is read here but its mode. Certificates are read by OpenSSL; what
 * stands in a name is cut, and printed as ASCII.
 */
#include "relay/doctor_file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/doctor.h"

#define PEM_MAX (1024 * 1024)

bool doctor_readable(struct doctor *d, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0) {
		close(fd);
		return true;
	}
	doctor_wrong(d,
		     errno == EACCES ? "let this user read it: its folders have to be passed, too"
				     : "put it there, or correct the path",
		     "%s cannot be read: %s", path, strerror(errno));
	return false;
}

bool doctor_secret(struct doctor *d, const char *path)
{
	struct stat st;

	if (!doctor_readable(d, path))
		return false;
	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & S_IRWXO))
		return true;
	doctor_warn(d, "chmod 600 it (or 640, for a group of the daemon's)",
		    "%s is a secret, and other users of this machine can get at it: its mode is "
		    "%04o",
		    path, (unsigned)st.st_mode & 07777);
	return false;
}

STACK_OF(X509) * doctor_certificates(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	STACK_OF(X509) *all = f ? sk_X509_new_null() : NULL;
	X509 *x;

	while (all && ftell(f) < PEM_MAX && (x = PEM_read_X509(f, NULL, NULL, NULL)))
		if (!sk_X509_push(all, x))
			X509_free(x);
	ERR_clear_error(); /* the end of the file is one */
	if (f)
		fclose(f);
	else if (fd >= 0)
		close(fd);
	if (all && sk_X509_num(all) == 0) {
		sk_X509_free(all);
		all = NULL;
	}
	return all;
}

const char *doctor_name(const X509_NAME *name, char buf[DOCTOR_NAME_MAX])
{
	BIO *out = BIO_new(BIO_s_mem());
	int n = 0;

	if (out && X509_NAME_print_ex(out, name, 0, XN_FLAG_RFC2253) >= 0)
		n = BIO_read(out, buf, DOCTOR_NAME_MAX - 1);
	BIO_free(out);
	buf[n > 0 ? n : 0] = '\0';
	if (n <= 0)
		snprintf(buf, DOCTOR_NAME_MAX, "(no name)");
	return buf;
}

const char *doctor_subject(const X509 *x, char buf[DOCTOR_NAME_MAX])
{
	return doctor_name(X509_get_subject_name(x), buf);
}

const char *doctor_date(const ASN1_TIME *t, char buf[32])
{
	struct tm tm;

	if (ASN1_TIME_to_tm(t, &tm) != 1 || strftime(buf, 32, "%Y-%m-%d %H:%M UTC", &tm) == 0)
		snprintf(buf, 32, "?");
	return buf;
}

enum doctor_status doctor_validity(struct doctor *d, X509 *x)
{
	const ASN1_TIME *from = X509_get0_notBefore(x), *to = X509_get0_notAfter(x);
	char name[DOCTOR_NAME_MAX], when[32], now_text[32];
	time_t now = time(NULL), soon = now + DOCTOR_SOON;
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(now_text, sizeof(now_text), "%Y-%m-%d %H:%M UTC", &tm);
	doctor_subject(x, name);
	if (X509_cmp_time(from, &now) > 0) {
		doctor_wrong(d,
			     "see that this machine's clock is right (timedatectl); if it is, "
			     "wait or get another",
			     "the certificate of %s is good only from %s on, and this machine's "
			     "clock says %s",
			     name, doctor_date(from, when), now_text);
		return DOCTOR_WRONG;
	}
	if (X509_cmp_time(to, &now) < 0) {
		doctor_wrong(d,
			     "renew it; if it should be good yet, see that this machine's clock "
			     "is right (timedatectl)",
			     "the certificate of %s has expired at %s, and this machine's clock "
			     "says %s",
			     name, doctor_date(to, when), now_text);
		return DOCTOR_WRONG;
	}
	if (X509_cmp_time(to, &soon) < 0) {
		doctor_warn(d, "renew it", "the certificate of %s expires at %s", name,
			    doctor_date(to, when));
		return DOCTOR_WARNING;
	}
	return DOCTOR_OK;
}

enum doctor_status doctor_authorities(struct doctor *d, const char *path)
{
	STACK_OF(X509) * all;
	enum doctor_status worst = DOCTOR_OK;

	if (!doctor_readable(d, path))
		return DOCTOR_WRONG;
	all = doctor_certificates(path);
	if (!all) {
		doctor_wrong(d, "put the CA's certificate there, in PEM",
			     "%s has no certificate in PEM", path);
		return DOCTOR_WRONG;
	}
	for (int i = 0; i < sk_X509_num(all); i++) {
		enum doctor_status one = doctor_validity(d, sk_X509_value(all, i));

		worst = one > worst ? one : worst;
	}
	sk_X509_pop_free(all, X509_free);
	return worst;
}
