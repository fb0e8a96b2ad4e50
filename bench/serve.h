/*
 * serve: the far end as a program.
 */
#ifndef BENCH_SERVE_H
#define BENCH_SERVE_H

/* bench-load serve ADDR... [--stdin-eof]; returns the exit status. */
int serve_main(int argc, char **argv);

#endif
