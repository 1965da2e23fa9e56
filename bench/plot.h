/* SPDX-License-Identifier: Apache-2.0
 *
 * The figures of a sweep and of a comparison.
 */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include <stdbool.h>

#include "report.h"

/* Writes path as SVG: time against n, and speed-up against n, of the methods in what (MEASURE_...
 * together), from the columns n, causal, scaled, and each method's seconds and speed-up, with
 * backward those of both. Returns an exit status. */
int plot_sweep(const report *r, int what, bool backward, const char *title, const char *path);

/* The columns of errors that a figure of a comparison draws, and what its title says of them. */
typedef struct error_keys {
    const char *dot, *bar, *circle; /* keys; bar may be NULL */
    const char *legend;
} error_keys;

/* Writes path as SVG: a panel for each n with error over time, a line for each method through its
 * budgets, from the columns n, method, budget, seconds and those of keys. Errors below 1e-5, those
 * of rounding, are left out. Returns an exit status. */
int plot_errors(const report *r, const error_keys *keys, const char *title, const char *path);

#endif
