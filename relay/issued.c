/*
 * issued: what is on record of the certificates that owners were given.
 *
 * Theory of operation: a JSON object in a file for each, written once, under a name that is new
 * each time. It is what a revocation by owner goes by, so a certificate without a record is not
 * handed out. Read by the reader of configs: JSON is YAML.
 */
#include "relay/issued.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "config/tree.h"
#include "relay/atomic_file.h"

#define KIND "issued"
#define SUFFIX ".json"
#define RECORD_MAX 2048

const char *issued_time(int64_t at, char text[ISSUED_TIME])
{
	time_t t = (time_t)at;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(text, ISSUED_TIME, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(text, ISSUED_TIME, "?");
	return text;
}

static bool time_of(const char *text, int64_t *at)
{
	struct tm tm = { 0 };
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);

	if (!end || *end)
		return false;
	*at = timegm(&tm);
	return true;
}

int issued_prepare(const char *folder)
{
	char *path;
	int r = 0;

	if (asprintf(&path, "%s/" KIND, folder) < 0)
		return -ENOMEM;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		r = -errno;
	free(path);
	return r;
}

/* Texts here have no control characters. */
static void put(FILE *to, const char *key, const char *text, const char *behind)
{
	fprintf(to, "  \"%s\": \"", key);
	for (; *text; text++) {
		if (strchr("\"\\", *text))
			fputc('\\', to);
		fputc(*text, to);
	}
	fprintf(to, "\"%s\n", behind);
}

int issued_add(const char *folder, const struct issued *record)
{
	char text[RECORD_MAX], at[ISSUED_TIME], expires[ISSUED_TIME], *path;
	FILE *to = fmemopen(text, sizeof(text), "w");
	long len;
	int r;

	if (!to)
		return -ENOMEM;
	fputs("{\n", to);
	put(to, "serial", record->serial, ",");
	put(to, "owner", record->owner, ",");
	put(to, "label", record->label, ",");
	put(to, "issued", issued_time(record->at, at), ",");
	put(to, "expires", issued_time(record->expires, expires), ",");
	put(to, "client", record->client, "");
	fputs("}\n", to);
	len = ftell(to);
	if (fclose(to) != 0 || len <= 0)
		return -EIO;
	if (asprintf(&path, "%s/" KIND "/%s" SUFFIX, folder, record->serial) < 0)
		return -ENOMEM;
	r = atomic_file_write(path, text, (size_t)len, 0600, 0);
	free(path);
	return r;
}

static bool take(const struct node *map, const char *key, char *to, size_t size)
{
	const struct node *value = node_get(map, key);

	return value && value->type == NODE_SCALAR &&
	       snprintf(to, size, "%s", value->value) < (int)size;
}

static bool read_record(const char *path, struct issued *out)
{
	char text[RECORD_MAX], at[ISSUED_TIME], expires[ISSUED_TIME];
	ssize_t n = atomic_file_read(path, text, sizeof(text));
	struct config_errors errors = { 0 };
	struct node *map = n < 0 ? NULL : tree_read(path, text, (size_t)n, &errors);
	struct issued r = { .at = 0 };
	bool good = map && map->type == NODE_MAP &&
		    take(map, "serial", r.serial, sizeof(r.serial)) &&
		    take(map, "owner", r.owner, sizeof(r.owner)) &&
		    take(map, "label", r.label, sizeof(r.label)) &&
		    take(map, "client", r.client, sizeof(r.client)) &&
		    take(map, "issued", at, sizeof(at)) && time_of(at, &r.at) &&
		    take(map, "expires", expires, sizeof(expires)) && time_of(expires, &r.expires);

	tree_free(map);
	config_errors_deinit(&errors);
	if (good)
		*out = r;
	return good;
}

static bool is_record(const char *name)
{
	const size_t len = AUTHORITY_SERIAL_TEXT - 1;

	return strspn(name, "0123456789abcdef") == len && strcmp(name + len, SUFFIX) == 0;
}

int issued_find(const char *folder, const char *serial, struct issued *out)
{
	char *path;
	bool good;

	if (strlen(serial) != AUTHORITY_SERIAL_TEXT - 1)
		return -ENOENT;
	if (asprintf(&path, "%s/" KIND "/%s" SUFFIX, folder, serial) < 0)
		return -ENOMEM;
	good = read_record(path, out);
	free(path);
	return good ? 0 : -ENOENT;
}

int issued_each(const char *folder, void (*each)(const struct issued *record, void *arg),
		void (*bad)(const char *name, void *arg), void *arg)
{
	struct issued record;
	struct dirent *e;
	char *path;
	DIR *d;

	if (asprintf(&path, "%s/" KIND, folder) < 0)
		return -ENOMEM;
	d = opendir(path);
	free(path);
	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		if (!is_record(e->d_name))
			continue;
		if (asprintf(&path, "%s/" KIND "/%s", folder, e->d_name) < 0) {
			closedir(d);
			return -ENOMEM;
		}
		if (read_record(path, &record))
			each(&record, arg);
		else
			bad(path, arg);
		free(path);
	}
	closedir(d);
	return 0;
}
