/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_CPU_BACKEND_H
#define HA_CPU_BACKEND_H

#include "backend.h"
#include "kernels.h"

extern const ha_backend ha_backend_cpu;

/* A context's state: its instruction-set level. */
typedef struct ha_cpu_device {
    const ha_kernels *kernels;
} ha_cpu_device;

static inline const ha_kernels *ha_cpu_kernels(const ha_plan *plan)
{
    return ((const ha_cpu_device *)plan->device->state)->kernels;
}

#endif
