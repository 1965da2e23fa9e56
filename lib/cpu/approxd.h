/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 2 (ApproxD) on the CPU, beyond plain sampling: tau, the row-wise cap of sampled entries
 * (line 5) and the floor of the sampled row sum (line 7). In use where kappa_cap > 0.
 */
#ifndef HA_CPU_APPROXD_H
#define HA_CPU_APPROXD_H

#include "cpu/columns.h"
#include "cpu/vnorm.h"

typedef struct ha_taus {
    float **heads; /* of the key heads in flight: [group][max_rects][tiles], log2 of row sums */
    struct ha_tau_thread *threads;
} ha_taus;

void ha_taus_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_taus *taus);

/* Line 2 for every rectangle of the wave: the largest row sum outside the exact columns over a
 * random set of rows. */
void ha_approxd_tau(ha_call *call, const ha_taus *taus, const ha_sortlsh *sort, const ha_vnorm *v,
                    int wave);

/* log2(tau / kappa) of a rectangle of the wave. */
double ha_approxd_floor(const ha_call *call, const ha_taus *taus, int wave, int64_t place,
                        int64_t head, const ha_rect *rect);

/* What caps the sampled entries of one task's rows. */
typedef struct ha_cap {
    float *cap, *log2_exact; /* [HA_TASK_ROWS padded] */
    double floor;
    int64_t nk;
} ha_cap;

void ha_cap_carve(ha_carver *c, const ha_cpu_plan *plan, ha_cap *cap);

/* Line 5, when s has seen the rows' exact columns. */
void ha_cap_prepare(const ha_cpu_plan *plan, ha_cap *cap, const ha_softmax *s, int64_t rows);

/* Line 7, when s has seen the samples too: they sum to tau / kappa at least. */
void ha_cap_finish(const ha_cap *cap, const ha_softmax *s, int64_t rows);

/* For backward: entries of rows at their floor become 0. */
void ha_cap_drop_floored(const ha_cap *cap, const ha_softmax *s, int64_t rows, float *entry);

#endif
