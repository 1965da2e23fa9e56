/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 4 as a flat list: a causal sequence becomes waves of unmasked rectangles, and then
 * causal leaves. Within a wave no two rectangles share a query row, nor, but for a block mask's, a
 * key. Unmasked HyperAttention is one rectangle, exact attention one leaf.
 */
#ifndef HA_CAUSAL_H
#define HA_CAUSAL_H

#include <stddef.h>
#include <stdint.h>

#include "hyperattn.h"

/* Splits and leaves start at multiples of this many keys from the first causal key, so that key
 * panels of every level fit them. */
#define HA_SPLIT 64

/* Every query row [q0, q0 + nq) sees every key: those of pinned[] exactly (sinks, then the window),
 * [k0, k0 + nk) by blocks and samples. */
typedef struct ha_rect {
    int64_t q0, nq;
    int64_t k0, nk;
    int64_t pinned[2][2]; /* [begin, end) */
    int64_t nruns;       /* runs of queries, each with its own exact block and samples */
    int64_t bounds;      /* place of its nruns + 1 run bounds among its wave's */
    int64_t mask_row;    /* with a block mask: the query block that this is */
    int fresh;           /* no earlier wave holds these rows */
} ha_rect;

/* Rows [q0, q0 + nq) against the keys from k0 to their causal limits, or to the last. */
typedef struct ha_leaf {
    int64_t q0, nq;
    int64_t k0;
    int fresh; /* no wave holds these rows */
    int partial; /* the keys before k0 are yet to come: MULTIPOLE's past */
} ha_leaf;

typedef struct ha_layout {
    int64_t nq, nk;
    int estimated;        /* MULTIPOLE: some rows have a past; else it is exact attention */
    int64_t leaf_key0;    /* first key that a leaf may need */
    int64_t nrects, nleaves;
    int nwaves;
    int64_t *wave;        /* [nwaves + 1]: wave w is rects [wave[w], wave[w + 1]) */
    ha_rect *rects;
    ha_leaf *leaves;
    int64_t max_rects;    /* of a wave */
    int64_t max_bounds;   /* of a wave */
    int64_t max_leaf_rows, max_leaf_keys;
    int64_t leaf_classes; /* leaves i and i + leaf_classes share no key */
    int64_t max_tasks;    /* of a wave, at HA_TASK_ROWS rows a task and per query head */
} ha_layout;

/* The key behind the last one that row i of a leaf sees; at its first key or before: none. */
static inline int64_t ha_leaf_limit(const ha_layout *layout, const ha_leaf *leaf, int causal,
                                    int64_t i)
{
    return causal ? leaf->q0 + i + 1 + layout->nk - layout->nq : layout->nk;
}

/* The rectangles of a wave, and how many; none behind the last wave. */
static inline const ha_rect *ha_wave_rects(const ha_layout *layout, int wave, int64_t *n)
{
    *n = wave < layout->nwaves ? layout->wave[wave + 1] - layout->wave[wave] : 0;
    return *n ? &layout->rects[layout->wave[wave]] : NULL;
}

/* Whether a sequence is exact attention: one leaf of all rows and keys. */
static inline int ha_layout_is_exact(const ha_layout *layout, const hyperattn_params *params)
{
    return params->method == HYPERATTN_EXACT ||
           (params->method == HYPERATTN_MULTIPOLE && !layout->estimated);
}

/* Most query rows that one task holds. */
#define HA_TASK_ROWS 256

/* Fills the layout of one sequence. With wave, rects and leaves NULL it only counts. */
void ha_layout_build(ha_layout *layout, const hyperattn_params *params, int causal);

#endif
