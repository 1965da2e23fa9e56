/* SPDX-License-Identifier: Apache-2.0
 *
 * Trials of a call's heads: some rows of each are computed exactly, and compared with those of an
 * output. A plan of a part of the rows (ha_cpu_plan.tail) has trials of its own.
 */
#ifndef HA_TRIAL_H
#define HA_TRIAL_H

#include "algo/ladder.h"
#include "cpu/checked.h"

typedef struct ha_trials {
    ha_measure m; /* m.most: rows of a head, at most */
    const ha_tensors *t;
    /* in the workspace, by query head of the batch */
    uint32_t *row;       /* [nheads][most]: their checked rows */
    float *exact;        /* [nheads][most][head_dim_v] */
    double *diff, *norm; /* [nheads][most] */
} ha_trials;

/* most: rows of a head. */
void ha_trials_open(ha_trials *trials, const ha_plan *whole, int64_t most);
void ha_trials_carve(ha_carver *c, ha_trials *trials);

/* The exact rows of n key heads. */
void ha_trials_begin(ha_trials *trials, ha_team *team, const int64_t *number, int64_t n);

/* Compares the rows of a query head in the output with its exact ones. */
ha_trial ha_trials_compare(const ha_trials *trials, int64_t head, int thread);

#endif
