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

/* An era of one query head. */
typedef struct ha_era_at_work {
    const ha_key_head *kh;
    int64_t head;
    const ha_order *order;
    const ha_cells *cells;
    const ha_detector *detector; /* or NULL */
    ha_epoch_basis *basis;         /* the same, of the epoch */
    ha_recipe recipe;
    ha_era era;                  /* without rows, where the sequence has none of this number */
    float *query;                /* the mean of the epoch */
} ha_era_at_work;

ha_era_at_work ha_walk_era(const ha_bundle_walk *walk, int64_t place, int64_t head,
                           int64_t number);

/* Sorts keys and rows, and finds what the queries of each epoch are like. */
void ha_walk_begin(ha_bundle_walk *walk);

/* Expands those cells of the era at work that the one before has not left, and gives codes to their
 * keys. Eras come in their order. */
void ha_walk_begin_era(ha_bundle_walk *walk);

/* Bundles of the era at work of a key head's group: items of a loop. */
int64_t ha_walk_bundles(const ha_bundle_walk *walk, int64_t place);

/* A bundle at work: its rows, and what they see of their past. */
typedef struct ha_walk_bundle {
    ha_era_at_work era;
    ha_query_rows at;
    ha_query_rows steering; /* rows that choose for them: themselves, if not strict_causal */
    int64_t past;
    ha_bundle_work *work;
    ha_hits *hits; /* that become private keys; NULL: nothing looked for them */
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
