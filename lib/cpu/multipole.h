/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE on the CPU, after the leaves have been near: era by era, the cells are expanded, and
 * each bundle of rows attends to the sinks, to the keys that it selects, and to the columns that
 * stand for all others. Backward (cpu/backward_multipole.h) takes the same decisions again.
 */
#ifndef HA_MULTIPOLE_H
#define HA_MULTIPOLE_H

#include "cpu/eras.h"

void ha_multipole_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_multipole *m);

/* Rows that have a past: out and lse are final then. states: [in flight], what the rows have seen
 * up to now; not read without a causal mask. */
void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states);

/* ---- what forward and backward share --------------------------------------------------------- */

/* A bundle at work: its rows, and what they see of their past. */
typedef struct ha_walk_bundle {
    ha_era_at_work era;
    ha_query_rows at;
    ha_query_rows steering; /* rows that choose for them: themselves, if not strict_causal */
    int64_t past;
    ha_bundle_work *work;
    ha_hits *hits; /* that become private keys; NULL: there are none */
    /* takes private keys, in place of the rows' softmax; or NULL */
    void (*take)(void *arg, const ha_private_row *found);
    void *take_arg;
} ha_walk_bundle;

/* Loads the rows of a bundle, finds their hits, chooses keys and forms columns. The rows' softmax
 * is over near keys and sinks then, unless neither values nor hits are wanted. Returns 0 if there
 * are no rows. */
int ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                 ha_walk_bundle *b);

/* The rows' softmax goes on over the selected keys, the columns and private keys. */
void ha_walk_attend(const ha_bundle_walk *walk, int thread, const ha_walk_bundle *b);

#endif
