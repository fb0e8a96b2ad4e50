/*
 * status_plot: curves over the last hour as inline SVG, whole without JavaScript.
 *
 * Pure. A curve is told from others by its dashes and its name, not by its colour alone; colours
 * are the style sheet's, by class: "curve-0", "curve-1", ...
 */
#ifndef RELAY_STATUS_PLOT_H
#define RELAY_STATUS_PLOT_H

#include <stddef.h>
#include <stdint.h>

struct evbuffer;

#define PLOT_CURVES_MAX 4

struct plot_curve {
	const char *name;
	const double *at; /* the oldest first, as many as the plot's n; NAN: a gap */
};

struct plot {
	const char *id;                           /* unique in the page; a word */
	const char *title;                        /* and in what unit */
	char *(*format)(char *buf, double value); /* into HTML_NUMBER_MAX bytes */
	double least;          /* that the scale goes up to, however little there is */
	uint64_t end, seconds; /* of the last value, since 1970; of all of them */
	size_t n;              /* two at least */
	const struct plot_curve *curves;
	unsigned n_curves;
};

/* A <figure>: its curves and their names, with what each is now and was at most. */
void plot_write(struct evbuffer *out, const struct plot *p);

/* A curve alone, for a row of a table; its numbers stand beside it. title: what it shows. */
void plot_spark(struct evbuffer *out, const char *title, const double *at, size_t n);

/* The least of 0.1, 0.2, 0.5, 1, 2, ... that is not below most; 1: there is nothing. */
double plot_top(double most);

#endif
