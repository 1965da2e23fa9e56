/* SPDX-License-Identifier: Apache-2.0
 *
 * Figures, drawn by gnuplot as a child process.
 */
#ifndef BENCH_GNUPLOT_H
#define BENCH_GNUPLOT_H

#include <stdio.h>

/* Exit status after a message if there is no gnuplot to run. */
int gnuplot_probe(void);

/* Runs the script that write(script, arg) writes and writes its standard output, which is SVG, to
 * path. Returns an exit status. */
int gnuplot_draw(const char *path, void (*write)(FILE *script, const void *arg), const void *arg);

/* "4k" for 4096: a length in units of 1024 where that is a whole number. */
void gnuplot_length(char *text, size_t size, double n);

#endif
