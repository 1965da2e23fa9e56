/* SPDX-License-Identifier: Apache-2.0 */
#include "context.h"

#include <stdlib.h>

#include "keep_errno.h"
#include "parallel.h"
#include "registry.h"
#include "status.h"
#include "struct_size.h"

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

#define FIELD(name) offsetof(hyperattn_ctx_params, name)
static const size_t fields[] = {FIELD(backend), FIELD(nthreads), FIELD(device), FIELD(stream),
                                FIELD(alloc),   FIELD(free),     FIELD(user)};
static const ha_struct kind = {"hyperattn_ctx_params", sizeof(hyperattn_ctx_params), fields,
                               sizeof fields / sizeof *fields};

void hyperattn_ctx_params_init(hyperattn_ctx_params *params)
{
    if (params)
        *params = (hyperattn_ctx_params){.struct_size = sizeof *params};
}

static hyperattn_status check(const hyperattn_ctx_params *p)
{
    if (p->nthreads < 0 || p->nthreads > MAX_THREADS)
        return ha_fail(HYPERATTN_EINVAL, "nthreads is %d, must be 0..%d", p->nthreads, MAX_THREADS);
    if (p->device < 0)
        return ha_fail(HYPERATTN_EINVAL, "device is %d, must not be negative", p->device);
    if (p->backend == HYPERATTN_BACKEND_CPU && p->device)
        return ha_fail(HYPERATTN_EINVAL, "device is %d, but backend is HYPERATTN_BACKEND_CPU",
                       p->device);
    if (p->backend == HYPERATTN_BACKEND_CPU && p->stream)
        return ha_fail(HYPERATTN_EINVAL, "stream is %p, but backend is HYPERATTN_BACKEND_CPU",
                       p->stream);
    if (!p->alloc != !p->free)
        return ha_fail(HYPERATTN_EINVAL, "%s is NULL and %s is not: set both or none",
                       p->alloc ? "free" : "alloc", p->alloc ? "alloc" : "free");
    return HYPERATTN_OK;
}

static int threads_of(const hyperattn_ctx_params *p)
{
    int n = p->nthreads ? p->nthreads : ha_default_threads();
    return n < MAX_THREADS ? n : MAX_THREADS;
}

hyperattn_status hyperattn_ctx_create(hyperattn_ctx **out, const hyperattn_ctx_params *params)
{
    HA_KEEP_ERRNO;
    if (!out)
        return ha_fail(HYPERATTN_EINVAL, "ctx is NULL");
    *out = NULL;
    hyperattn_ctx_params p;
    hyperattn_ctx_params_init(&p);
    hyperattn_status status = params ? ha_struct_read(&p, params, &kind) : HYPERATTN_OK;
    if (status || (status = check(&p)))
        return status;

    hyperattn_ctx draft = {
        .device = {.nthreads = threads_of(&p), .device = p.device, .stream = p.stream},
        .alloc = p.alloc ? p.alloc : default_alloc,
        .free = p.free ? p.free : default_free,
        .user = p.user,
    };
    hyperattn_ctx *ctx = ha_alloc(&draft, sizeof *ctx);
    if (!ctx)
        return HYPERATTN_ENOMEM;
    *ctx = draft;
    ctx->device.ctx = ctx;
    status = ha_registry_open(ctx, p.backend);
    if (status) {
        ha_free(&draft, ctx);
        return status;
    }
    *out = ctx;
    return HYPERATTN_OK;
}

void hyperattn_ctx_destroy(hyperattn_ctx *ctx)
{
    HA_KEEP_ERRNO;
    if (!ctx)
        return;
    ctx->backend->close(&ctx->device);
    ha_free(ctx, ctx);
}

const char *hyperattn_ctx_backend(const hyperattn_ctx *ctx)
{
    return ctx ? ctx->backend->name : "";
}

const char *hyperattn_ctx_isa(const hyperattn_ctx *ctx)
{
    return ctx ? ctx->device.isa : "";
}

const char *hyperattn_ctx_reason(const hyperattn_ctx *ctx)
{
    return ctx ? ctx->reason : "";
}
