/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn compare runs: the methods of a list beside each other on one input, in turn, and
 * exact attention in f32 that their errors are measured against.
 */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "attn.h"
#include "baseline.h"
#include "error.h"
#include "measure.h"
#include "methods.h"
#include "profile.h"

/* One entry of the list at work. */
typedef struct contestant {
    const entry *entry;
    char label[48];   /* its title and budget */
    attn call;        /* but for the baseline */
    baseline unfused; /* the baseline's, in its place */
    hyperattn_dtype dtype; /* of result.out */
    outcome result;
    ha_profile *profiles; /* of the measured calls */
    timed_job *forward, *backward; /* run NULL: not measured */
} contestant;

typedef struct comparison {
    measurement *m;
    int count;
    contestant *all; /* [count], in the order of the list: exact attention first */
    timed_job *jobs; /* [2 count] */
    outcome reference; /* exact, f32: only where the input is not */
    hyperattn_problem problem; /* of the last run */
} comparison;

/* Whether the library takes the params of each entry. An exit status. */
int compare_check(const measurement *m, const entry_list *entries);

/* Buffers for m's input; the last of the options' lengths is the longest, 0 or none: all rows.
 * Returns an exit status; compare_close is needed after failures too, of the check as well. */
int compare_open(comparison *c, measurement *m, const entry_list *entries);
void compare_close(comparison *c);

/* Times all on the first rows (0: all) and computes the reference. compare_done ends what it began,
 * after failures too. */
int compare_run(comparison *c, int64_t rows);
void compare_done(comparison *c);

/* What errors are measured against. */
const outcome *compare_reference(const comparison *c);

/* Whether the contestant has an error: exact attention in f32 is the reference itself. */
bool compare_has_error(const comparison *c, const contestant *one);

/* The heads of the last run's output: heads count through the batch. */
error_shape compare_shape(const comparison *c);

#endif
