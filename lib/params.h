/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PARAMS_H
#define HA_PARAMS_H

#include "hyperattn.h"

/* Checks the caller's params, against the resolved problem where they depend on it. */
hyperattn_status ha_params_check(const hyperattn_params *params, const hyperattn_problem *problem);

/* What HYPERATTN_AUTO becomes: whichever costs fewer key equivalents per head. */
hyperattn_method ha_params_method(const hyperattn_params *params, const hyperattn_problem *problem);

#endif
