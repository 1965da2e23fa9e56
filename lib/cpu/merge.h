/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_MERGE_H
#define HA_MERGE_H

#include "cpu/cpu_backend.h"
#include "plan.h"

/* hyperattn_merge on the CPU: with w = exp(lse - lse'), w2 = exp(lse2 - lse') and
 * lse' = log(exp(lse) + exp(lse2)), out becomes w out + w2 out2 and lse becomes lse'. */
hyperattn_status ha_merge(const ha_plan *plan, void *out, float *lse, const void *out2,
                          const float *lse2);

#endif
