/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn compare does with its options: lengths, tables and files, of one input or of
 * captured heads.
 */
#ifndef BENCH_COMPARE_ALL_H
#define BENCH_COMPARE_ALL_H

#include <stdbool.h>

#include "measure.h"
#include "methods.h"

typedef struct compare_options {
    measure_options measure;
    const char *methods, *budgets; /* lists; budgets NULL: not given */
    entry_list entries;            /* what they say */
    float target_error;            /* 0: not given */
    const char *plot;
    bool per_head, spectral, hardness;
} compare_options;

/* Measures, prints and writes all of it. An exit status. */
int compare_all(compare_options *options);

#endif
