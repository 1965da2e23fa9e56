/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include <stdio.h>
#include <string.h>

#include "cpu/cpu_backend.h"
#include "env.h"
#include "module.h"
#include "status.h"

static const char *const names[] = {"auto", "cpu", "cuda"}; /* by hyperattn_backend */

/* What the environment asks of contexts that leave it open. */
static hyperattn_status read_environment(hyperattn_backend *request)
{
    const char *wish = ha_env(HA_ENV_BACKEND);
    for (int i = 0; wish && i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(wish, names[i]) == 0) {
            *request = (hyperattn_backend)i;
            return HYPERATTN_OK;
        }
    return wish ? ha_fail(HYPERATTN_EBACKEND, HA_ENV_BACKEND "=%s is not auto, cpu or cuda", wish)
                : HYPERATTN_OK;
}

static void add_reason(hyperattn_ctx *ctx, const char *text)
{
    size_t used = strlen(ctx->reason);
    if (*text)
        snprintf(ctx->reason + used, sizeof ctx->reason - used, "%s%s", used ? "; " : "", text);
}

static hyperattn_status open_backend(hyperattn_ctx *ctx, const ha_backend *backend)
{
    ctx->device.isa = ctx->device.reason = "";
    ctx->device.state = NULL;
    hyperattn_status status = backend->open(&ctx->device);
    if (status)
        return status;
    ctx->backend = backend;
    add_reason(ctx, ctx->device.reason);
    return HYPERATTN_OK;
}

static hyperattn_status open_module(hyperattn_ctx *ctx)
{
    const ha_module *module = ha_module_cuda();
    add_reason(ctx, module->note);
    if (module->status)
        return ha_fail(module->status, "%s%s%s", module->reason, *module->note ? "; " : "",
                       module->note);
    return open_backend(ctx, module->backend);
}

/* The module if it serves, and else the CPU, quietly: the context says why, unless there is no
 * module at all. */
static hyperattn_status open_best(hyperattn_ctx *ctx)
{
    char before[HA_DETAIL];
    snprintf(before, sizeof before, "%s", hyperattn_last_error());
    hyperattn_status status = open_module(ctx);
    if (!status || status == HYPERATTN_ENOMEM)
        return status;
    if (!ha_module_cuda()->absent)
        add_reason(ctx, hyperattn_last_error());
    ha_set_detail(before);
    return open_backend(ctx, &ha_backend_cpu);
}

hyperattn_status ha_registry_open(hyperattn_ctx *ctx, hyperattn_backend request)
{
    hyperattn_status status;
    if (request == HYPERATTN_BACKEND_AUTO && (status = read_environment(&request)))
        return status;
    switch (request) {
    case HYPERATTN_BACKEND_CPU: return open_backend(ctx, &ha_backend_cpu);
    case HYPERATTN_BACKEND_CUDA: return open_module(ctx);
    case HYPERATTN_BACKEND_AUTO: return open_best(ctx);
    }
    return ha_fail(HYPERATTN_EINVAL, "backend is %d, not a hyperattn_backend", (int)request);
}
