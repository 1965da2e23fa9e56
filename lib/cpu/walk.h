/* SPDX-License-Identifier: Apache-2.0
 *
 * The columns of a task, a batch at a time: its exact ones, then its samples.
 */
#ifndef HA_WALK_H
#define HA_WALK_H

#include "cpu/sample.h"
#include "cpu/unit.h"

typedef struct ha_walk {
    const ha_run *run;
    const ha_task *task;
    ha_sampler columns;
    int64_t range, taken; /* exact ranges done, and keys taken of the next one */
    int64_t drawn;
} ha_walk;

/* The sampler of block t of a rectangle, which knows its exact blocks too. */
ha_sampler ha_walk_sampler(const ha_run *run, const ha_unit *u, const ha_rect *rect, int64_t head,
                           const int64_t *t);

ha_walk ha_walk_begin(const ha_run *run, const ha_task *task);

/* The next batch, which is not empty; 0 when there is none. */
int ha_walk_next(ha_walk *w, ha_columns *c);

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
    return ha_is_sorted(run->plan->params) ? u->korder[place] : (uint32_t)place;
}

#endif
