/*
 * enroll: attest-tunnel enroll.
 *
 * Theory of operation: options; a key into the folder; the code, which is asked for only when all
 * else is ready; then one request to each relay in turn until one answers, on a worker that runs
 * for as long as that takes. The code is in memory and nowhere else: no option takes it, for
 * everybody on the machine can read a program's arguments.
 *
 * A relay that has answered is believed, whatever it says: the code may be used up by then.
 */
#include "tunnel/enroll.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <getopt.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/atomic_file.h"
#include "relay/codes.h"
#include "relay/log.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/ask.h"
#include "tunnel/carrier.h"
#include "tunnel/egress.h"
#include "tunnel/enroll_key.h"
#include "tunnel/enroll_request.h"
#include "tunnel/options.h"

#define PROGRAM "attest-tunnel"
#define CODE_INPUT_MAX 256 /* with what people put around it */
#define TRIES 3            /* at a terminal, of what is plainly mistyped */
#define WORDS_MAX 300      /* of a relay's answer, shown */
#define CLOSING_TURNS 100

static const char help[] =
	"Usage: attest-tunnel enroll --relay ADDRESS [...]\n"
	"\n"
	"Gets a client certificate from a relay, for a code that its operator made by\n"
	"attest-relay enroll. The code is typed when asked for, or read from standard input; it "
	"is\n"
	"good once. Key and certificate are key.pem and certificate.pem in the folder.\n"
	"\n"
	"      --folder DIR           where they go; default: the current one\n"
	"      --code-file FILE       the code is in there\n"
	"      --force                replace a key and a certificate that are there\n"
	"  -r, --relay ADDRESS        tcp:HOST:PORT or unix:PATH; again for more, tried in turn\n"
	"  -c, --config FILE          attest-tunnel.yaml(5), for relays and the way to them\n"
	"      --ca-file FILE, --server-name NAME, --proxy URL, --no-proxy LIST,\n"
	"      --proxy-credentials-file FILE, --proxy-ca-file FILE   as without enroll\n"
	"  -h, --help                 this text\n"
	"\n"
	"Exit status: 0 done, 1 failed, 2 wrong usage, 3 the relay refused. See "
	"attest-tunnel(1).\n";

struct enroll {
	struct tunnel_config *config;
	const char *folder, *code_file;
	bool force;
	struct enroll_key key;
	struct egress egress;
	struct carrier_shared shared;
	const struct address *relay; /* the one that is asked */
	char code[CODES_SIZE];
	bool answered, over; /* one of them has; this request is */
	int status;
};

