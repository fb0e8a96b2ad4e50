/*
 * quote-load: clients that ask for quotes, one request or many VMs' at once.
 *
 * Theory of operation: "one" makes one request, as odd as its options say, and prints how it ended;
 * "run" makes many good ones. Both print one line of JSON, and exit with 0 if all went well, 1 if a
 * request failed, 2 for wrong usage, 3 if this program itself could not go on.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/tools/client.h"
#include "tests/tools/quote.h"
#include "tests/tools/vms.h"

#define VMS 4096
#define FLOODS 16

static const char usage[] =
	"quote-load one --to ADDRESS [--client qemu|tdx|raw] [--timeout-ms 30000] [--reply-max N]\n"
	"    [--platform] [--report-bytes 1024] [--garbage N] [--twice] [--extra N] [--only N]\n"
	"    [--split N+N+...] [--pause-ms 20] [--shut-wr] [--read-after-ms N] [--second]\n"
	"    [--name VM]\n"
	"quote-load run [--vm NAME=ADDRESS]... [--vms N --to ADDRESS] [--client qemu|tdx|raw|mix]\n"
	"    [--requests N] [--concurrency-per-vm K] [--flood NAME:K]... [--think-ms N]\n"
	"    [--timeout-ms 30000] [--reply-max N] [--odd SEED]\n"
	"    --odd: reports of any size to 4000, some with a half-close, some read late.\n"
	"    '%' in --to is the VM's number, from 0 on; it is named vm0, vm1...\n"
	"An ADDRESS is unix:/PATH, vsock:CID:PORT or tcp:ADDRESS:PORT; --inside-vm allows CID 2.\n";

struct order {
	struct client_how how;
	const char *kind, *to, *name;
	const char *vms[VMS];
	size_t n_vms, made;
	const char *floods[FLOODS];
	size_t n_floods;
	uint64_t requests, concurrency;
	int64_t think_ms;
	bool odd;
	uint64_t seed;
	bool inside_vm;
	struct vm *run; /* what comes of it */
};

static void __attribute__((format(printf, 1, 2), noreturn)) fatal(const char *format, ...)
{
	va_list args;

	fputs("quote-load: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

static uint64_t number(const char *name, const char *text, uint64_t least, uint64_t most)
{
	uint64_t value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno || *end || value < least || value > most)
		fatal("--%s %s: not a number from %llu to %llu", name, text,
		      (unsigned long long)least, (unsigned long long)most);
	return value;
}

static enum client_kind client_kind(const char *text)
{
	if (strcmp(text, "qemu") == 0)
		return CLIENT_QEMU;
	if (strcmp(text, "tdx") == 0)
		return CLIENT_TDX;
	if (strcmp(text, "raw") == 0)
		return CLIENT_RAW;
	fatal("--client %s: qemu, tdx or raw", text);
}

static const struct place *place(const struct order *o, const char *text)
{
	struct place *p = malloc(sizeof(*p));
	const char *why = p ? place_parse(p, text) : "out of memory";

	if (why)
		fatal("%s: %s", text, why);
	if (place_is_host(p) && !o->inside_vm)
		fatal("%s: that is another machine's; only with --inside-vm", text);
	return p;
}

static void read_parts(struct client_how *how, char *text)
{
	char *at, *part;

	for (part = strtok_r(text, "+", &at); part; part = strtok_r(NULL, "+", &at)) {
		if (how->n_parts == CLIENT_PARTS)
			fatal("--split: %d parts at most", CLIENT_PARTS);
		how->parts[how->n_parts++] = number("split", part, 1, CLIENT_REPORT_MAX);
	}
}

/* ---- options ---- */

enum option_id {
	OPT_TO = 1,
	OPT_CLIENT,
	OPT_TIMEOUT,
	OPT_REPLY_MAX,
	OPT_INSIDE_VM,
	OPT_PLATFORM, /* of one */
	OPT_REPORT_BYTES,
	OPT_GARBAGE,
	OPT_TWICE,
	OPT_EXTRA,
	OPT_ONLY,
	OPT_SPLIT,
	OPT_PAUSE,
	OPT_SHUT_WR,
	OPT_READ_AFTER,
	OPT_SECOND,
	OPT_NAME,
	OPT_VM, /* of run */
	OPT_MANY_VMS,
	OPT_REQUESTS,
	OPT_CONCURRENCY,
	OPT_FLOOD,
	OPT_THINK,
	OPT_ODD,
};

static const struct option options[] = {
	{ "to", required_argument, NULL, OPT_TO },
	{ "client", required_argument, NULL, OPT_CLIENT },
	{ "timeout-ms", required_argument, NULL, OPT_TIMEOUT },
	{ "reply-max", required_argument, NULL, OPT_REPLY_MAX },
	{ "inside-vm", no_argument, NULL, OPT_INSIDE_VM },
	{ "platform", no_argument, NULL, OPT_PLATFORM },
	{ "report-bytes", required_argument, NULL, OPT_REPORT_BYTES },
	{ "garbage", required_argument, NULL, OPT_GARBAGE },
	{ "twice", no_argument, NULL, OPT_TWICE },
	{ "extra", required_argument, NULL, OPT_EXTRA },
	{ "only", required_argument, NULL, OPT_ONLY },
	{ "split", required_argument, NULL, OPT_SPLIT },
	{ "pause-ms", required_argument, NULL, OPT_PAUSE },
	{ "shut-wr", no_argument, NULL, OPT_SHUT_WR },
	{ "read-after-ms", required_argument, NULL, OPT_READ_AFTER },
	{ "second", no_argument, NULL, OPT_SECOND },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "vm", required_argument, NULL, OPT_VM },
	{ "vms", required_argument, NULL, OPT_MANY_VMS },
	{ "requests", required_argument, NULL, OPT_REQUESTS },
	{ "concurrency-per-vm", required_argument, NULL, OPT_CONCURRENCY },
	{ "flood", required_argument, NULL, OPT_FLOOD },
	{ "think-ms", required_argument, NULL, OPT_THINK },
	{ "odd", required_argument, NULL, OPT_ODD },
	{ NULL, 0, NULL, 0 },
};

