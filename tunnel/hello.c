/*
 * hello: the fields of hello, accepted, refused and move, written and read.
 *
 * Theory of operation: encoders append to a struct fields; decoders walk one, take the fields they
 * know, ignore the rest (PROTOCOL.md section 7), and check each value against the alphabet and
 * length the protocol gives it. Names are kept in lower case, because they are compared without
 * case.
 *
 * Limits: those of struct fields, and the arrays of hello.h. Nothing is allocated.
 */
#include "tunnel/hello.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "config/address.h"

#define EAGER ";dial=eager"

static const char *const refusal_words[] = {
	[HELLO_BAD_CREDENTIAL] = "bad-credential",
	[HELLO_FORBIDDEN] = "forbidden",
	[HELLO_STALE] = "stale",
	[HELLO_LIMIT] = "limit",
	[HELLO_PROTOCOL] = "protocol",
	[HELLO_OTHER] = "other",
};
_Static_assert(sizeof(refusal_words) / sizeof(*refusal_words) == HELLO_REFUSALS,
	       "a word for each refusal");

static const char *const move_words[] = {
	[HELLO_MOVE_STREAM_IDS] = "stream-ids",
	[HELLO_MOVE_DRAIN] = "drain",
	[HELLO_MOVE_OTHER] = "other",
};
_Static_assert(sizeof(move_words) / sizeof(*move_words) == HELLO_MOVES, "a word for each move");

static int refuse(char why[HELLO_WHY_MAX], const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static int refuse(char why[HELLO_WHY_MAX], const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, HELLO_WHY_MAX, fmt, args);
	va_end(args);
	return -EPROTO;
}

/* size includes the NUL; the caller has checked that text fits. */
static void lower(char *out, const char *text, size_t size)
{
	size_t i;

	for (i = 0; i + 1 < size && text[i]; i++)
		out[i] = (char)tolower((unsigned char)text[i]);
	out[i] = '\0';
}

bool hello_is_instance(const char *text)
{
	size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				  "0123456789._-");

	return len > 0 && len < HELLO_INSTANCE_MAX && text[len] == '\0';
}

int hello_encode(const struct hello *h, struct fields *f)
{
	char text[HELLO_LABEL_MAX + sizeof(EAGER)];
	int r = 0;

	if (h->token)
		r = fields_add(f, "attest-token", h->token, true);
	if (r == 0)
		r = fields_add(f, "attest-instance", h->instance, false);
	snprintf(text, sizeof(text), "%" PRIu64, h->generation);
	if (r == 0)
		r = fields_add(f, "attest-generation", text, false);
	for (unsigned i = 0; r == 0 && i < h->n_offers; i++) {
		snprintf(text, sizeof(text), "%s%s", h->offers[i].name,
			 h->offers[i].eager ? EAGER : "");
		r = fields_add(f, h->question ? "attest-would-offer" : "attest-service", text,
			       false);
	}
	return r;
}

