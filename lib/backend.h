/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend is one constant table. The CPU's is built in.
 */
#ifndef HA_BACKEND_H
#define HA_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "hyperattn.h"

#define HA_BACKEND_ABI 1

typedef struct ha_tensors {
    const void *q, *k, *v;
    void *out;
    float *lse; /* or NULL */
} ha_tensors;

typedef struct ha_gradients {
    const void *q, *k, *v, *out;
    const float *lse;
    const void *dout;
    void *dq, *dk, *dv;
} ha_gradients;

typedef struct ha_backend {
    uint32_t abi_version; /* HA_BACKEND_ABI */
    size_t struct_size;
    const char *name;
    /* Sets plan->backend_data, plan->workspace and plan->workspace_backward from the plan's problem
     * and params. */
    hyperattn_status (*plan)(hyperattn_plan *plan);
    hyperattn_status (*forward)(const hyperattn_plan *plan, const ha_tensors *t, void *workspace);
    hyperattn_status (*backward)(const hyperattn_plan *plan, const ha_gradients *t,
                                 void *workspace);
    hyperattn_status (*merge)(const hyperattn_plan *plan, void *out, float *lse, const void *out2,
                              const float *lse2);
    void (*destroy)(hyperattn_plan *plan); /* frees plan->backend_data */
} ha_backend;

extern const ha_backend ha_backend_cpu;

/* The backend for a request and HYPERATTN_BACKEND. */
hyperattn_status ha_backend_choose(const ha_backend **backend, hyperattn_backend request);

#endif
