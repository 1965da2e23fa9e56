/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 1 on the CPU: projections of every row and key once per call, then the sorted orders
 * of each wave's rectangles.
 */
#ifndef HA_CPU_SORTLSH_H
#define HA_CPU_SORTLSH_H

#include "algo/sortlsh.h"
#include "cpu/call.h"

/* A key head's rows and keys. Where they keep their own order, there are bounds only. */
typedef struct ha_sorted {
    uint32_t *qorder; /* [group][nq]: rows of each rectangle, run by run, from its q0 on; or NULL */
    uint32_t *korder; /* [nk]: keys of each rectangle, sorted, from its k0 on; or NULL */
    uint32_t *bounds; /* [group][max_bounds]: first sorted query of each run */
    float *directions;     /* packed */
    float *qproj, *kproj;  /* [group][nq][ldproj], [nk][ldproj] */
    uint16_t *qrank, *krank; /* [group][nq], [nk]: ranks of buckets, of the current wave */
} ha_sorted;

typedef struct ha_sortlsh {
    ha_sorted *heads; /* of the key heads in flight */
    struct ha_sort_thread *threads;
} ha_sortlsh;

void ha_sortlsh_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_sortlsh *sort);

/* Projects the queries and keys of the call. */
void ha_sortlsh_hash(ha_call *call, const ha_sortlsh *sort);

/* Orders and bounds of the wave's rectangles, from the projections. */
void ha_sortlsh_sort(ha_call *call, const ha_sortlsh *sort, int wave);

/* Bounds of a rectangle's runs. */
static inline uint32_t *ha_bounds_of(const ha_cpu_plan *plan, const ha_sorted *sorted,
                                     const ha_rect *rect, int64_t head)
{
    return sorted->bounds + head * plan->max.max_bounds + rect->bounds;
}

/* Sorted rows of a head, [nq]; NULL: their own order. */
static inline uint32_t *ha_qorder_of(const ha_key_head *kh, const ha_sorted *sorted, int64_t head)
{
    return sorted->qorder ? sorted->qorder + head * kh->layout->nq : NULL;
}

#endif