/* Digits only: strtoull would also take signs, spaces and 0x. */
static bool parse_generation(const char *text, uint64_t *out)
{
	uint64_t value = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		uint64_t digit = (uint64_t)(*text - '0');

		if (*text < '0' || *text > '9' || value > (HELLO_GENERATION_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*out = value;
	return true;
}

/* "kbs;dial=eager"; unknown parameters are ignored. */
static int decode_offer(struct hello *h, const char *text, char why[HELLO_WHY_MAX])
{
	size_t len = strcspn(text, "; ");
	char label[HELLO_LABEL_MAX];
	struct hello_offer *o;

	if (h->n_offers == HELLO_SERVICES_MAX)
		return refuse(why, "more than %d services are offered", HELLO_SERVICES_MAX);
	if (len < sizeof(label)) {
		memcpy(label, text, len);
		label[len] = '\0';
	}
	if (len >= sizeof(label) || !name_is_label(label))
		return refuse(why, "attest-service is no service name: a single label of letters, "
				   "digits and '-' is expected");
	o = &h->offers[h->n_offers];
	lower(o->name, label, sizeof(o->name));
	o->eager = false;
	for (unsigned i = 0; i < h->n_offers; i++)
		if (strcmp(h->offers[i].name, o->name) == 0)
			return refuse(why, "service \"%s\" is offered twice", o->name);
	for (text += len; *text; text += len) {
		text += strspn(text, "; ");
		len = strcspn(text, "; ");
		if (len == strlen("dial=eager") && strncasecmp(text, "dial=eager", len) == 0)
			o->eager = true;
	}
	h->n_offers++;
	return 0;
}

int hello_decode(struct hello *out, const struct fields *f, char why[HELLO_WHY_MAX])
{
	const char *token = fields_get(f, "attest-token");
	const char *instance = fields_get(f, "attest-instance");
	const char *generation = fields_get(f, "attest-generation");
	struct hello h = { .token = token && *token ? token : NULL };
	const char *field;

	if (!instance || !hello_is_instance(instance))
		return refuse(why,
			      "attest-instance is %s; 1 to 64 of A-Z a-z 0-9 . _ - are expected",
			      instance ? "malformed" : "missing");
	memcpy(h.instance, instance, strlen(instance) + 1);
	if (!generation || !parse_generation(generation, &h.generation))
		return refuse(why,
			      "attest-generation is %s; a decimal number below 2^63 is expected",
			      generation ? "malformed" : "missing");
	h.question = fields_get(f, "attest-would-offer");
	field = h.question ? "attest-would-offer" : "attest-service";
	if (h.question && fields_get(f, "attest-service"))
		return refuse(why,
			      "attest-would-offer beside attest-service: a hello offers, or asks");
	for (unsigned i = 0; i < f->n; i++) {
		int r;

		if (strcmp(f->at[i].name, field) != 0)
			continue;
		r = decode_offer(&h, f->at[i].value, why);
		if (r < 0)
			return r;
	}
	if (h.n_offers == 0)
		return refuse(why, "no attest-service: the agent offers nothing");
	*out = h;
	return 0;
}

int hello_encode_accepted(const struct hello_accepted *a, struct fields *f)
{
	int r = fields_add(f, "attest-owner", a->owner, false);

	for (unsigned i = 0; r == 0 && i < a->n_services; i++)
		r = fields_add(f, "attest-service", a->services[i], false);
	return r;
}

int hello_decode_accepted(struct hello_accepted *out, const struct fields *f,
			  char why[HELLO_WHY_MAX])
{
	const char *owner = fields_get(f, "attest-owner");
	struct hello_accepted a = { .n_services = 0 };

	if (!owner || !name_is_label(owner))
		return refuse(why, "attest-owner is %s", owner ? "malformed" : "missing");
	lower(a.owner, owner, sizeof(a.owner));
	for (unsigned i = 0; i < f->n; i++) {
		if (strcmp(f->at[i].name, "attest-service") != 0)
			continue;
		if (a.n_services == HELLO_SERVICES_MAX)
			return refuse(why, "more than %d services were accepted",
				      HELLO_SERVICES_MAX);
		if (!name_is_service(f->at[i].value))
			return refuse(why, "an accepted attest-service is no SERVICE.OWNER");
		lower(a.services[a.n_services++], f->at[i].value, HELLO_SERVICE_MAX);
	}
	*out = a;
	return 0;
}

const char *hello_refusal_word(enum hello_refusal r)
{
	return r < HELLO_REFUSALS ? refusal_words[r] : "other";
}

bool hello_refusal_is_lasting(enum hello_refusal r)
{
	return r == HELLO_BAD_CREDENTIAL || r == HELLO_FORBIDDEN || r == HELLO_STALE;
}

/*
 * Printable text only: it goes to a terminal and a log. Bytes above 0x7f stay, so that UTF-8 does,
 * and a cut never leaves half a character.
 */
static void copy_message(char out[HELLO_MESSAGE_MAX], const char *text)
{
	size_t n = 0;

	for (; *text && n < HELLO_MESSAGE_MAX - 1; text++) {
		unsigned char ch = (unsigned char)*text;

		out[n++] = ch < 0x20 || ch == 0x7f ? '?' : (char)ch;
	}
	if (*text && ((unsigned char)*text & 0xc0) == 0x80) {
		while (n > 0 && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
			n--;
		if (n > 0)
			n--; /* the lead byte of the character that was cut */
	}
	out[n] = '\0';
}

int hello_encode_refused(const struct hello_refused *r, struct fields *f)
{
	char message[HELLO_MESSAGE_MAX];
	int error = fields_add(f, "attest-reason", hello_refusal_word(r->reason), false);

	copy_message(message, r->message);
	if (error == 0 && *message)
		error = fields_add(f, "attest-message", message, false);
	return error;
}

void hello_decode_refused(struct hello_refused *r, const struct fields *f)
{
	const char *word = fields_get(f, "attest-reason");
	const char *message = fields_get(f, "attest-message");

	r->reason = HELLO_OTHER;
	for (unsigned i = 0; word && i < HELLO_OTHER; i++)
		if (strcasecmp(word, refusal_words[i]) == 0)
			r->reason = i;
	copy_message(r->message, message ? message : "");
}

const char *hello_move_word(enum hello_move m)
{
	return m < HELLO_MOVES ? move_words[m] : "other";
}

int hello_encode_move(enum hello_move m, struct fields *f)
{
	return fields_add(f, "attest-reason", hello_move_word(m), false);
}

enum hello_move hello_decode_move(const struct fields *f)
{
	const char *word = fields_get(f, "attest-reason");

	for (unsigned i = 0; word && i < HELLO_MOVE_OTHER; i++)
		if (strcasecmp(word, move_words[i]) == 0)
			return i;
	return HELLO_MOVE_OTHER;
}
