/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradient of what forward computed, with its hashes, orders and samples made again from the
 * seed. With the log-weight w_ij of entry (i, j) and the given lse_i,
 *     P_ij = exp(s q_i.k_j + w_ij - lse_i)   dS_ij = P_ij (dout_i.v_j - delta_i)
 *     delta_i = dout_i.out_i
 *     dV_j = sum_i P_ij dout_i   dQ_i = s sum_j dS_ij k_j   dK_j = s sum_i dS_ij q_i
 * P is computed tile by tile and never stored. Sums are f32 and take their terms in an order that
 * the plan fixes, so that the threads' number changes no bit.
 */
#ifndef HA_BACKWARD_H
#define HA_BACKWARD_H

#include "cpu/unit.h"

/* Sets what the workspace's size depends on. */
void ha_backward_plan(const ha_plan *plan, ha_cpu_plan *cpu);
void ha_backward_plan_leaves(ha_cpu_plan *cpu);

void ha_backward_carve_slots(ha_carver *c, const ha_cpu_plan *cpu, ha_run *run);

/* Entries of a unit's progress. */
int64_t ha_backward_progress(const ha_cpu_plan *cpu);

/* The gradients of the units in flight. */
void ha_backward_units(ha_run *run);

/* Adds what the leaves give. */
void ha_backward_leaves(ha_run *run);

/* Adds what the wave's tasks give. */
void ha_backward_tasks(ha_run *run);

#endif
