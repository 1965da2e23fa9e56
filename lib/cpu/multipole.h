/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE on the CPU, after the leaves have been near: era by era, the cells are expanded, and
 * each bundle of rows attends to the sinks, to the keys that it selects, and to the columns that
 * stand for all others. Backward (cpu/backward_multipole.h) takes the same decisions again.
 */
#ifndef HA_MULTIPOLE_H
#define HA_MULTIPOLE_H

#include "cpu/private.h"

typedef struct ha_multipole {
    ha_orders orders;
    ha_cell_sets sets;
    ha_detectors detectors;
    ha_privates privates;
    struct ha_multipole_thread *threads;
} ha_multipole;

void ha_multipole_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_multipole *m);

/* Rows that have a past: out and lse are final then. states: [in flight], what the rows have seen
 * up to now; not read without a causal mask. */
void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states);

/* ---- what forward and backward share --------------------------------------------------------- */

/* A walk over all bundles. */
typedef struct ha_bundle_walk {
    ha_call *call;
    const ha_multipole *multipole;
    const ha_states *states;
    int with_values; /* 0: of the rows' softmax, only m and l are wanted */
    int64_t number;  /* of the era at work */
} ha_bundle_walk;

/* Eras of the longest sequence in flight. */
int64_t ha_walk_eras(const ha_call *call);

/* The era at work of a key head; 0 if it has none. */
int ha_walk_era(const ha_bundle_walk *walk, int64_t place, ha_recipe *r, ha_era *era);

/* Expands the cells of the era at work, and makes its detectors. */
void ha_walk_begin_era(ha_bundle_walk *walk);

/* Bundles of the era at work of a key head's group: items of a loop. */
int64_t ha_walk_bundles(const ha_bundle_walk *walk, int64_t place);

/* A bundle at work: its rows, and, in open, what they see of their past. */
typedef struct ha_walk_bundle {
    ha_query_rows at;
    ha_recipe recipe;
    ha_era era;
    const ha_detector *detector; /* NULL: none, or one that can't tell keys apart */
    ha_bundle_work *work;
    ha_open_bundle open;
} ha_walk_bundle;

/* Loads the rows of a bundle, chooses their keys and forms their columns. Returns 0 if there are no
 * rows. */
int ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                 ha_walk_bundle *b);

/* The rows' softmax goes on from the near keys over the sinks, the selected keys and the columns;
 * then private keys are found, which are the business of b->open. */
void ha_walk_attend(const ha_bundle_walk *walk, int64_t place, int thread, ha_walk_bundle *b);

#endif
