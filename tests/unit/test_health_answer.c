/* health_answer: the words that probes are told. */
#include "relay/health_answer.h"

#include <event2/buffer.h>

#include "tests/unit/check.h"

static void check(const struct health_check *checks, size_t n, bool verbose, bool good,
		  const char *wanted)
{
	struct evbuffer *out = evbuffer_new();

	CHECK_INT(health_answer_write(out, "readyz", checks, n, verbose), good);
	evbuffer_add(out, "", 1);
	CHECK_STR((const char *)evbuffer_pullup(out, -1), wanted);
	evbuffer_free(out);
}

int main(void)
{
	struct health_check checks[] = { { "workers", true, "2 do not turn" },
					 { "accepting", true, "draining" },
					 { "service", true, "no tunnel" } };

	check(checks, 0, false, true, "ok\n");
	check(checks, 3, false, true, "ok\n");
	check(checks, 3, true, true,
	      "[+]workers ok\n[+]accepting ok\n[+]service ok\nreadyz check passed\n");
	checks[1].good = checks[2].good = false;
	check(checks, 3, false, false, "accepting: draining\n");
	check(checks, 3, true, false,
	      "[+]workers ok\n[-]accepting failed: draining\n[-]service failed: no tunnel\n"
	      "readyz check failed\n");
	return 0;
}
