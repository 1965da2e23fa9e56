/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of gradients of the key heads in flight, and what backward needs of each row. Sums are f32
 * and take their terms in an order that the plan fixes, so that the threads' number changes no bit.
 */
#ifndef HA_SUMS_H
#define HA_SUMS_H

#include "cpu/call.h"

typedef struct ha_sums {
    float *lse_log2; /* [group][nq]: the given lse as log2; +inf where no key was seen */
    float *delta;    /* [group][nq]: dout_i.out_i */
    float *dq;       /* [row_copies][group][nq][ldgrad] */
    float *dk, *dv;  /* [key_copies][nk][ldgrad], [ldacc] */
} ha_sums;

void ha_sums_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_sums **heads,
                   float ***factors);

/* Fills lse_log2 and delta, and clears the sums. */
void ha_sums_prepare(ha_call *call, const ha_sums *heads);

/* Writes dq, dk and dv. factors: one per thread, of HA_TASK_ROWS floats. */
void ha_sums_finish(ha_call *call, const ha_sums *heads, float *const *factors);

/* Whether each query row is in one task, which then writes its dq itself. */
static inline int ha_tasks_own_rows(const ha_layout *layout)
{
    return layout->nwaves == 1 && !layout->nleaves;
}

/* A row's sums. */
static inline float *ha_sum_q(const ha_cpu_plan *plan, const ha_key_head *kh, const ha_sums *s,
                              int64_t copy, int64_t head, int64_t row)
{
    return s->dq + ((copy * plan->group + head) * kh->layout->nq + row) * plan->ldgrad;
}

static inline float *ha_sum_k(const ha_cpu_plan *plan, const ha_key_head *kh, const ha_sums *s,
                              int64_t copy, int64_t key)
{
    return s->dk + (copy * kh->layout->nk + key) * plan->ldgrad;
}

static inline float *ha_sum_v(const ha_cpu_plan *plan, const ha_key_head *kh, const ha_sums *s,
                              int64_t copy, int64_t key)
{
    return s->dv + (copy * kh->layout->nk + key) * plan->ldacc;
}

#endif
