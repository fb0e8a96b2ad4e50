/*
 * enroll: attest-tunnel enroll.
 *
 * Theory of operation: options; a key into the folder; the code, which is asked for only when all
 * else is ready; then one request to each relay in turn until one answers, on a worker that runs
 * for as long as that takes. The code is in memory and nowhere else: no option takes it, for
 * everybody on the machine can read a program's arguments.
 *
 * A relay that has answered is believed, whatever it says: the code may be used up by then.
 *
 * With --renew there is no code: the certificate that is there is shown in TLS, and another comes
 * back. Which pair: the one in the folder, or the one the config names. Meant for a timer, so one
 * that has time left is let be.
 */
#include "tunnel/enroll.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <openssl/crypto.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/atomic_file.h"
#include "relay/codes.h"
#include "relay/log.h"
#include "relay/outset.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/ask.h"
#include "tunnel/carrier.h"
#include "tunnel/egress.h"
#include "tunnel/enroll_key.h"
#include "tunnel/enroll_options.h"
#include "tunnel/enroll_request.h"
#include "tunnel/options.h"

#define CODE_INPUT_MAX 256 /* with what people put around it */
#define TRIES 3            /* at a terminal, of what is plainly mistyped */
#define WORDS_MAX 300      /* of a relay's answer, shown */
#define CLOSING_MS 3000    /* lingering closes take 2 s at most */

struct enroll {
	const struct enroll_options *options;
	struct enroll_key key;
	struct egress egress;
	struct carrier_shared shared;
	const struct address *relay; /* the one that is asked */
	char code[CODES_SIZE];
	char *certificate, *key_file; /* renewed; NULL: a first one is asked for */
	struct timer closing;
	bool answered, over; /* one of them has; this request is */
	int status;
};

/* ---- the code ---- */

/* Status; the text is in buf. */
static int read_file(const char *path, char *buf, size_t size, size_t *len)
{
	ssize_t n = atomic_file_read(path, buf, size);

	if (n < 0)
		return enroll_options_complain(
			STATUS_FAILED, "cannot read the code in %s: %s", path,
			n == -EFBIG ? "it is too long for one" : strerror((int)-n));
	*len = (size_t)n;
	return STATUS_ORDERLY;
}

static int read_input(char *buf, size_t size, size_t *len)
{
	ssize_t n = ask_line("code: ", buf, size);

	if (n < 0)
		return enroll_options_complain(STATUS_FAILED, "cannot read the code: %s",
					       n == -ENODATA ? "standard input is empty"
					       : n == -EFBIG ? "it is too long for one"
							     : strerror((int)-n));
	*len = (size_t)n;
	return STATUS_ORDERLY;
}

static int read_code(struct enroll *e)
{
	char buf[CODE_INPUT_MAX];
	int status, left = !e->options->code_file && ask_can() ? TRIES : 1;
	bool good = false;
	size_t len = 0;

	do {
		status = e->options->code_file
				 ? read_file(e->options->code_file, buf, sizeof(buf), &len)
				 : read_input(buf, sizeof(buf), &len);
		good = status == STATUS_ORDERLY && codes_read(buf, len, e->code);
		OPENSSL_cleanse(buf, sizeof(buf));
		if (status == STATUS_ORDERLY && !good)
			enroll_options_complain(
				0, "this is no code, or one is mistyped: expected 7 groups of 4 "
				   "letters and digits; the relay was not asked, and the code is "
				   "as good as before");
	} while (status == STATUS_ORDERLY && !good && --left > 0);
	return status == STATUS_ORDERLY && !good ? STATUS_FAILED : status;
}

/* ---- what came of it ---- */

/* One argument of a shell's command. */
static void print_word(const char *option, const char *word)
{
	if (!word)
		return;
	printf(" %s ", option);
	if (*word && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					"0123456789@%+=:,./_-[]")]) {
		fputs(word, stdout);
		return;
	}
	putchar('\'');
	for (; *word; word++)
		fputs(*word == '\'' ? "'\\''" : (char[]){ *word, '\0' }, stdout);
	putchar('\'');
}

static void print_renewed(const struct enroll *e, const struct enroll_owner *owner)
{
	printf("renewed the certificate for the owner %s, good until %s:\n    %s\n    %s\n"
	       "an attest-tunnel that uses them reads them again within seconds, or at SIGHUP\n",
	       *owner->name ? owner->name : "?", owner->until, e->key.certificate_path,
	       e->key.key_path);
}

