/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn tune: times of the steps that target_error chooses from, over that of exact attention,
 * and the law of lib/algo/ladder.h through them.
 */
#ifndef BENCH_TUNE_H
#define BENCH_TUNE_H

#include "algo/ladder.h"
#include "measure.h"

/* Times at one length, summed over the inputs. */
typedef struct tuned {
    int64_t n;
    double exact, kind[HA_COST_KINDS];
} tuned;

extern const report_column tune_columns[];
extern const int tune_ncolumns;

/* Times the first rows of m's input and adds to t. An exit status. */
int tune_length(const measurement *m, bool causal, int64_t rows, tuned *t);

/* A row for each kind at a length. */
int tune_report(report *r, bool causal, const tuned *t);

/* The costs through all lengths. One length alone keeps the powers of the default. */
void tune_fit(ha_cost costs[HA_COST_KINDS], bool causal, const tuned *t, int count);

/* One mask's part of the table in lib/algo/ladder.c. */
void tune_print(const ha_cost costs[HA_COST_KINDS], bool causal, FILE *file);

#endif