static void common_option(struct order *o, int option, const char *name)
{
	switch (option) {
	case OPT_TO:
		o->to = optarg;
		break;
	case OPT_CLIENT:
		o->kind = optarg;
		break;
	case OPT_TIMEOUT:
		o->how.timeout_ms = (int64_t)number(name, optarg, 1, 1U << 30);
		break;
	case OPT_REPLY_MAX:
		o->how.reply_max = number(name, optarg, QGS_QUOTE, 1U << 30);
		break;
	case OPT_INSIDE_VM:
		o->inside_vm = true;
		break;
	default:
		fatal("usage:\n%s", usage);
	}
}

static void option_of_one(struct order *o, int option, const char *name)
{
	struct client_how *how = &o->how;

	switch (option) {
	case OPT_PLATFORM:
		how->platform = true;
		break;
	case OPT_REPORT_BYTES:
		how->report_bytes = number(name, optarg, QUOTE_REPORT, CLIENT_REPORT_MAX);
		break;
	case OPT_GARBAGE:
		how->garbage = number(name, optarg, 1, CLIENT_REPORT_MAX);
		break;
	case OPT_TWICE:
		how->twice = true;
		break;
	case OPT_EXTRA:
		how->extra = number(name, optarg, 0, CLIENT_REPORT_MAX);
		break;
	case OPT_ONLY:
		how->has_only = true;
		how->only = number(name, optarg, 0, CLIENT_REPORT_MAX);
		break;
	case OPT_SPLIT:
		read_parts(how, optarg);
		break;
	case OPT_PAUSE:
		how->pause_ms = (int64_t)number(name, optarg, 0, 1U << 30);
		break;
	case OPT_SHUT_WR:
		how->shut_wr = true;
		break;
	case OPT_READ_AFTER:
		how->read_after_ms = (int64_t)number(name, optarg, 0, 1U << 30);
		break;
	case OPT_SECOND:
		how->second = true;
		break;
	default:
		o->name = optarg;
		break;
	}
}

static void option_of_run(struct order *o, int option, const char *name)
{
	switch (option) {
	case OPT_VM:
		if (o->n_vms == VMS)
			fatal("%d VMs at most", VMS);
		o->vms[o->n_vms++] = optarg;
		break;
	case OPT_MANY_VMS:
		o->made = number(name, optarg, 1, VMS);
		break;
	case OPT_REQUESTS:
		o->requests = number(name, optarg, 0, 100000000);
		break;
	case OPT_CONCURRENCY:
		o->concurrency = number(name, optarg, 1, 1024);
		break;
	case OPT_FLOOD:
		if (o->n_floods == FLOODS)
			fatal("%d floods at most", FLOODS);
		o->floods[o->n_floods++] = optarg;
		break;
	case OPT_ODD:
		o->odd = true;
		o->seed = number(name, optarg, 0, UINT64_MAX);
		break;
	default:
		o->think_ms = (int64_t)number(name, optarg, 0, 1U << 30);
		break;
	}
}

static void read_options(struct order *o, bool one, int argc, char **argv)
{
	int option, at = 0;

	while ((option = getopt_long(argc, argv, "", options, &at)) != -1) {
		if (option < OPT_PLATFORM || option == '?')
			common_option(o, option, options[at].name);
		else if (one && option <= OPT_NAME)
			option_of_one(o, option, options[at].name);
		else if (!one && option > OPT_NAME)
			option_of_run(o, option, options[at].name);
		else
			fatal("--%s is not for this\n%s", options[at].name, usage);
	}
	if (optind != argc)
		fatal("usage:\n%s", usage);
}

/* ---- one ---- */