static void print_success(const struct enroll *e, const struct enroll_owner *owner)
{
	const struct tunnel_config *c = e->options->config;
	char relay[ADDRESS_TEXT_MAX];

	printf("certificate for the owner %s, good until %s:\n    %s\n    %s\n\n"
	       "with your service's name and address, this works now:\n    attest-tunnel",
	       *owner->name ? owner->name : "?", owner->until, e->key.certificate_path,
	       e->key.key_path);
	print_word("--relay", address_format(e->relay, relay, sizeof(relay)));
	print_word("--server-name", c->server_name);
	print_word("--ca-file", c->ca_file);
	print_word("--proxy", c->proxy);
	print_word("--proxy-credentials-file", c->proxy_credentials_file);
	print_word("--proxy-ca-file", c->proxy_ca_file);
	print_word("--certificate", e->key.certificate_path);
	print_word("--key", e->key.key_path);
	printf(" --service NAME=tcp:127.0.0.1:PORT\n");
}

static int finish(struct enroll *e, const struct enroll_answer *answer)
{
	struct enroll_owner owner;
	char *why;

	if (enroll_key_finish(&e->key, answer->body, answer->len, &owner, &why) < 0)
		return enroll_options_complain_why(STATUS_FAILED, why);
	(e->certificate ? print_renewed : print_success)(e, &owner);
	return STATUS_ORDERLY;
}

/* The first line of what it says, fit for a terminal. */
static const char *words_of(const struct enroll_answer *answer, char text[WORDS_MAX])
{
	size_t n = 0;

	for (; n < answer->len && n < WORDS_MAX - 1 && answer->body[n] != '\n'; n++)
		text[n] = answer->body[n] >= ' ' && answer->body[n] <= '~' ? answer->body[n] : '?';
	text[n] = '\0';
	return strncmp(text, "attest-relay: ", 14) == 0 ? text + 14 : text;
}

static int judge(struct enroll *e, const struct enroll_answer *answer)
{
	char text[WORDS_MAX], where[ADDRESS_TEXT_MAX];
	const char *words = words_of(answer, text);

	address_format(e->relay, where, sizeof(where));
	switch (answer->status) {
	case 200:
		return finish(e, answer);
	case 401:
	case 403:
		return enroll_options_complain(STATUS_REFUSED, "the relay at %s refused the %s: %s",
					       where, e->certificate ? "certificate" : "code",
					       words);
	case 404:
		return enroll_options_complain(
			STATUS_REFUSED,
			"the relay at %s does no enrolment: its operator has to turn it "
			"on, or to give you a token",
			where);
	default:
		return enroll_options_complain(
			answer->status >= 500 ? STATUS_FAILED : STATUS_REFUSED,
			"the relay at %s answered %u: %s", where, answer->status, words);
	}
}

static void on_done(void *user, const struct enroll_answer *answer)
{
	struct enroll *e = user;
	char where[ADDRESS_TEXT_MAX];

	e->answered = answer->status;
	address_format(e->relay, where, sizeof(where));
	if (answer->status)
		e->status = judge(e, answer);
	else if (strncmp(answer->detail, where, strlen(where)) == 0)
		e->status = enroll_options_complain(STATUS_FAILED, "%s", answer->detail);
	else
		e->status = enroll_options_complain(STATUS_FAILED, "%s: %s", where, answer->detail);
	e->over = true;
}

/* ---- asking ---- */

static void on_closing(struct timer *t)
{
	struct enroll *e = (struct enroll *)((char *)t - offsetof(struct enroll, closing));

	e->over = true;
}

/* Last words are on their way, and what is freed at the end of a turn. */
static void close_all(struct enroll *e)
{
	struct worker *w = e->shared.worker;

	timer_set(w, &e->closing, CLOSING_MS, on_closing);
	for (e->over = false; !e->over && w->conduits;)
		worker_turn(w, true);
	timer_cancel(w, &e->closing);
	worker_turn(w, false);
}

static int ask_relays(struct enroll *e, const char *csr)
{
	const struct tunnel_config *c = e->options->config;

	e->status = STATUS_FAILED;
	for (size_t i = 0; i < c->relays.n && !e->answered; i++) {
		e->relay = &c->relays.at[i];
		if (!enroll_request_start(&e->shared, e->relay,
					  c->server_name ? c->server_name : e->relay->name,
					  e->certificate ? NULL : e->code, csr, on_done, e))
			return enroll_options_complain(STATUS_FAILED, "out of memory");
		for (e->over = false; !e->over;)
			worker_turn(e->shared.worker, true);
	}
	close_all(e);
	return e->status;
}

static int request(struct enroll *e)
{
	char *csr = enroll_key_request(&e->key);
	int status =
		csr ? ask_relays(e, csr)
		    : enroll_options_complain(STATUS_FAILED, "libcrypto cannot make the request");

	free(csr);
	return status;
}

