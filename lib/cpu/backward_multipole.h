/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's gradients beyond those of the leaves. Backward takes forward's decisions again, and
 * holds them fixed: the content order, which keys are selected and which are private, the queries
 * that cells are expanded around, and the weights w_j of the keys in a cell. A column is a key and
 * a value to the rows that see it; what they give to it goes to the keys that it stands for:
 *     dk_j += w_j dkt    dv_j += w_j dvt
 * This is all: what its score's first term A gains with k_j, it loses with s r.kt.
 *
 * A bundle forms the gradients of its columns and keys by itself. Then bundles add theirs to the
 * sums of their key head one after the other: to those of keys, or of the era's cells, which the
 * keys share out at the end of the era.
 */
#ifndef HA_BACKWARD_MULTIPOLE_H
#define HA_BACKWARD_MULTIPOLE_H

#include "cpu/columns.h"
#include "cpu/exact.h"
#include "cpu/multipole.h"
#include "cpu/sums.h"

typedef struct ha_backward_multipole {
    ha_multipole decisions;
    ha_exact near;       /* with detectors: what rows with a past have seen near, */
    ha_states *states;   /* in the key heads in flight */
    ha_column_sums *cells;       /* [in flight][group]: of the columns of the era's cells */
    atomic_int_least64_t *added; /* [in flight]: bundles of the era whose gradients are added */
    struct ha_multipole_grad_thread *threads;
} ha_backward_multipole;

void ha_backward_multipole_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                                 ha_backward_multipole *b);

/* Adds what the rows that have a past give to the sums of the key heads in flight. */
void ha_backward_multipole_run(ha_call *call, const ha_backward_multipole *b, const ha_sums *sums);

#endif
