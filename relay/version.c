/*
 * version: which version of what this process runs.
 *
 * Theory of operation: every library that can be asked is asked for its version at run time, since
 * a system's update changes it without this program being built again; where that is not the one
 * whose headers it was built with, both stand there. libsystemd cannot be asked.
 */
#include "relay/version.h"

#include <event2/event.h>
#include <json-c/json_c_version.h>
#include <nghttp2/nghttp2.h>
#include <openssl/crypto.h>
#include <openssl/opensslv.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>
#ifdef HAVE_SECCOMP
#include <seccomp.h>
#endif

#define TEXT(x) #x
#define DOTTED_(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)
#define DOTTED(a, b, c) DOTTED_(a, b, c)

static void line(const char *library, const char *runs, const char *built)
{
	if (strcmp(runs, built) == 0)
		printf("%s %s\n", library, runs);
	else
		printf("%s %s, built with %s\n", library, runs, built);
}

#ifdef HAVE_SECCOMP
static void seccomp_line(void)
{
	const struct scmp_version *v = seccomp_version();
	char runs[64];

	snprintf(runs, sizeof(runs), "%u.%u.%u", v->major, v->minor, v->micro);
	line("libseccomp", runs, DOTTED(SCMP_VER_MAJOR, SCMP_VER_MINOR, SCMP_VER_MICRO));
}
#else
static void seccomp_line(void)
{
	puts("libseccomp: built without");
}
#endif

const char *version_of_nghttp2(void)
{
	return nghttp2_version(0)->version_str;
}

void version_print(const char *program)
{
	printf("%s " VERSION "\n", program);
	line("OpenSSL", OpenSSL_version(OPENSSL_VERSION_STRING), OPENSSL_VERSION_STR);
	line("libevent", event_get_version(), LIBEVENT_VERSION);
	line("nghttp2", version_of_nghttp2(), NGHTTP2_VERSION);
	line("json-c", json_c_version(), JSON_C_VERSION);
	line("libyaml", yaml_get_version_string(), BUILT_WITH_YAML);
	puts("libsystemd, built with " BUILT_WITH_SYSTEMD);
	seccomp_line();
}
