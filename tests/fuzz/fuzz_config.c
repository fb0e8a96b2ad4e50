/*
 * Any text as a config of either program: it is refused with an error, or what it dumps loads again
 * and dumps the same. The first byte picks the program, or a --service flag.
 */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void end_errors(struct config_errors *e, bool loaded)
{
	must(loaded == (e->n == 0));
	config_errors_deinit(e);
}

static char *dump(struct relay_config *relay, struct tunnel_config *tunnel, size_t *len)
{
	char *text;
	FILE *f = open_memstream(&text, len);

	must(f);
	if (relay)
		relay_config_dump(relay, f);
	else
		tunnel_config_dump(tunnel, f);
	must(fclose(f) == 0);
	return text;
}

static void try_relay(const char *text, size_t len)
{
	struct config_errors e = { 0 };
	struct relay_config *c = relay_config_parse("/fuzz/relay.yaml", text, len, &e);
	char *first, *second;

	end_errors(&e, c);
	if (!c)
		return;
	first = dump(c, NULL, &len);
	for (size_t i = 0; i < c->n_services; i++)
		must(relay_config_service(c, c->services[i].name) == &c->services[i]);
	relay_config_unref(c);
	c = relay_config_parse("dump", first, len, &e);
	end_errors(&e, c);
	must(c);
	second = dump(c, NULL, &len);
	must(strcmp(first, second) == 0);
	relay_config_unref(c);
	free(first);
	free(second);
}

static void try_tunnel(const char *text, size_t len)
{
	struct config_errors e = { 0 };
	struct tunnel_config *c = tunnel_config_parse("/fuzz/tunnel.yaml", text, len, &e);
	char *first, *second;

	end_errors(&e, c);
	if (!c)
		return;
	must((tunnel_config_check(c, "fuzz", &e) == 0) == (e.n == 0));
	config_errors_deinit(&e);
	first = dump(NULL, c, &len);
	tunnel_config_free(c);
	c = tunnel_config_parse("dump", first, len, &e);
	end_errors(&e, c);
	must(c);
	second = dump(NULL, c, &len);
	must(strcmp(first, second) == 0);
	tunnel_config_free(c);
	free(first);
	free(second);
}

static void try_flag(const char *text, size_t len)
{
	struct tunnel_config *c = tunnel_config_new();
	char *copy = strndup(text, len), *why = NULL;

	must(copy);
	if (tunnel_config_add_service(c, copy, &why) < 0)
		must(why);
	else
		must(tunnel_config_add_service(c, copy, &why) < 0);
	free(why);
	free(copy);
	tunnel_config_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;

	if (size == 0)
		return 0;
	if (text[0] == 't')
		try_tunnel(text + 1, size - 1);
	else if (text[0] == 's')
		try_flag(text + 1, size - 1);
	else
		try_relay(text + 1, size - 1);
	return 0;
}