static const char *error_name(int error)
{
	return error ? strerrorname_np(error) : "";
}

static int run_one(struct order *o)
{
	struct client_result r;
	uint8_t *room;

	if (!o->to)
		fatal("usage:\n%s", usage);
	o->how.kind = client_kind(o->kind);
	o->how.to = place(o, o->to);
	room = malloc(client_room(&o->how));
	if (!room)
		fatal("out of memory");
	client_run(&o->how, o->name, 0, room, &r);
	printf("{\"outcome\": \"%s\", \"errno\": \"%s\", \"why\": \"%s\", \"code\": %u, "
	       "\"bytes\": %zu, \"quote_bytes\": %zu, \"connect_ms\": %.3f, \"ms\": %.3f, "
	       "\"second\": \"%s\"}\n",
	       client_outcomes[r.outcome], error_name(r.error), r.why ? r.why : "", r.code, r.bytes,
	       r.quote_bytes, (double)r.connect_us / 1000.0, (double)r.us / 1000.0,
	       error_name(r.second_error));
	free(room);
	free((void *)o->how.to);
	return r.outcome == OUTCOME_OK ? 0 : 1;
}

/* ---- run ---- */

static void set_vm(struct order *o, struct vm *vm, size_t index, const char *address)
{
	vm->how = o->how;
	vm->how.kind = strcmp(o->kind, "mix") == 0 ? index % 3 : client_kind(o->kind);
	vm->how.to = place(o, address);
	vm->concurrency = (unsigned)o->concurrency;
	vm->odd = o->odd;
	vm->seed = o->seed + index * 1000000;
}

static void make_vm(struct order *o, struct vm *vm, size_t index, size_t nth)
{
	const char *percent = strchr(o->to, '%');
	char *address;

	if (percent ? asprintf(&address, "%.*s%zu%s", (int)(percent - o->to), o->to, nth,
			       percent + 1) < 0
		    : asprintf(&address, "%s", o->to) < 0)
		fatal("out of memory");
	snprintf(vm->name, sizeof(vm->name), "vm%zu", nth);
	set_vm(o, vm, index, address);
}

static void name_vm(struct order *o, struct vm *vm, size_t index)
{
	const char *equals = strchr(o->vms[index], '=');
	size_t len = equals ? (size_t)(equals - o->vms[index]) : 0;

	if (!len || len >= sizeof(vm->name) || strcspn(o->vms[index], "\"\\") < len)
		fatal("--vm %s: not NAME=ADDRESS", o->vms[index]);
	memcpy(vm->name, o->vms[index], len);
	set_vm(o, vm, index, equals + 1);
}

static void mark_flood(struct vm *vms, size_t n, const char *text)
{
	const char *colon = strrchr(text, ':');

	for (size_t i = 0; colon && i < n; i++) {
		if (strlen(vms[i].name) == (size_t)(colon - text) &&
		    strncmp(vms[i].name, text, (size_t)(colon - text)) == 0) {
			vms[i].flood = true;
			vms[i].concurrency = (unsigned)number("flood", colon + 1, 1, 1024);
			return;
		}
	}
	fatal("--flood %s: not NAME:K of a VM", text);
}

/* As evenly as it goes. */
static void share_requests(struct vm *vms, size_t n, uint64_t requests)
{
	size_t workers = 0, nth = 0;

	for (size_t i = 0; i < n; i++)
		workers += !vms[i].flood;
	if (!workers)
		fatal("all VMs are floods");
	for (size_t i = 0; i < n; i++) {
		if (!vms[i].flood)
			vms[i].requests = requests / workers + (nth++ < requests % workers);
	}
}

static int run_many(struct order *o)
{
	size_t n = o->n_vms + o->made;
	struct vm *vms = o->run = calloc(n + 1, sizeof(*vms));

	if (!vms || !n || (o->made && !o->to))
		fatal("usage:\n%s", usage);
	for (size_t i = 0; i < o->n_vms; i++)
		name_vm(o, &vms[i], i);
	for (size_t i = o->n_vms; i < n; i++)
		make_vm(o, &vms[i], i, i - o->n_vms);
	for (size_t i = 0; i < o->n_floods; i++)
		mark_flood(vms, n, o->floods[i]);
	share_requests(vms, n, o->requests);
	return vms_run(vms, n, o->think_ms);
}

int main(int argc, char **argv)
{
	static struct order o = {
		.how = { .timeout_ms = 30000, .report_bytes = QUOTE_REPORT, .pause_ms = 20 },
		.kind = "qemu",
		.name = "one",
		.requests = 1000,
		.concurrency = 1
	};
	bool one = argc > 1 && strcmp(argv[1], "one") == 0;
	struct rlimit files;

	if (!one && (argc < 2 || strcmp(argv[1], "run") != 0))
		fatal("usage:\n%s", usage);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	read_options(&o, one, argc - 1, argv + 1);
	return one ? run_one(&o) : run_many(&o);
}
