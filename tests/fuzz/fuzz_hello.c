/*
 * Fuzzes the control exchange: any fields, as a hello and as each of its answers. What is decoded
 * is within its bounds and alphabet, and written and read again the same; what is refused says why
 * and leaves the struct untouched.
 *
 * Input: lines of "name: value", which are all the fields there are; other bytes are what they are.
 */
#include <stdlib.h>
#include <string.h>

#include "config/address.h"
#include "tunnel/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fields fields, again;

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void must_printable(const char *text, size_t max)
{
	must(strnlen(text, max) < max);
	for (; *text; text++)
		must((unsigned char)*text >= ' ' && *text != 0x7f);
}

/* Takes text apart. A field that is refused must leave what is there as it was. */
static void read_fields(char *text)
{
	fields_init(&fields);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char *value = strstr(line, ": ");
		unsigned n = fields.n;
		size_t used = fields.used;

		if (value)
			*value = '\0';
		if (fields_add(&fields, line, value ? value + 2 : "", line[0] == 's') < 0)
			must(fields.n == n && fields.used == used);
		else
			must(fields.n == n + 1 && strcmp(fields.at[n].value,
							 value ? value + 2 : "") == 0);
	}
	must(fields.n <= FIELDS_MAX && fields.used <= FIELDS_BYTES_MAX);
	for (unsigned i = 0; i < fields.n; i++) {
		must_printable(fields.at[i].name, FIELDS_BYTES_MAX);
		must_printable(fields.at[i].value, FIELDS_BYTES_MAX);
		must(fields_get(&fields, fields.at[i].name));
	}
}

static void try_hello(void)
{
	static struct hello h, h_2;
	static const struct hello untouched;
	char why[HELLO_WHY_MAX] = "";

	memset(&h, 0, sizeof(h));
	if (hello_decode(&h, &fields, why) < 0) {
		must(why[0] && memcmp(&h, &untouched, sizeof(h)) == 0);
		must_printable(why, sizeof(why));
		return;
	}
	must(hello_is_instance(h.instance) && h.generation <= HELLO_GENERATION_MAX);
	must(h.n_offers > 0 && h.n_offers <= HELLO_SERVICES_MAX);
	for (unsigned i = 0; i < h.n_offers; i++)
		must(name_is_label(h.offers[i].name));
	fields_init(&again);
	must(hello_encode(&h, &again) == 0 && hello_decode(&h_2, &again, why) == 0);
	must(!h.token == !h_2.token && (!h.token || strcmp(h.token, h_2.token) == 0));
	must(strcmp(h.instance, h_2.instance) == 0 && h.generation == h_2.generation);
	must(h.n_offers == h_2.n_offers);
	for (unsigned i = 0; i < h.n_offers; i++)
		must(strcmp(h.offers[i].name, h_2.offers[i].name) == 0 &&
		     h.offers[i].eager == h_2.offers[i].eager);
}

static void try_accepted(void)
{
	static struct hello_accepted a, a_2;
	static const struct hello_accepted untouched;
	char why[HELLO_WHY_MAX] = "";

	memset(&a, 0, sizeof(a));
	if (hello_decode_accepted(&a, &fields, why) < 0) {
		must(why[0] && memcmp(&a, &untouched, sizeof(a)) == 0);
		must_printable(why, sizeof(why));
		return;
	}
	must(name_is_label(a.owner) && a.n_services <= HELLO_SERVICES_MAX);
	for (unsigned i = 0; i < a.n_services; i++)
		must(name_is_service(a.services[i]));
	fields_init(&again);
	must(hello_encode_accepted(&a, &again) == 0);
	must(hello_decode_accepted(&a_2, &again, why) == 0);
	must(strcmp(a.owner, a_2.owner) == 0 && a.n_services == a_2.n_services);
	for (unsigned i = 0; i < a.n_services; i++)
		must(strcmp(a.services[i], a_2.services[i]) == 0);
}

static void try_refused(void)
{
	static struct hello_refused r, r_2;

	hello_decode_refused(&r, &fields);
	must(r.reason < HELLO_REFUSALS);
	must_printable(r.message, sizeof(r.message));
	fields_init(&again);
	must(hello_encode_refused(&r, &again) == 0);
	hello_decode_refused(&r_2, &again);
	must(r.reason == r_2.reason && strcmp(r.message, r_2.message) == 0);
}

static void try_move(void)
{
	enum hello_move m = hello_decode_move(&fields);

	must(m < HELLO_MOVES);
	fields_init(&again);
	must(hello_encode_move(m, &again) == 0 && hello_decode_move(&again) == m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	must(text);
	memcpy(text, data, size);
	text[size] = '\0';
	read_fields(text);
	try_hello();
	try_accepted();
	try_refused();
	try_move();
	free(text);
	return 0;
}
