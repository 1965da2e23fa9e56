/* SPDX-License-Identifier: Apache-2.0
 *
 * What V-norm sampling (Algorithm 3) draws from: running sums of |v_j|^2 in each rectangle's key
 * order.
 */
#ifndef HA_VNORM_H
#define HA_VNORM_H

#include "cpu/sortlsh.h"

/* Of one key head; both NULL without V-norm sampling. */
typedef struct ha_masses {
    float *norm;  /* [nk]: |v_j|^2 */
    double *mass; /* [nk]: running sums, of each rectangle from its k0 on */
} ha_masses;

typedef struct ha_vnorm {
    ha_masses *heads; /* of the key heads in flight */
    float **as_f32;   /* [nthreads]: HA_TASK_ROWS rows of v, as f32 */
} ha_vnorm;

void ha_vnorm_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_vnorm *v);

/* |v_j|^2 of the call's keys. */
void ha_vnorm_norms(ha_call *call, const ha_vnorm *v);

/* Masses of the wave's rectangles, from the norms and the sorted keys. */
void ha_vnorm_sum(ha_call *call, const ha_vnorm *v, const ha_sortlsh *sort, int wave);

#endif
