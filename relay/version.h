/*
 * version: what a program answers to --version: its name and version on the first line, as ever; on
 * one further line each the libraries it runs with, for whoever reads a fault report.
 */
#ifndef RELAY_VERSION_H
#define RELAY_VERSION_H

/* Of nghttp2, which only this file and the session know. */
const char *version_of_nghttp2(void);

void version_print(const char *program);

#endif
