/*
 * page_files: what the status page is made of beside itself. page_files.c is made at build time
 * from the files of relay/page/, by generate.py there.
 */
#ifndef RELAY_PAGE_FILES_H
#define RELAY_PAGE_FILES_H

#include <stddef.h>

struct page_file {
	const char *type, *etag; /* with its quotes */
	const char *text;
	size_t len;
};

extern const struct page_file page_status_css, page_status_js;

#endif
