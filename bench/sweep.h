/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn sweep adds to a measurement: how much of exact attention fits into its budget, and
 * the columns, with rates, shares of the peak and growth. One row is one length, causal or not.
 */
#ifndef BENCH_SWEEP_H
#define BENCH_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "measure.h"

typedef struct sweep {
    measurement m;
    int64_t exact_max_n;
    double exact_budget;
    /* Scores per second of exact attention, with its backward if that is run: for predictions. */
    double exact_rate;
} sweep;

/* A short run of exact attention, for the first prediction. Returns an exit status. */
int sweep_probe(sweep *s, bool causal);

/* Measures one length and adds its row to the results. Returns an exit status. */
int sweep_length(sweep *s, bool causal, int64_t n);

#endif
