/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PARAMS_H
#define HA_PARAMS_H

#include "hyperattn.h"

/* Checks the caller's params (NULL: the defaults), against the resolved problem where they depend
 * on it. In *resolved, AUTO has become EXACT, whose other fields are the defaults, and block_mask
 * is NULL or points to *mask, whose arrays are the caller's. */
hyperattn_status ha_params_resolve(hyperattn_params *resolved, hyperattn_block_mask *mask,
                                   const hyperattn_params *params,
                                   const hyperattn_problem *problem);

#endif
