/*
 * agents: very many agents in one process, to see what they are to a relay.
 *
 * Real, because it is the project's own tunnel library and nothing else: each agent is a struct
 * agent as attest-tunnel has one, with its link, its back-off and its dice, its own TCP
 * connection, TLS handshake and verification, hello and HTTP/2 session, pings and time-outs.
 * Simulated: the agents share a process, a thread, a clock and a network address, where N
 * machines would have N; so the handshakes of all of them compete for one core here, and a storm
 * is slower than the relay alone would make it. With --patience an agent gives up on connecting
 * and on the handshake later than attest-tunnel does, so that its wait for the core is not taken
 * for the relay's silence; the relay's own time-outs are not touched by that. Streams are taken on
 * as the library does it, but no service is behind them unless --target names one.
 *
 * Theory of operation: one worker on the main thread. The agents share TLS contexts; each has a
 * config of its own, a shallow copy that differs in names. They are started by a timer: all in one
 * tick, or evenly over --spread seconds. The library calls back when an agent's link comes up or
 * goes down; failed attempts in between are read from the back-off's own count (a floor if a link
 * failed more than BACKOFF_SOON_ATTEMPTS times in a row). What the library says of failures goes
 * to stderr as always: the first of a kind for each link.
 *
 * On stdout, one JSON object a line, "at" by CLOCK_MONOTONIC:
 *
 *   connected  at each twentieth of all on the way up, at 99 %, and when all are up
 *   lost       the first loss when all were up, and when none is up any more; failed attempts
 *              count in these two when the link is up again
 *   state      on SIGUSR1 or a line on stdin: connected now; connects, losses and failed attempts
 *              so far; what waiting links said last, counted by text
 *   end        before the process ends: the same counts
 *
 * SIGTERM, SIGINT or the end of stdin (of a pipe) ends all agents in order. Exit status: 0, unless
 * the start failed.
 */
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/agents_settings.h"
#include "config/config.h"
#include "relay/log.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/agent.h"
#include "tunnel/hello.h"
#include "tunnel/link.h"
#include "tunnel/setup.h"

#define DESCRIPTORS_SPARE 64 /* besides one for each agent */
#define STEPS 20             /* milestones on the way up */
#define TEXTS_MAX 16         /* different last words in one state line */
#define END_MS 5000          /* for goodbyes */
#define PATH_SIZE 256

struct simulated {
	struct agent agent;
	struct agent_spec spec;
	struct tunnel_config config; /* a shallow copy of the shared one */
	struct offer_config offer;
	struct setup setup; /* never given back: what it points to is others' */
	char instance[HELLO_INSTANCE_MAX], service[HELLO_LABEL_MAX], token_file[PATH_SIZE];
	unsigned base; /* the back-off's count when the link was last lost */
	bool up, over;
};

static struct {
	struct settings set;
	struct tunnel_config *config;
	struct worker *worker;
	struct carrier_shared carrier;
	struct simulated *all;
	struct event *events[4];
	unsigned n_events;
	struct timer starting, ending;
	double began;
	unsigned started, connected, over;
	unsigned step; /* the next milestone */
	bool full;     /* all were up, none was lost since */
	bool ending_now;
	uint64_t connects, losses, failures;
} sim;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- what is said ---- */

static void say_event(const char *event, uint64_t failures)
{
	printf("{\"event\":\"%s\",\"at\":%.6f,\"connected\":%u,\"count\":%u,\"connects\":%" PRIu64
	       ",\"losses\":%" PRIu64 ",\"failures\":%" PRIu64,
	       event, now(), sim.connected, sim.set.count, sim.connects, sim.losses, failures);
}

static void say(const char *event)
{
	say_event(event, sim.failures);
	fputs("}\n", stdout);
	fflush(stdout);
}

/* Our own texts and addresses: no control characters, but quotes. */
static void put_json(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		putchar((unsigned char)*text < ' ' ? '?' : *text);
	}
	putchar('"');
}

static void say_state(const char *event)
{
	const char *text[TEXTS_MAX];
	unsigned n[TEXTS_MAX] = { 0 }, texts = 0, waiting = 0;
	uint64_t failures = sim.failures;

	for (unsigned i = 0; i < sim.started; i++) {
		const struct link *l = sim.all[i].agent.links[0];
		unsigned at = 0;

		if (l->active)
			continue;
		waiting++;
		failures += l->backoff.attempts - sim.all[i].base;
		if (!l->said[0])
			continue;
		while (at < texts && strcmp(text[at], l->said) != 0)
			at++;
		if (at == TEXTS_MAX)
			continue;
		if (at == texts)
			text[texts++] = l->said;
		n[at]++;
	}
	say_event(event, failures);
	printf(",\"waiting\":%u,\"said\":{", waiting);
	for (unsigned i = 0; i < texts; i++) {
		if (i)
			putchar(',');
		put_json(text[i]);
		printf(":%u", n[i]);
	}
	fputs("}}\n", stdout);
	fflush(stdout);
}

