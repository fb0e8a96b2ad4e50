/*
 * egress: the choice of a proxy, and its credentials.
 *
 * Theory of operation: decided once, at the start. A config that names a proxy, or none, has the
 * only say; otherwise the environment is asked, the names in small letters first, as curl does; but
 * for the list of exceptions, where the config's goes first. An empty variable is no variable. What
 * is asked for and cannot be done (a scheme that is not known, a URL without port) fails the start:
 * going out directly instead would be a surprise.
 *
 * A password may stand in a variable. It is needed for each connection, so it is kept in memory of
 * our own; the variables are wiped where they are, which /proc/PID/environ shows, and unset, also
 * when a config has the say.
 *
 * A file of credentials is read for each connection, as the token is, so new ones need no restart.
 * Of those that a proxy refused a digest is kept, to know them again.
 */
#include "tunnel/egress.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/no_proxy.h"
#include "relay/log.h"
#include "relay/tls.h"

#define FILE_SIZE 1024 /* two words of 255, and what an editor adds */

static const char *const proxy_variables[] = { "https_proxy", "HTTPS_PROXY", "all_proxy",
					       "ALL_PROXY" };
static const char *const list_variables[] = { "no_proxy", "NO_PROXY" };
#define VARIABLES(names) (sizeof(names) / sizeof(*(names)))

struct proxy_rejection {
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned times; /* in a row; 0: none */
	uint64_t until;
};

static int explain(char **why, const char *where, const char *what, int r)
{
	if (asprintf(why, "%s: %s", where, what) < 0)
		*why = NULL;
	return r;
}

/* ---- the environment ---- */

static const char *ask_environment(const char *const *names, unsigned n, const char **name)
{
	for (unsigned i = 0; i < n; i++) {
		const char *value = getenv(names[i]);

		*name = names[i];
		if (value && *value)
			return value;
	}
	return NULL;
}

static void wipe_environment(const char *const *names, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char *value = getenv(names[i]);

		if (value)
			explicit_bzero(value, strlen(value));
		unsetenv(names[i]);
	}
}

static int take_environment(struct egress *e, const struct tunnel_config *config, char **why)
{
	const char *name, *list_name;
	const char *url = ask_environment(proxy_variables, VARIABLES(proxy_variables), &name);
	const char *list = ask_environment(list_variables, VARIABLES(list_variables), &list_name);
	char *fault;
	int r = 0;

	if (url && proxy_url_parse(&e->proxy.url, url, &fault) < 0) {
		r = explain(why, name, fault, -EINVAL);
		free(fault);
	} else if (url && config->no_proxy.n) {
		e->proxied = true;
		snprintf(e->proxy.source, sizeof(e->proxy.source), "%s", name);
		snprintf(e->list_source, sizeof(e->list_source), "no_proxy of the config");
		e->exceptions = &config->no_proxy;
	} else if (url) {
		e->proxied = true;
		snprintf(e->proxy.source, sizeof(e->proxy.source), "%s", name);
		snprintf(e->list_source, sizeof(e->list_source), "%s", list_name);
		e->list = strdup(list ? list : "");
		r = e->list ? 0 : -EINVAL;
	}
	return r;
}

/* ---- the decision ---- */

static int take_config(struct egress *e, const struct tunnel_config *config, char **why)
{
	char *fault;
	int r;

	if (strcmp(config->proxy, PROXY_NONE) == 0)
		return 0;
	if (proxy_url_parse(&e->proxy.url, config->proxy, &fault) < 0) {
		r = explain(why, "proxy", fault, -EINVAL);
		free(fault);
		return r;
	}
	e->proxied = true;
	snprintf(e->proxy.source, sizeof(e->proxy.source), "proxy");
	snprintf(e->list_source, sizeof(e->list_source), "no_proxy");
	e->proxy.credentials_file = config->proxy_credentials_file;
	e->exceptions = &config->no_proxy;
	return 0;
}

/* Tries what each connection needs, so that a mistake shows at the start. */
static int prepare(struct egress *e, const struct tunnel_config *config, char **why)
{
	static const char *const alpn[] = { "http/1.1", NULL };
	struct proxy_credentials c;
	bool exposed = false;
	int r;

	e->proxy.rejection = calloc(1, sizeof(*e->proxy.rejection));
	if (!e->proxy.rejection)
		return -EINVAL;
	e->proxy.joints = &e->joints;
	proxy_url_format(&e->proxy.url, e->proxy.text, sizeof(e->proxy.text));
	if (e->proxy.url.scheme == PROXY_HTTPS) {
		e->proxy.tls = tls_client_context_new(config->proxy_ca_file, alpn, why);
		if (!e->proxy.tls)
			return -EINVAL;
	}
	r = egress_credentials(&e->proxy, &c, &exposed, why);
	explicit_bzero(&c, sizeof(c));
	if (r == 0 && exposed)
		log_warning("%s has a secret that other users of this machine can read: chmod 600 "
			    "it",
			    e->proxy.credentials_file);
	return r < 0 ? -EINVAL : 0;
}

int egress_init(struct egress *e, const struct tunnel_config *config, char **why)
{
	int r;

	*e = (struct egress){ 0 };
	*why = NULL;
	r = config->proxy ? take_config(e, config, why) : take_environment(e, config, why);
	wipe_environment(proxy_variables, VARIABLES(proxy_variables));
	if (r == 0 && e->proxied)
		r = prepare(e, config, why);
	if (r < 0)
		egress_deinit(e);
	return r;
}

void egress_deinit(struct egress *e)
{
	proxy_url_deinit(&e->proxy.url);
	tls_context_unref(e->proxy.tls);
	free(e->proxy.rejection);
	free(e->list);
	*e = (struct egress){ 0 };
}

