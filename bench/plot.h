/* SPDX-License-Identifier: Apache-2.0
 *
 * The figure of a sweep, drawn by gnuplot as a child process.
 */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include <stdbool.h>

#include "report.h"

/* Exit status after a message if there is no gnuplot to run. */
int plot_probe(void);

/* Writes path as SVG: time against n, and speed-up against n, from the columns n, causal, scaled,
 * exact_seconds, hyper_seconds and speedup, or with backward exact_both_seconds,
 * hyper_both_seconds and both_speedup. Returns an exit status. */
int plot_sweep(const report *r, bool backward, const char *title, const char *path);

#endif