/* ---- milestones ---- */

/* How many have to be up for a step: twentieths, then 99 %, then all. */
static unsigned step_at(unsigned step)
{
	uint64_t count = sim.set.count;

	if (step < STEPS)
		return (unsigned)((count * step + STEPS - 1) / STEPS);
	return step == STEPS ? (unsigned)((count * 99 + 99) / 100) : (unsigned)count;
}

static void on_up(void)
{
	bool reached = false;

	while (sim.step <= STEPS + 1 && sim.connected >= step_at(sim.step)) {
		sim.step++;
		reached = true;
	}
	sim.full = sim.connected == sim.set.count;
	if (reached)
		say("connected");
}

static void on_down(void)
{
	sim.step = 1;
	while (sim.step <= STEPS && sim.connected >= step_at(sim.step))
		sim.step++;
	if (sim.full || sim.connected == 0)
		say("lost");
	sim.full = false;
}

/* ---- the library's events ---- */

static void on_changed(struct agent *a)
{
	struct simulated *s = (struct simulated *)((char *)a - offsetof(struct simulated, agent));
	unsigned attempts = a->links[0]->backoff.attempts;
	bool up = agent_up(a) > 0;

	if (up && !s->up) {
		sim.failures += attempts - s->base;
		sim.connects++;
		sim.connected++;
	} else if (!up && s->up) {
		sim.losses++;
		sim.connected--;
	}
	s->base = attempts;
	if (up == s->up || sim.ending_now) {
		s->up = up;
		return;
	}
	s->up = up;
	if (up)
		on_up();
	else
		on_down();
}

static void on_over(struct agent *a, enum agent_outcome outcome)
{
	struct simulated *s = (struct simulated *)((char *)a - offsetof(struct simulated, agent));

	s->over = true;
	sim.over++;
}

/* ---- starting ---- */

/* pattern with its '%' replaced by the agent's number. False: it does not fit. */
static bool number_into(char *to, size_t size, const char *pattern, unsigned number)
{
	const char *mark = strchr(pattern, '%');
	int n;

	if (mark)
		n = snprintf(to, size, "%.*s%u%s", (int)(mark - pattern), pattern, number,
			     mark + 1);
	else
		n = snprintf(to, size, "%s", pattern);
	return n >= 0 && (size_t)n < size;
}

static bool start_one(unsigned i)
{
	struct simulated *s = &sim.all[i];

	if (!number_into(s->instance, sizeof(s->instance), sim.set.instance, i) ||
	    !number_into(s->service, sizeof(s->service), sim.set.service, i) ||
	    !number_into(s->token_file, sizeof(s->token_file), sim.set.token_file, i)) {
		fprintf(stderr, "bench-agents: a name of agent %u is too long\n", i);
		return false;
	}
	s->config = *sim.config;
	s->config.relays.at = &sim.config->relays.at[i % sim.config->relays.n];
	s->config.relays.n = 1;
	s->offer = sim.config->services[0];
	s->offer.name = s->service;
	s->config.services = &s->offer;
	s->config.token_file = s->token_file;
	s->setup = (struct setup){ .config = &s->config, .carrier = sim.carrier, .holders = 1 };
	s->spec = (struct agent_spec){
		.setup = &s->setup, .instance = s->instance, .changed = on_changed, .over = on_over
	};
	agent_init(&s->agent, sim.worker, &s->spec);
	return true;
}

static void on_starting(struct timer *t)
{
	double gone = now() - sim.began;
	unsigned due = sim.set.count;

	if (gone < sim.set.spread)
		due = (unsigned)(gone / sim.set.spread * sim.set.count);
	while (sim.started < due && !sim.ending_now) {
		if (!start_one(sim.started)) {
			fputs("bench-agents: an agent cannot be started\n", stderr);
			_exit(1);
		}
		sim.started++;
	}
	if (sim.started < sim.set.count && !sim.ending_now)
		timer_set(sim.worker, t, 0, on_starting);
}

/* ---- ending ---- */

static void on_ending(struct timer *t)
{
	static uint64_t waited;

	waited += TIMER_TICK_MS;
	if ((sim.over == sim.started && sim.worker->conduits == 0) || waited >= END_MS)
		worker_stop(sim.worker);
	else
		timer_set(sim.worker, t, 0, on_ending);
}

static void end_all(void)
{
	if (sim.ending_now)
		return;
	say_state("end");
	sim.ending_now = true;
	for (unsigned i = 0; i < sim.started; i++)
		agent_stop(&sim.all[i].agent);
	timer_set(sim.worker, &sim.ending, 0, on_ending);
}

static void on_terminate(evutil_socket_t number, short what, void *arg)
{
	end_all();
}

static void on_usr1(evutil_socket_t number, short what, void *arg)
{
	say_state("state");
}