/* The way out, as an agent's. */
static int prepare(struct enroll *e)
{
	static const char *const alpn[] = { CARRIER_ALPN_WEBSOCKET, NULL };
	const struct tunnel_config *c = e->options->config;
	char *why = NULL;

	if (egress_init(&e->egress, c, &why) < 0)
		return enroll_options_complain_why(STATUS_FAILED, why);
	e->shared.egress = &e->egress;
	e->shared.alpn = CARRIER_ALPN_WEBSOCKET;
	e->shared.dial_ms = c->timeouts.dial;
	e->shared.handshake_ms = c->timeouts.handshake;
	e->shared.dead_ms = c->timeouts.dead;
	e->shared.tls[CARRIER_DIRECT] = tls_client_context_new(c->ca_file, alpn, &why);
	if (!e->shared.tls[CARRIER_DIRECT] ||
	    (e->certificate && tls_client_context_identify(e->shared.tls[CARRIER_DIRECT],
							   e->certificate, e->key_file, &why) < 0))
		return enroll_options_complain_why(STATUS_FAILED, why);
	evthread_use_pthreads();
	e->shared.worker = worker_new(0);
	return e->shared.worker ? STATUS_ORDERLY
				: enroll_options_complain(STATUS_FAILED, "cannot start: %s",
							  strerror(errno));
}

/* The pair that is to be renewed. */
static bool find_pair(struct enroll *e)
{
	const struct enroll_options *o = e->options;
	const char *folder = o->folder ? o->folder : ".";

	if (!o->renew)
		return true;
	if (!o->folder && o->config->certificate) {
		e->certificate = strdup(o->config->certificate);
		e->key_file = strdup(o->config->key);
	} else if (asprintf(&e->certificate, "%s/certificate.pem", folder) < 0 ||
		   asprintf(&e->key_file, "%s/key.pem", folder) < 0) {
		e->key_file = NULL;
	}
	return e->certificate && e->key_file;
}

/* Is there nothing to do? Else *status says whether to go on. */
static bool has_time(const struct enroll *e, int *status)
{
	char until[ENROLL_TIME_MAX], *why;
	bool due;

	if (enroll_key_is_due(e->certificate, until, &due, &why) < 0) {
		*status = enroll_options_complain_why(STATUS_FAILED, why);
		return false;
	}
	if (due || e->options->force)
		return false;
	printf("the certificate %s is good until %s: nothing to do yet\n", e->certificate, until);
	return true;
}

static int make_key(struct enroll *e)
{
	const struct enroll_options *o = e->options;
	char *why;
	int r;

	if (o->renew)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): enroll_run frees the names */
		r = enroll_key_renew(&e->key, e->certificate, e->key_file, o->keep_key, &why);
	else
		r = enroll_key_make(&e->key, o->folder ? o->folder : ".", o->force, &why);
	return r < 0 ? enroll_options_complain_why(STATUS_FAILED, why) : STATUS_ORDERLY;
}

static int run(struct enroll *e)
{
	int status = STATUS_ORDERLY;

	if (!find_pair(e))
		status = enroll_options_complain(STATUS_FAILED, "out of memory");
	else if (e->certificate && has_time(e, &status))
		return STATUS_ORDERLY;
	if (status == STATUS_ORDERLY)
		status = make_key(e); /* locks: only then is the pair that is there one */
	if (status == STATUS_ORDERLY)
		status = prepare(e);
	if (status == STATUS_ORDERLY && !e->certificate)
		status = read_code(e);
	if (status == STATUS_ORDERLY)
		status = request(e);
	OPENSSL_cleanse(e->code, sizeof(e->code));
	enroll_key_deinit(&e->key);
	worker_free(e->shared.worker);
	tls_context_unref(e->shared.tls[CARRIER_DIRECT]);
	egress_deinit(&e->egress);
	libevent_global_shutdown();
	if (fflush(stdout) != 0 && status == STATUS_ORDERLY)
		return enroll_options_complain(STATUS_FAILED, "cannot write: %s", strerror(errno));
	return status;
}

/* ---- the whole ---- */

int enroll_run(int argc, char **argv)
{
	struct enroll_options options;
	struct enroll e = { .options = &options };
	int status;

	if (!enroll_options_read(&options, argc, argv, &status))
		return status;
	log_setup(LOG_LEVEL_WARNING, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	outset_protect();
	status = run(&e);
	free(e.certificate);
	free(e.key_file);
	tunnel_config_free(options.config);
	return status;
}
