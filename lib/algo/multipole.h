/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE: what a row attends to exactly, and what it sees of all other keys.
 *
 *   near    the keys from its leaf's k0 to its causal limit: window and leaf
 *   past    the keys before k0, in cells of keys that resemble each other; sinks are no part of
 *           cells, every row attends to them exactly
 *
 * Keys are sorted by content in stretches: long ones, once they are complete, short ones until
 * then. Rows whose past has the same complete long stretches form an era. Eras that follow each
 * other, the more the longer their past, form an epoch; its rows share one expansion of each cell.
 * Rows of a leaf that resemble each other form a bundle, which shares its selected keys and has an
 * expansion of its own. Without a causal mask all keys are past, an era is a long stretch of rows,
 * and its rows are sorted into bundles as a whole.
 *
 * With strict_causal only earlier rows steer a row. What an epoch's queries are like is told by
 * rows before it. What a bundle selects and how it expands is told by rows of the leaf before,
 * which are sorted by content; a row joins, in its turn, the bundle whose earlier rows it resembles
 * most, of those that have a place left. A leaf without a whole leaf of rows before it has no past.
 */
#ifndef HA_ALGO_MULTIPOLE_H
#define HA_ALGO_MULTIPOLE_H

#include "algo/causal.h"

#define HA_LONG_STRETCH 2048
#define HA_SHORT_STRETCH 128
#define HA_BUNDLE_ROWS 128

/* Fewer rows than these are computed exactly, however many keys there are: to sort the keys and
 * to expand their cells costs as much as exact attention of some hundred rows, for one row too. */
#define HA_LEAST_ROWS 256

/* What a budget may be. */
#define HA_LEAST_BUDGET 64
#define HA_MOST_BUDGET 1000000

/* The sizes of one sequence's estimate. */
typedef struct ha_recipe {
    int64_t leaf;            /* rows; a multiple of HA_SHORT_STRETCH */
    int64_t window;          /* keys before a leaf that are near; the same */
    int64_t sinks;
    int64_t selected;        /* keys of the past that a bundle attends to exactly */
    int64_t candidates;      /* cells among whose keys they are found */
    float depth;             /* nats below all that a row sees, down to private keys; 0: none */
    int64_t cell, far_cell;  /* keys; far_cell is a multiple of cell, cell divides SHORT_STRETCH */
    int cell_bits;           /* cell = 1 << cell_bits */
    int strict;              /* strict_causal: see above */
    int64_t first;           /* position of a key; leaves before it have no past */
} ha_recipe;

ha_recipe ha_recipe_of(const hyperattn_params *params, int64_t nq, int64_t nk, int causal);

/* Where the leaf of key position `position` begins to be near; 0: it has no past. */
int64_t ha_near_key(const ha_recipe *recipe, int64_t position);

/* Whether a sequence's last rows have a past. Where there are few rows none has one, nor where all
 * pasts are short. */
int ha_has_past(const ha_layout *layout, const hyperattn_params *params, int causal);

/* Adds the leaves of a causal sequence to a layout that counts them; none without a mask. */
void ha_multipole_leaves(ha_layout *layout, const hyperattn_params *params, int causal);

/* Rows [q0, q0 + nq), whose past begins with the long stretches of the keys [0, old), and ends,
 * that of the last rows, at `end`. */
typedef struct ha_era {
    int64_t q0, nq;
    int64_t old, end;
    int64_t seen;  /* the past of its first rows */
    int64_t fresh; /* cells of the keys [0, fresh) are those of the era before, */
    int64_t kept;  /* those of [0, kept) will be the next one's */
} ha_era;

/* The eras of a sequence, none where it is exact (algo/causal.h); and era `number` of them, whose
 * nq can be 0. */
int64_t ha_eras_of(const ha_layout *layout, int causal);
ha_era ha_era_at(const ha_layout *layout, const ha_recipe *recipe, int causal, int64_t number);

/* The first era of the epoch of era `number`. */
int64_t ha_epoch_of(const ha_layout *layout, int causal, int64_t number);

/* The rows that tell what the queries of its epoch are like, and the keys [0, seen) that tell what
 * its keys are. No rows, where the epoch has none. */
ha_era ha_epoch_at(const ha_layout *layout, const ha_recipe *recipe, int causal, int64_t number);

/* Rows in a bundle's leaf or, without a mask, in its stretch: bundles do not cross them. */
typedef struct ha_bundle {
    int64_t first, rows; /* places in the order of rows */
    int64_t past;        /* keys of the past, sinks among them */
} ha_bundle;

/* Bundles of an era, and bundle `number` of them. */
int64_t ha_era_bundles(const ha_layout *layout, const ha_recipe *recipe, int causal,
                       const ha_era *era);
ha_bundle ha_bundle_at(const ha_layout *layout, const ha_recipe *recipe, int causal,
                       const ha_era *era, int64_t number);

#endif
