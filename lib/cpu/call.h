/* SPDX-License-Identifier: Apache-2.0
 *
 * What one call works on: its workspace, and the rows of the tensors.
 */
#ifndef HA_CALL_H
#define HA_CALL_H

#include "backend.h"
#include "cpu/unit.h"

/* Lays out the workspace of a forward or backward call, or counts its bytes where base is NULL. */
size_t ha_call_carve(void *base, const ha_plan *plan, const ha_cpu_plan *cpu, ha_run *run,
                     int backward, int *wraps);

/* Points a unit at key head `number` of the batch. */
void ha_call_aim_forward(const ha_run *run, const ha_tensors *t, ha_unit *u, int64_t number);
void ha_call_aim_backward(const ha_run *run, const ha_gradients *t, ha_unit *u, int64_t number);

#endif
