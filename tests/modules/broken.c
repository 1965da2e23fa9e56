/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules that do not serve, each in the way that the variable FAKE names.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

/* So that a program sees whether code of this file ran. */
__attribute__((constructor)) static void run(void)
{
    setenv("FAKE_RAN", "1", 1);
}

static hyperattn_status never_open(ha_device *device)
{
    (void)device;
    return HYPERATTN_EBACKEND;
}

static void never_close(ha_device *device)
{
    (void)device;
}

static hyperattn_status never_plan(ha_plan *plan)
{
    (void)plan;
    return HYPERATTN_EBACKEND;
}

static void never_unplan(ha_plan *plan)
{
    (void)plan;
}

static hyperattn_status never_forward(const ha_plan *plan, const ha_tensors *t, void *workspace)
{
    (void)plan, (void)t, (void)workspace;
    return HYPERATTN_EBACKEND;
}

static hyperattn_status never_backward(const ha_plan *plan, const ha_gradients *t, void *workspace)
{
    (void)plan, (void)t, (void)workspace;
    return HYPERATTN_EBACKEND;
}

static hyperattn_status never_merge(const ha_plan *plan, void *out, float *lse, const void *out2,
                                    const float *lse2)
{
    (void)plan, (void)out, (void)lse, (void)out2, (void)lse2;
    return HYPERATTN_EBACKEND;
}

static ha_backend table = {
    .abi_version = HA_BACKEND_ABI,
    .struct_size = sizeof table,
    .name = "cuda",
    .open = never_open,
    .close = never_close,
    .plan = never_plan,
    .unplan = never_unplan,
    .forward = never_forward,
    .backward = never_backward,
    .merge = never_merge,
};

ha_backend_query hyperattn_backend_query;

hyperattn_status hyperattn_backend_query(const ha_host *host, const ha_backend **backend)
{
    const char *how = getenv("FAKE");
    *backend = &table;
    if (!how)
        return HYPERATTN_OK;
    if (strcmp(how, "abi") == 0)
        table.abi_version++;
    else if (strcmp(how, "small") == 0)
        table.struct_size = offsetof(ha_backend, merge);
    else if (strcmp(how, "large") == 0)
        table.struct_size++;
    else if (strcmp(how, "null") == 0)
        table.backward = NULL;
    else if (strcmp(how, "name") == 0)
        table.name = "rocm";
    else if (strcmp(how, "nameless") == 0)
        table.name = NULL;
    else if (strcmp(how, "table") == 0)
        *backend = NULL;
    else if (strcmp(how, "init") == 0)
        return host->fail(HYPERATTN_EBACKEND, "no driver, said the fake module");
    else if (strcmp(how, "silent") == 0)
        return HYPERATTN_ENOTSUP;
    else if (strcmp(how, "host") == 0)
        return HYPERATTN_EVERSION;
    return HYPERATTN_OK;
}

/* For borrower.c. */
int fake_lent(void);

int fake_lent(void)
{
    return 1;
}
