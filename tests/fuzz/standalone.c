/*
 * standalone: runs a fuzz target over files, for compilers without libFuzzer.
 *
 * Theory of operation: each argument is a file, or a folder of which every file is taken, without
 * going further down. Each input is copied into memory of exactly its size, so that a sanitizer
 * sees a read behind it. No file at all is an error: a corpus that is not found must not pass.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned runs;

static void fail(const char *path)
{
	fprintf(stderr, "%s: %s\n", path, strerror(errno));
	exit(1);
}

static void run_file(const char *path)
{
	static uint8_t buf[INPUT_MAX];
	FILE *f = fopen(path, "rb");
	uint8_t *data;
	size_t size;

	if (!f)
		fail(path);
	size = fread(buf, 1, sizeof(buf), f);
	if (ferror(f))
		fail(path);
	fclose(f);
	data = malloc(size ? size : 1);
	if (!data)
		fail(path);
	memcpy(data, buf, size);
	/* Said before, so that the last line names what crashed. */
	printf("%s: %zu bytes\n", path, size);
	fflush(stdout);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	runs++;
}

static void run_folder(const char *path)
{
	struct dirent **entries;
	int n = scandir(path, &entries, NULL, alphasort);

	if (n < 0)
		fail(path);
	for (int i = 0; i < n; i++) {
		char file[4096];
		struct stat st;

		snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
		free(entries[i]);
		if (stat(file, &st) < 0)
			fail(file);
		if (S_ISREG(st.st_mode))
			run_file(file);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		struct stat st;

		if (stat(argv[i], &st) < 0)
			fail(argv[i]);
		if (S_ISDIR(st.st_mode))
			run_folder(argv[i]);
		else
			run_file(argv[i]);
	}
	if (!runs) {
		fprintf(stderr, "no input; expected files, or folders with files\n");
		return 1;
	}
	return 0;
}