/* A path is here; an address of one link (fe80::1%eth0) means nothing elsewhere. */
static bool is_near(const struct address *relay)
{
	return relay->kind != ADDRESS_TCP || strchr(relay->name, '%');
}

const struct proxy *egress_to(const struct egress *e, const struct address *relay)
{
	if (!e || !e->proxied || is_near(relay))
		return NULL;
	for (size_t i = 0; e->exceptions && i < e->exceptions->n; i++)
		if (no_proxy_covers(e->exceptions->at[i], strlen(e->exceptions->at[i]),
				    relay->name, relay->port))
			return NULL;
	if (e->list && no_proxy_list_covers(e->list, relay->name, relay->port))
		return NULL;
	return &e->proxy;
}

void egress_log(const struct egress *e, const struct addresses *relays)
{
	char text[ADDRESS_TEXT_MAX];

	for (size_t i = 0; e->proxied && i < relays->n; i++) {
		address_format(&relays->at[i], text, sizeof(text));
		if (egress_to(e, &relays->at[i]))
			log_info("the way to %s is through the proxy %s (by %s)", text,
				 e->proxy.text, e->proxy.source);
		else if (is_near(&relays->at[i]))
			log_info("the way to %s is through no proxy: it is near", text);
		else
			log_info("the way to %s is through no proxy (by %s)", text, e->list_source);
	}
}

/* ---- credentials ---- */

/* USER:PASSWORD in line, which is taken apart. NULL, or what is wrong with it. */
static const char *parse_line(char *line, size_t len, struct proxy_credentials *c)
{
	char *colon;

	if (len && line[len - 1] == '\n')
		len--;
	if (len && line[len - 1] == '\r')
		len--;
	line[len] = '\0';
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			return "has more than one line, or control characters; expected "
			       "USER:PASSWORD and nothing else";
	colon = strchr(line, ':');
	if (!colon || colon == line)
		return "has no USER:PASSWORD; expected that on one line";
	*colon++ = '\0';
	if (strlen(line) > PROXY_WORD_MAX || strlen(colon) > PROXY_WORD_MAX)
		return "has a user name or password that is longer than 255 bytes";
	snprintf(c->user, sizeof(c->user), "%s", line);
	snprintf(c->password, sizeof(c->password), "%s", colon);
	c->known = true;
	return NULL;
}

/* At most FILE_SIZE bytes. How many, or -errno. */
static ssize_t read_file(const char *path, char buf[FILE_SIZE], bool *exposed)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = fstat(fd, &st) < 0 ? -1 : read(fd, buf, FILE_SIZE);
	if (n < 0)
		n = -errno;
	else
		*exposed = S_ISREG(st.st_mode) && (st.st_mode & S_IROTH);
	close(fd);
	return n;
}

static const char *read_credentials(const struct proxy *p, struct proxy_credentials *c,
				    bool *exposed, int *r)
{
	char buf[FILE_SIZE];
	ssize_t n = read_file(p->credentials_file, buf, exposed);
	const char *fault;

	*r = n < 0 ? (int)n : -EINVAL;
	if (n < 0)
		fault = strerror((int)-n);
	else if (n == FILE_SIZE)
		fault = "is too long; expected USER:PASSWORD and nothing else";
	else
		fault = parse_line(buf, (size_t)n, c);
	if (!fault && p->url.user && strcmp(p->url.user, c->user) != 0)
		fault = "is for another user than the proxy's URL; expected the same, or none in "
			"the URL";
	explicit_bzero(buf, sizeof(buf));
	return fault;
}

int egress_credentials(const struct proxy *p, struct proxy_credentials *c, bool *exposed,
		       char **why)
{
	const char *fault;
	int r;

	*c = (struct proxy_credentials){ .known = p->url.user };
	*why = NULL;
	*exposed = false;
	if (p->url.user)
		snprintf(c->user, sizeof(c->user), "%s", p->url.user);
	if (p->url.password)
		snprintf(c->password, sizeof(c->password), "%s", p->url.password);
	if (!p->credentials_file)
		return 0;
	fault = read_credentials(p, c, exposed, &r);
	if (!fault)
		return 0;
	explicit_bzero(c, sizeof(*c));
	return explain(why, p->credentials_file, fault, r);
}

/* ---- credentials that were refused ---- */

static bool digest_of(const struct proxy_credentials *c, uint8_t digest[EVP_MAX_MD_SIZE])
{
	return EVP_Digest(c, sizeof(*c), digest, NULL, EVP_sha256(), NULL) == 1;
}

/* True if that is what was refused last. */
static bool is_known(const struct proxy_rejection *known, const struct proxy_credentials *c)
{
	uint8_t digest[EVP_MAX_MD_SIZE] = { 0 };

	return known && known->times && digest_of(c, digest) &&
	       memcmp(digest, known->digest, sizeof(digest)) == 0;
}

void egress_rejected(const struct proxy *p, const struct proxy_credentials *c, uint64_t now)
{
	struct proxy_rejection *known = p->rejection;

	if (!known)
		return;
	if (!is_known(known, c)) {
		*known = (struct proxy_rejection){ 0 };
		if (!digest_of(c, known->digest))
			return;
	}
	if (known->times < EGRESS_REJECTED_MAX)
		known->times++;
	known->until = now + known->times * (uint64_t)EGRESS_REJECTED_MS;
}

bool egress_rests(const struct proxy *p, const struct proxy_credentials *c, uint64_t now)
{
	return is_known(p->rejection, c) && now < p->rejection->until;
}

void egress_hope(const struct egress *e)
{
	if (e->proxy.rejection)
		*e->proxy.rejection = (struct proxy_rejection){ 0 };
}
