/*
 * why: what went wrong, in words.
 *
 * Theory of operation: one line, made where the cause is known and printed by whoever knows what
 * was wanted. No state.
 */
#include "relay/why.h"

#include <openssl/err.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void why_say(char **why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (vasprintf(why, fmt, args) < 0)
		*why = NULL;
	va_end(args);
}

const char *why_openssl(const char *otherwise)
{
	unsigned long e = ERR_peek_last_error();
	const char *text =
		ERR_SYSTEM_ERROR(e) ? strerror(ERR_GET_REASON(e)) : ERR_reason_error_string(e);

	return text ? text : otherwise;
}
