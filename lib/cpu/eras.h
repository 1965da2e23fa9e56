/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's way through its bundles, era by era, which forward and backward share: keys and rows
 * are sorted, an epoch's mean query and directions are found before its first era, and each era
 * expands the cells that the one before has not left.
 */
#ifndef HA_ERAS_H
#define HA_ERAS_H

#include "cpu/private.h"

/* What a call's sequences are made into. */
typedef struct ha_multipole {
    ha_orders orders;
    ha_cell_sets sets;
    ha_detectors detectors;
    ha_privates privates;
    struct ha_multipole_thread *threads;
} ha_multipole;

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

#endif
