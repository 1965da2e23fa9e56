/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PARAMS_H
#define HA_PARAMS_H

#include "hyperattn.h"

/* Checks the caller's params (NULL: the defaults), against the resolved problem where they depend
 * on it. In *resolved, block_mask is NULL, as where EXACT or AUTO does not read
 * it, or points to *mask, whose arrays are the caller's. */
hyperattn_status ha_params_resolve(hyperattn_params *resolved, hyperattn_block_mask *mask,
                                   const hyperattn_params *params,
                                   const hyperattn_problem *problem);

/* Fields of a caller's params that are written, not read: those that it has room for. */
hyperattn_status ha_params_write(hyperattn_params *to, const hyperattn_params *from);

#endif
