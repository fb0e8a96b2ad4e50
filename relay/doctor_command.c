/*
 * doctor_command: `PROGRAM doctor`, from the first line to the verdict.
 *
 * Theory of operation: what the config says is wrong comes first, for a wrong config may be why all
 * else fails. The machine can be looked at without one; the rest cannot, and is made in a worker of
 * its own, whose loop turns only within checks. What a check has closed is let end in order before
 * that worker goes.
 */
#include "relay/doctor_command.h"

#include <event2/event.h>
#include <event2/thread.h>
#include <stdio.h>

#include "relay/doctor.h"
#include "relay/doctor_dial.h"
#include "relay/doctor_host.h"
#include "relay/log.h"
#include "relay/outset.h"
#include "relay/worker.h"

static const struct doctor_check machine[] = {
	{ "user", doctor_check_user },
	{ "clock", doctor_check_clock },
	{ "sandbox", doctor_check_sandbox },
	{ 0 },
};

static void run_with_worker(struct doctor *d, const struct doctor_check *checks, void *patient)
{
	evthread_use_pthreads();
	d->worker = worker_new(0);
	if (!d->worker) {
		doctor_check(d, "machine");
		doctor_wrong(d, "see ulimit -n and the free memory", "no event loop can be made");
		return;
	}
	doctor_run(d, checks, patient);
	doctor_settle(d->worker);
	worker_free(d->worker);
	d->worker = NULL;
	libevent_global_shutdown();
}

int doctor_examine(const struct doctor_plan *plan, const struct doctor_case *about)
{
	struct doctor d;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	outset_protect();
	doctor_begin(&d, plan->program, about->json, stdout);
	doctor_config(&d, about->path, about->errors);
	doctor_run(&d, machine, NULL);
	if (plan->machine)
		doctor_run(&d, plan->machine, NULL);
	if (about->patient) {
		run_with_worker(&d, plan->checks, about->patient);
	} else {
		doctor_check(&d, plan->first);
		doctor_skip(&d, "the config");
	}
	return doctor_end(&d);
}