static int complain(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int complain(int status, const char *fmt, ...)
{
	va_list args;

	fputs(PROGRAM ": ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

/* Takes over an allocated line. */
static int complain_why(int status, char *why)
{
	complain(status, "%s", why ? why : "out of memory");
	free(why);
	return status;
}

/* ---- the code ---- */

/* Status; the text is in buf. */
static int read_file(const char *path, char *buf, size_t size, size_t *len)
{
	ssize_t n = atomic_file_read(path, buf, size);

	if (n < 0)
		return complain(STATUS_FAILED, "cannot read the code in %s: %s", path,
				n == -EFBIG ? "it is too long for one" : strerror((int)-n));
	*len = (size_t)n;
	return STATUS_ORDERLY;
}

static int read_input(char *buf, size_t size, size_t *len)
{
	ssize_t n = ask_line("code: ", buf, size);

	if (n < 0)
		return complain(STATUS_FAILED, "cannot read the code: %s",
				n == -ENODATA ? "standard input is empty"
				: n == -EFBIG ? "it is too long for one"
					      : strerror((int)-n));
	*len = (size_t)n;
	return STATUS_ORDERLY;
}

static int read_code(struct enroll *e)
{
	char buf[CODE_INPUT_MAX];
	int status, left = !e->code_file && ask_can() ? TRIES : 1;
	bool good = false;
	size_t len = 0;

	do {
		status = e->code_file ? read_file(e->code_file, buf, sizeof(buf), &len)
				      : read_input(buf, sizeof(buf), &len);
		good = status == STATUS_ORDERLY && codes_read(buf, len, e->code);
		OPENSSL_cleanse(buf, sizeof(buf));
		if (status == STATUS_ORDERLY && !good)
			complain(0, "this is no code, or one is mistyped: expected 7 groups of 4 "
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

static void print_success(const struct enroll *e, const struct enroll_owner *owner)
{
	const struct tunnel_config *c = e->config;
	char relay[ADDRESS_TEXT_MAX];

	printf("certificate for the owner %s, good until %s:\n    %s\n    %s\n\n"
	       "with your service's name and address, this works now:\n    " PROGRAM,
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
		return complain_why(STATUS_FAILED, why);
	print_success(e, &owner);
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
		return complain(STATUS_REFUSED, "the relay at %s refused the code: %s", where,
				words);
	case 404:
		return complain(STATUS_REFUSED,
				"the relay at %s does no enrolment: its operator has to turn it "
				"on, or to give you a token",
				where);
	default:
		return complain(answer->status >= 500 ? STATUS_FAILED : STATUS_REFUSED,
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
		e->status = complain(STATUS_FAILED, "%s", answer->detail);
	else
		e->status = complain(STATUS_FAILED, "%s: %s", where, answer->detail);
	e->over = true;
}

/* ---- asking ---- */

static int ask_relays(struct enroll *e, const char *csr)
{
	const struct tunnel_config *c = e->config;

	e->status = STATUS_FAILED;
	for (size_t i = 0; i < c->relays.n && !e->answered; i++) {
		e->relay = &c->relays.at[i];
		if (!enroll_request_start(&e->shared, e->relay,
					  c->server_name ? c->server_name : e->relay->name, e->code,
					  csr, on_done, e))
			return complain(STATUS_FAILED, "out of memory");
		for (e->over = false; !e->over;)
			worker_turn(e->shared.worker, true);
	}
	for (int i = 0; i < CLOSING_TURNS && e->shared.worker->conduits; i++)
		worker_turn(e->shared.worker, false);
	return e->status;
}

static int request(struct enroll *e)
{
	char *csr = enroll_key_request(&e->key);
	int status = csr ? ask_relays(e, csr)
			 : complain(STATUS_FAILED, "libcrypto cannot make the request");

	free(csr);
	return status;
}

/* The way out, as an agent's. */
static int prepare(struct enroll *e)
{
	static const char *const alpn[] = { CARRIER_ALPN_WEBSOCKET, NULL };
	const struct tunnel_config *c = e->config;
	char *why = NULL;

	if (egress_init(&e->egress, c, &why) < 0)
		return complain_why(STATUS_FAILED, why);
	e->shared.egress = &e->egress;
	e->shared.alpn = CARRIER_ALPN_WEBSOCKET;
	e->shared.dial_ms = c->timeouts.dial;
	e->shared.handshake_ms = c->timeouts.handshake;
	e->shared.dead_ms = c->timeouts.dead;
	e->shared.tls[CARRIER_DIRECT] = tls_client_context_new(c->ca_file, alpn, &why);
	if (!e->shared.tls[CARRIER_DIRECT])
		return complain_why(STATUS_FAILED, why);
	evthread_use_pthreads();
	e->shared.worker = worker_new(0);
	return e->shared.worker ? STATUS_ORDERLY
				: complain(STATUS_FAILED, "cannot start: %s", strerror(errno));
}

static int run(struct enroll *e)
{
	int status = prepare(e);
	char *why;

	if (status == STATUS_ORDERLY && enroll_key_make(&e->key, e->folder, e->force, &why) < 0)
		status = complain_why(STATUS_FAILED, why);
	if (status == STATUS_ORDERLY)
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
		return complain(STATUS_FAILED, "cannot write: %s", strerror(errno));
	return status;
}

/* ---- the command line ---- */

enum {
	OPTION_CA_FILE = 256,
	OPTION_SERVER_NAME,
	OPTION_PROXY,
	OPTION_PROXY_CREDENTIALS,
	OPTION_PROXY_CA,
	OPTION_NO_PROXY,
	OPTION_FOLDER,
	OPTION_CODE_FILE,
	OPTION_FORCE
};

static const struct option long_options[] = {
	{ "relay", required_argument, NULL, 'r' },
	{ "config", required_argument, NULL, 'c' },
	{ "ca-file", required_argument, NULL, OPTION_CA_FILE },
	{ "server-name", required_argument, NULL, OPTION_SERVER_NAME },
	{ "proxy", required_argument, NULL, OPTION_PROXY },
	{ "proxy-credentials-file", required_argument, NULL, OPTION_PROXY_CREDENTIALS },
	{ "proxy-ca-file", required_argument, NULL, OPTION_PROXY_CA },
	{ "no-proxy", required_argument, NULL, OPTION_NO_PROXY },
	{ "folder", required_argument, NULL, OPTION_FOLDER },
	{ "code-file", required_argument, NULL, OPTION_CODE_FILE },
	{ "force", no_argument, NULL, OPTION_FORCE },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};
static const char short_options[] = "r:c:h";

static bool add_relay(struct tunnel_config *c, const char *text)
{
	struct address a = { 0 };
	char *why = NULL;

	if (address_parse(&a, text, &why) < 0) {
		complain_why(0, why);
		return false;
	}
	if (a.kind != ADDRESS_TCP && a.kind != ADDRESS_UNIX) {
		address_deinit(&a);
		complain(0, "--relay %s: expected tcp:HOST:PORT or unix:PATH", text);
		return false;
	}
	c->relays.at = xreallocarray(c->relays.at, c->relays.n + 1, sizeof(*c->relays.at));
	c->relays.at[c->relays.n++] = a;
	return true;
}

static bool set_no_proxy(struct tunnel_config *c, const char *text)
{
	char *why = NULL;

	if (tunnel_config_set_no_proxy(c, text, &why) == 0)
		return true;
	complain(0, "--no-proxy: %s", why);
	free(why);
	return false;
}

static bool apply(struct enroll *e, int option, const char *value)
{
	char **const texts[] = {
		[OPTION_CA_FILE - OPTION_CA_FILE] = &e->config->ca_file,
		[OPTION_SERVER_NAME - OPTION_CA_FILE] = &e->config->server_name,
		[OPTION_PROXY - OPTION_CA_FILE] = &e->config->proxy,
		[OPTION_PROXY_CREDENTIALS - OPTION_CA_FILE] = &e->config->proxy_credentials_file,
		[OPTION_PROXY_CA - OPTION_CA_FILE] = &e->config->proxy_ca_file,
	};

	switch (option) {
	case 'c': /* done in the first pass */
		return true;
	case 'r':
		return add_relay(e->config, value);
	case OPTION_NO_PROXY:
		return set_no_proxy(e->config, value);
	case OPTION_FOLDER:
		e->folder = value;
		return true;
	case OPTION_CODE_FILE:
		e->code_file = value;
		return true;
	case OPTION_FORCE:
		e->force = true;
		return true;
	default:
		free(*texts[option - OPTION_CA_FILE]);
		*texts[option - OPTION_CA_FILE] = xstrdup(value);
		return true;
	}
}

/* The file, or the defaults; NULL: *status, and what is wrong has been said. */
static struct tunnel_config *load(int argc, char **argv, int *status)
{
	struct config_errors errors = { 0 };
	struct tunnel_config *config;
	const char *path = NULL;
	int option;

	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		if (option == 'c')
			path = optarg;
		*status = option == 'h' ? STATUS_ORDERLY : STATUS_USAGE;
		if (option == 'h')
			fputs(help, stdout);
		if (option == '?')
			fputs("Try " PROGRAM " enroll --help.\n", stderr);
		if (option == 'h' || option == '?')
			return NULL;
	}
	*status = STATUS_USAGE;
	if (optind < argc) {
		/* which is not quoted: it may be one */
		complain(0, "unexpected argument; a code is never one, for others could read it");
		return NULL;
	}
	*status = STATUS_FAILED;
	config = path ? tunnel_config_load(path, &errors) : tunnel_config_new();
	config_errors_print(&errors, stderr);
	config_errors_deinit(&errors);
	return config;
}

/* What a run needs. */
static bool check(const struct tunnel_config *c)
{
	if (!c->relays.n)
		complain(0, "--relay ADDRESS is needed");
	for (size_t i = 0; i < c->relays.n; i++) {
		if (c->relays.at[i].kind == ADDRESS_TCP || c->server_name)
			continue;
		complain(0, "a relay at a Unix socket has no host name: --server-name is needed");
		return false;
	}
	return c->relays.n;
}

int enroll_run(int argc, char **argv)
{
	struct enroll e = { .folder = "." };
	int option, status;
	bool good = true;

	e.config = load(argc, argv, &status);
	if (!e.config)
		return status;
	optind = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1)
		good = apply(&e, option, optarg) && good;
	if (!good || !check(e.config)) {
		fputs("Try " PROGRAM " enroll --help.\n", stderr);
		tunnel_config_free(e.config);
		return STATUS_USAGE;
	}
	log_setup(LOG_LEVEL_WARNING, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	signal(SIGPIPE, SIG_IGN);
#ifndef __SANITIZE_ADDRESS__ /* its leak checker attaches to the process */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	status = run(&e);
	tunnel_config_free(e.config);
	return status;
}
