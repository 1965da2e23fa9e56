/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PROBLEM_H
#define HA_PROBLEM_H

#include "backend.h"

/* Checks the caller's problem by the rules of hyperattn_problem_init(3), fills in its defaults and
 * computes its extents. Allocates nothing. */
hyperattn_status ha_problem_resolve(hyperattn_problem *resolved, ha_extents *bytes,
                                    const hyperattn_problem *problem);

/* Whether gradients can be written with the strides of q, k and v: inputs may be broadcast. */
hyperattn_status ha_problem_check_gradients(const hyperattn_problem *problem);

#endif
