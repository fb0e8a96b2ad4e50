/*
 * Fuzzes what an enrolment reads: a code, a label, a serial, and a certificate request, which a CA
 * is asked to sign. A code that is taken reads the same as it is shown; a request that is signed
 * gets this owner's certificate and no more, whatever it asked for.
 */
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "relay/authority.h"
#include "relay/codes.h"

#define NOW 1800000000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct authority *authority;

static char *file_of(const char *text)
{
	char *path = strdup("/tmp/fuzz_enrolment.XXXXXX");
	int fd = path ? mkstemp(path) : -1;

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		abort();
	close(fd);
	return path;
}

/* Once; the only files there are. */
static void begin(void)
{
	struct authority_made made;
	char *certificate, *key, *why;
	bool exposed;

	if (authority_make("fuzz", time(NULL), &made) < 0)
		abort();
	certificate = file_of(made.certificate);
	key = file_of(made.key);
	authority = authority_load(certificate, key, &exposed, &why);
	if (!authority)
		abort();
	unlink(certificate);
	unlink(key);
	free(certificate);
	free(key);
	free(made.certificate);
	free(made.key);
}

static void read_code(const char *text, size_t size)
{
	char code[CODES_SIZE] = "before", again[CODES_SIZE], shown[CODES_TEXT];

	if (!codes_read(text, size, code)) {
		if (strcmp(code, "before") != 0)
			abort();
		return;
	}
	codes_show(code, shown);
	if (!codes_read(shown, strlen(shown), again) || strcmp(code, again) != 0)
		abort();
}

static void read_texts(const char *data, size_t size)
{
	char serial[AUTHORITY_SERIAL_TEXT], again[AUTHORITY_SERIAL_TEXT];
	char *text = strndup(data, size);

	if (!text)
		abort();
	if (codes_is_label(text) && (strlen(text) >= CODES_LABEL_MAX || strpbrk(text, "\n\r\x1b")))
		abort();
	if (authority_serial(text, serial) &&
	    (!authority_serial(serial, again) || strcmp(serial, again) != 0))
		abort();
	free(text);
}

static void check_certificate(const struct authority_certificate *c)
{
	BIO *in = BIO_new_mem_buf(c->pem, (int)c->len);
	X509 *x = in ? PEM_read_bio_X509(in, NULL, NULL, NULL) : NULL;
	GENERAL_NAMES *names = x ? X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL) : NULL;

	if (!x || sk_GENERAL_NAME_num(names) != 1 || X509_check_ca(x) != 0 ||
	    X509_get_ext_count(x) != 6 || X509_get_extended_key_usage(x) != XKU_SSL_CLIENT ||
	    c->to != NOW + 60)
		abort();
	GENERAL_NAMES_free(names);
	X509_free(x);
	BIO_free(in);
}

static void sign(const char *text, size_t size)
{
	struct authority_certificate made = { .pem = NULL };
	const char *why = NULL;
	int r = authority_sign(authority, "acme", text, size, 60000, NOW, &made, &why);

	if (r == 0)
		check_certificate(&made);
	else if (made.pem || !why || !*why)
		abort();
	free(made.pem);
}

/* Bytes as they are, and as what a PEM holds. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	BIO *pem;
	char *text;
	long len;

	if (!authority)
		begin();
	read_code((const char *)data, size);
	read_texts((const char *)data, size);
	sign((const char *)data, size);
	if (!size || size > INT32_MAX) /* no PEM can be made of it */
		return 0;
	pem = BIO_new(BIO_s_mem());
	if (!pem || !PEM_write_bio(pem, "CERTIFICATE REQUEST", "", data, (long)size))
		abort();
	len = BIO_get_mem_data(pem, &text);
	sign(text, (size_t)len);
	BIO_free(pem);
	return 0;
}
