/* SPDX-License-Identifier: Apache-2.0 */
#include "profile.h"

#include "plan.h"

const char *ha_stage_name(ha_stage stage)
{
    static const char *const names[HA_STAGES] = {"hash",   "sort", "gather", "block",
                                                 "sample", "leaf", "state"};
    return names[stage];
}

void ha_plan_profile(hyperattn_plan *plan, ha_profile *profile)
{
    plan->view.profile = profile;
}
