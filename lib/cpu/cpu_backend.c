/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend's table.
 */
#include "backend.h"
#include "cpu/call.h"
#include "cpu/merge.h"

static hyperattn_status plan(hyperattn_plan *p)
{
    return ha_cpu_plan_create(p, p->ctx->kernels);
}

const ha_backend ha_backend_cpu = {
    .abi_version = HA_BACKEND_ABI,
    .struct_size = sizeof(ha_backend),
    .name = "cpu",
    .plan = plan,
    .forward = ha_cpu_forward,
    .backward = ha_cpu_backward,
    .merge = ha_merge,
    .destroy = ha_cpu_plan_destroy,
};
