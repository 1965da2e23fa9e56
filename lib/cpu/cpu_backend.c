/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend's table.
 */
#include "cpu/cpu_backend.h"

#include "context.h"
#include "cpu/call.h"
#include "cpu/choose.h"
#include "cpu/measure.h"
#include "cpu/merge.h"

static hyperattn_status open_device(ha_device *device)
{
    ha_cpu_device *cpu = ha_alloc(device->ctx, sizeof *cpu);
    if (!cpu)
        return HYPERATTN_ENOMEM;
    cpu->kernels = ha_kernels_best(&device->reason);
    device->isa = cpu->kernels->name;
    device->state = cpu;
    return HYPERATTN_OK;
}

static void close_device(ha_device *device)
{
    ha_free(device->ctx, device->state);
}

const ha_backend ha_backend_cpu = {
    .abi_version = HA_BACKEND_ABI,
    .struct_size = sizeof(ha_backend),
    .name = "cpu",
    .workspace = HA_MEMORY_HOST,
    .open = open_device,
    .close = close_device,
    .plan = ha_cpu_plan_create,
    .unplan = ha_cpu_plan_destroy,
    .forward = ha_cpu_forward,
    .backward = ha_cpu_backward,
    .merge = ha_merge,
    .measure = ha_cpu_measure,
    .forward_report = ha_choose_forward,
};