static void on_stdin(evutil_socket_t fd, short what, void *arg)
{
	char text[256];
	ssize_t n = read((int)fd, text, sizeof(text));

	if (n > 0)
		say_state("state");
	else if (n == 0)
		end_all();
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		event_del(sim.events[0]);
}

/* ---- the run ---- */

/* why is freed; NULL: there was no memory for it. */
static bool complain(char *why)
{
	fprintf(stderr, "bench-agents: %s\n", why ? why : "out of memory");
	free(why);
	return false;
}

/* What all agents share: the defaults of attest-tunnel but for what was asked for. */
static bool make_config(const struct settings *s)
{
	struct tunnel_config *c = sim.config = tunnel_config_new();
	char offer[ADDRESS_TEXT_MAX], *why = NULL;

	c->relays.at = calloc(s->n_addresses, sizeof(*c->relays.at));
	if (!c->relays.at)
		return false;
	for (; c->relays.n < s->n_addresses; c->relays.n++)
		if (address_parse(&c->relays.at[c->relays.n], s->addresses[c->relays.n], &why) < 0)
			return complain(why);
	snprintf(offer, sizeof(offer), "any=%s", s->target);
	if (tunnel_config_add_service(c, offer, &why) < 0)
		return complain(why);
	c->server_name = s->server_name ? strdup(s->server_name) : NULL;
	c->transport = s->transport;
	if (s->patience > 0)
		c->timeouts.dial = c->timeouts.handshake = (uint64_t)(s->patience * 1000);
	return true;
}

static bool make_carrier(const struct settings *s)
{
	static const char *const direct[] = { HELLO_ALPN, NULL };
	static const char *const websocket[] = { CARRIER_ALPN_WEBSOCKET, NULL };
	struct carrier_shared *c = &sim.carrier;
	char *why = NULL;

	c->worker = sim.worker;
	c->dial_ms = sim.config->timeouts.dial;
	c->handshake_ms = sim.config->timeouts.handshake;
	c->dead_ms = sim.config->timeouts.dead;
	c->tls[CARRIER_DIRECT] = tls_client_context_new(s->ca_file, direct, &why);
	if (c->tls[CARRIER_DIRECT])
		c->tls[CARRIER_WEBSOCKET] = tls_client_context_new(s->ca_file, websocket, &why);
	if (!c->tls[CARRIER_WEBSOCKET])
		return complain(why);
	return true;
}

static bool watch(struct event *e)
{
	if (!e)
		return false;
	sim.events[sim.n_events++] = e;
	return event_add(e, NULL) == 0;
}

static bool watch_all(void)
{
	struct event_base *base = sim.worker->base;
	struct stat st;

	/* epoll takes no plain file, and /dev/null has nothing to say */
	if (fstat(0, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(0)) &&
	    !watch(event_new(base, 0, EV_READ | EV_PERSIST, on_stdin, NULL)))
		return false;
	return watch(evsignal_new(base, SIGTERM, on_terminate, NULL)) &&
	       watch(evsignal_new(base, SIGINT, on_terminate, NULL)) &&
	       watch(evsignal_new(base, SIGUSR1, on_usr1, NULL));
}

static bool have_descriptors(unsigned count)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return false;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur >= count + DESCRIPTORS_SPARE)
		return true;
	fprintf(stderr, "bench-agents: %u agents need as many descriptors; %llu are allowed\n",
		count, (unsigned long long)files.rlim_cur);
	return false;
}

static bool prepare(const struct settings *s)
{
	if (!have_descriptors(s->count) || !make_config(s))
		return false;
	signal(SIGPIPE, SIG_IGN);
	evthread_use_pthreads();
	sim.worker = worker_new(0);
	sim.all = calloc(s->count, sizeof(*sim.all));
	if (!sim.worker || !sim.all || !make_carrier(s) || !watch_all()) {
		fputs("bench-agents: cannot start\n", stderr);
		return false;
	}
	sim.step = 1;
	sim.began = now();
	timer_set(sim.worker, &sim.starting, 0, on_starting);
	return true;
}

static void release(void)
{
	for (unsigned i = 0; i < sim.started; i++)
		agent_deinit(&sim.all[i].agent);
	for (unsigned i = 0; i < sim.n_events; i++)
		event_free(sim.events[i]);
	for (unsigned i = 0; i < CARRIER_KINDS; i++)
		tls_context_unref(sim.carrier.tls[i]);
	worker_free(sim.worker);
	free(sim.all);
	tunnel_config_free(sim.config);
	libevent_global_shutdown();
}

int main(int argc, char **argv)
{
	bool good;

	if (!settings_read(&sim.set, argc, argv))
		return 2;
	log_setup((enum log_level)sim.set.log_level, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	good = prepare(&sim.set);
	if (good)
		worker_run(sim.worker);
	release();
	return good ? 0 : 1;
}
