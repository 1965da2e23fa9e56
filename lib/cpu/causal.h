/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 4 on the CPU: the order of the stages of a call. Waves of rectangles come first, then
 * the leaves; unmasked HyperAttention is one wave, exact attention is leaves alone.
 */
#ifndef HA_CPU_CAUSAL_H
#define HA_CPU_CAUSAL_H

#include "cpu/backward_exact.h"
#include "cpu/backward_hyper.h"
#include "cpu/backward_multipole.h"
#include "cpu/few.h"

/* The stages' parts of the workspace. */
typedef struct ha_stages {
    ha_sortlsh sort;
    ha_vnorm vnorm;
    ha_taus taus;
    ha_wave wave;
    /* forward */
    ha_hyper hyper;
    ha_exact exact;
    ha_few few;
    ha_multipole multipole;
    ha_states *states; /* of the key heads in flight, between waves: [group][nq] */
    /* backward */
    ha_sums *sums;
    float **factors;
    ha_backward_hyper backward_hyper;
    ha_backward_exact backward_exact;
    ha_backward_multipole backward_multipole;
} ha_stages;

void ha_stages_carve_forward(ha_carver *c, const ha_cpu_plan *plan, ha_stages *s);
void ha_stages_carve_backward(ha_carver *c, const ha_cpu_plan *plan, ha_stages *s);

/* out and lse, or dq, dk and dv, of the key heads in flight. */
void ha_stages_forward(ha_call *call, ha_stages *s);
void ha_stages_backward(ha_call *call, ha_stages *s);

#endif
