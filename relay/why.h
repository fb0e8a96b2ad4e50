/* why: the line for people that says what went wrong, for functions that give it to their caller.
 */
#ifndef RELAY_WHY_H
#define RELAY_WHY_H

/* *why: allocated, to be freed by the caller; NULL: no memory. */
void why_say(char **why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Why OpenSSL's last call failed, in its words or the system's; or otherwise, if it says nothing.
 */
const char *why_openssl(const char *otherwise);

#endif
