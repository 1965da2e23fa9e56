/* SPDX-License-Identifier: Apache-2.0 */
#include "context.h"

#include <stdlib.h>

#include "parallel.h"
#include "status.h"

#define MAX_THREADS 4096

static void *default_alloc(size_t align, size_t size, void *user)
{
    (void)user;
    void *ptr;
    return posix_memalign(&ptr, align, size) == 0 ? ptr : NULL;
}

static void default_free(void *ptr, void *user)
{
    (void)user;
    free(ptr);
}

void *ha_alloc(const hyperattn_ctx *ctx, size_t size)
{
    void *ptr = ctx->alloc(64, size, ctx->user);
    if (!ptr)
        ha_fail(HYPERATTN_ENOMEM, "the allocator gave no %zu bytes", size);
    return ptr;
}

void ha_free(const hyperattn_ctx *ctx, void *ptr)
{
    if (ptr)
        ctx->free(ptr, ctx->user);
}

void hyperattn_ctx_params_init(hyperattn_ctx_params *params)
{
    if (params)
        *params = (hyperattn_ctx_params){.struct_size = sizeof *params};
}

static hyperattn_status check(const hyperattn_ctx_params *p)
{
    if (p->struct_size != sizeof *p)
        return ha_fail(HYPERATTN_EINVAL, "hyperattn_ctx_params.struct_size is %zu, must be %zu",
                       p->struct_size, sizeof *p);
    if (p->backend != HYPERATTN_BACKEND_AUTO && p->backend != HYPERATTN_BACKEND_CPU)
        return ha_fail(HYPERATTN_EINVAL, "backend is %d, not a hyperattn_backend", (int)p->backend);
    if (p->nthreads < 0 || p->nthreads > MAX_THREADS)
        return ha_fail(HYPERATTN_EINVAL, "nthreads is %d, must be 0..%d", p->nthreads, MAX_THREADS);
    if (!p->alloc != !p->free)
        return ha_fail(HYPERATTN_EINVAL, "%s is NULL and %s is not: set both or none",
                       p->alloc ? "free" : "alloc", p->alloc ? "alloc" : "free");
    return HYPERATTN_OK;
}

hyperattn_status hyperattn_ctx_create(hyperattn_ctx **out, const hyperattn_ctx_params *params)
{
    if (!out)
        return ha_fail(HYPERATTN_EINVAL, "ctx is NULL");
    *out = NULL;
    hyperattn_ctx_params defaults;
    hyperattn_ctx_params_init(&defaults);
    const hyperattn_ctx_params *p = params ? params : &defaults;
    hyperattn_status status = check(p);
    if (status)
        return status;

    hyperattn_ctx ctx = {
        .nthreads = p->nthreads ? p->nthreads : ha_default_threads(),
        .alloc = p->alloc ? p->alloc : default_alloc,
        .free = p->free ? p->free : default_free,
        .user = p->user,
    };
    if (ctx.nthreads > MAX_THREADS)
        ctx.nthreads = MAX_THREADS;
    status = ha_backend_choose(&ctx.backend, p->backend);
    if (status)
        return status;
    ctx.kernels = ha_kernels_best(&ctx.reason);

    hyperattn_ctx *copy = ha_alloc(&ctx, sizeof ctx);
    if (!copy)
        return HYPERATTN_ENOMEM;
    *copy = ctx;
    *out = copy;
    return HYPERATTN_OK;
}

void hyperattn_ctx_destroy(hyperattn_ctx *ctx)
{
    if (ctx)
        ha_free(ctx, ctx);
}

const char *hyperattn_ctx_backend(const hyperattn_ctx *ctx)
{
    return ctx ? ctx->backend->name : "";
}

const char *hyperattn_ctx_isa(const hyperattn_ctx *ctx)
{
    return ctx ? ctx->kernels->name : "";
}

const char *hyperattn_ctx_reason(const hyperattn_ctx *ctx)
{
    return ctx ? ctx->reason : "";
}
