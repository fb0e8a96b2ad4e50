/*
 * Any text as a config of a program: it is refused with an error, or what it dumps loads again
 * and dumps the same. The first byte picks the program (r, t, b), a drop-in of the bridge (v), a
 * range (n), or a flag (s: --service, k: --local, l: --listen, q: --qgs).
 */
#include <stdlib.h>
#include <string.h>

#include "config/bridge.h"
#include "config/scalar.h"

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

static char *dump_bridge(const struct bridge_config *c)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	must(f);
	bridge_config_dump(c, f);
	must(fclose(f) == 0);
	return text;
}

/* Takes the reference. */
static void must_load_again(struct bridge_config *c)
{
	struct config_errors e = { 0 };
	char *first = dump_bridge(c), *second;

	bridge_config_unref(c);
	c = bridge_config_parse("dump", first, strlen(first), &e);
	end_errors(&e, c);
	must(c);
	second = dump_bridge(c);
	must(strcmp(first, second) == 0);
	bridge_config_unref(c);
	free(first);
	free(second);
}

static void try_bridge(const char *text, size_t len)
{
	struct config_errors e = { 0 };
	struct bridge_config *c = bridge_config_parse("/fuzz/bridge.yaml", text, len, &e);

	end_errors(&e, c);
	if (!c)
		return;
	must((bridge_config_check(c, "fuzz", &e) == 0) == (e.n == 0));
	config_errors_deinit(&e);
	must_load_again(c);
}

static void try_drop_in(const char *text, size_t len)
{
	struct config_errors e = { 0 };
	struct vm_file *f = vm_file_parse("/fuzz/vm.yaml", text, len, &e);
	struct bridge_config *c = bridge_config_new();

	end_errors(&e, f);
	if (f)
		must((vm_file_check(f, c, "fuzz", &e) == 0) == (e.n == 0));
	config_errors_deinit(&e);
	vm_file_free(f);
	bridge_config_unref(c);
}

static void try_range(const char *text, size_t len)
{
	char *copy = strndup(text, len);
	uint64_t from, to;

	must(copy);
	must(scalar_range(copy, &from, &to) < 0 || (from <= to && to <= UINT32_MAX));
	free(copy);
}

/* Paths on a command line may have bytes that no YAML can, so that a dump has '?' for them. */
static bool is_ascii(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text >= 0x80)
			return false;
	return true;
}

static void try_bridge_flag(int (*how)(struct bridge_config *c, const char *text, char **why),
			    const char *text, size_t len)
{
	struct bridge_config *c = bridge_config_new();
	char *copy = strndup(text, len), *why = NULL;

	must(copy);
	if (how(c, copy, &why) < 0)
		must(why);
	if (is_ascii(copy))
		must_load_again(c);
	else
		bridge_config_unref(c);
	free(why);
	free(copy);
}

static void try_local(const char *text, size_t len)
{
	struct tunnel_config *c = tunnel_config_new();
	char *copy = strndup(text, len), *why = NULL;

	must(copy);
	if (tunnel_config_add_local(c, copy, &why) < 0)
		must(why && c->n_locals == 0);
	else
		must(c->n_locals == 1 && name_is_service(c->locals[0].service));
	free(why);
	free(copy);
	tunnel_config_free(c);
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
	else if (text[0] == 'b')
		try_bridge(text + 1, size - 1);
	else if (text[0] == 'v')
		try_drop_in(text + 1, size - 1);
	else if (text[0] == 'n')
		try_range(text + 1, size - 1);
	else if (text[0] == 'k')
		try_local(text + 1, size - 1);
	else if (text[0] == 'l')
		try_bridge_flag(bridge_config_add_listener, text + 1, size - 1);
	else if (text[0] == 'q')
		try_bridge_flag(bridge_config_set_qgs, text + 1, size - 1);
	else
		try_relay(text + 1, size - 1);
	return 0;
}
