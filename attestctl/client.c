/*
 * client: one question to a daemon's admin socket, and its answer.
 *
 * Theory of operation: one libcurl handle, whose connection is used again by the next question. The
 * answer is gathered up to a bound, then parsed. What is no JSON, as a probe's answer, is none.
 */
#include "attestctl/client.h"

#include <curl/curl.h>
#include <json-c/json_tokener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
	CURL *curl;
	const char *socket;
	char *text; /* of the answer */
	size_t len, size;
	char why[CURL_ERROR_SIZE + 256];
	char error[CURL_ERROR_SIZE];
};

static size_t on_data(char *data, size_t one, size_t n, void *user)
{
	struct client *c = user;
	size_t size;
	char *more;

	if (n > CLIENT_ANSWER_MAX - c->len)
		return 0; /* an error to libcurl */
	if (c->len + n + 1 > c->size) {
		size = (c->len + n + 1) * 2;
		more = realloc(c->text, size);
		if (!more)
			return 0;
		c->text = more;
		c->size = size;
	}
	memcpy(c->text + c->len, data, n);
	c->len += n;
	c->text[c->len] = '\0';
	return n;
}

struct client *client_new(const char *socket)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->socket = socket;
	c->curl = curl_easy_init();
	if (!c->curl)
		return client_free(c);
	if (socket[0] == '@')
		curl_easy_setopt(c->curl, CURLOPT_ABSTRACT_UNIX_SOCKET, socket + 1);
	else
		curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, socket);
	curl_easy_setopt(c->curl, CURLOPT_PROXY, "");
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, (long)CLIENT_TIMEOUT_S);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->error);
	return c;
}

struct client *client_free(struct client *c)
{
	if (!c)
		return NULL;
	if (c->curl)
		curl_easy_cleanup(c->curl);
	free(c->text);
	free(c);
	return NULL;
}

static struct json_object *parse(const struct client *c)
{
	struct json_tokener *tokener = json_tokener_new_ex(32);
	struct json_object *o = NULL;

	if (!tokener)
		return NULL;
	if (c->len)
		o = json_tokener_parse_ex(tokener, c->text, (int)c->len);
	if (json_tokener_get_error(tokener) != json_tokener_success) {
		json_object_put(o);
		o = NULL;
	}
	json_tokener_free(tokener);
	return o;
}

int client_ask(struct client *c, const char *path, const char *body, struct json_object **answer)
{
	char url[4096];
	long status = 0, error = 0;
	CURLcode code;

	*answer = NULL;
	c->len = 0;
	c->error[0] = '\0';
	if (snprintf(url, sizeof(url), "http://localhost%s", path) >= (int)sizeof(url)) {
		snprintf(c->why, sizeof(c->why), "the question is too long");
		return -1;
	}
	curl_easy_setopt(c->curl, CURLOPT_URL, url);
	if (body) {
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
	} else {
		curl_easy_setopt(c->curl, CURLOPT_HTTPGET, 1L);
	}
	code = curl_easy_perform(c->curl);
	if (code != CURLE_OK) {
		/* libcurl's own words are of a host and a port then, of which there are none */
		if (code == CURLE_COULDNT_CONNECT)
			curl_easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &error);
		snprintf(c->why, sizeof(c->why), "%s: %s", c->socket,
			 error       ? strerror((int)error)
			 : *c->error ? c->error
				     : curl_easy_strerror(code));
		return -1;
	}
	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	*answer = parse(c);
	return (int)status;
}

const char *client_why(const struct client *c)
{
	return c->why;
}

char *client_escape(struct client *c, const char *text)
{
	char *theirs = curl_easy_escape(c->curl, text, 0);
	char *ours = theirs ? strdup(theirs) : NULL;

	curl_free(theirs);
	return ours;
}
