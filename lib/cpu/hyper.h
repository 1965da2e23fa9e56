/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention on unmasked rectangles (Algorithms 1 to 3): hash, sort, then blocks and sampled
 * columns in one online softmax.
 */
#ifndef HA_HYPER_H
#define HA_HYPER_H

#include "cpu/sample.h"
#include "cpu/unit.h"

/* Projections of every key and query, once per call. */
void ha_hyper_hash(ha_run *run);

/* Sorts the keys and queries of the wave's rectangles and cuts them into run->tasks. */
void ha_hyper_sort(ha_run *run);

/* Runs the wave's tasks. final: no other wave or leaf follows, so out and lse are written. */
void ha_hyper_attend(ha_run *run, int final);

/* The columns of block t of a rectangle. */
ha_sampler ha_hyper_columns(const ha_run *run, const ha_unit *u, const ha_rect *rect, int64_t head,
                            const int64_t *t);

/* Whether the rectangles' keys and queries are in sorted order rather than their own. */
static inline int ha_is_sorted(const hyperattn_params *p)
{
    return !p->block_mask && p->heavy == HYPERATTN_HEAVY_SORTLSH;
}

/* The key at a position of a rectangle's key order. */
static inline uint32_t ha_key_at(const ha_run *run, const ha_unit *u, const ha_rect *rect,
                                 int64_t position)
{
    int64_t place = rect->k0 + position;
    return ha_is_sorted(&run->plan->params) ? u->korder[place] : (uint32_t)place;
}

#endif
