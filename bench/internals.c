/* SPDX-License-Identifier: Apache-2.0 */
#include "internals.h"

#include "context.h"
#include "parallel.h"

int context_threads(const hyperattn_ctx *ctx)
{
    return ctx->device.nthreads;
}

int default_threads(void)
{
    return ha_default_threads();
}

void run_parallel(int threads, int64_t n, void (*body)(void *arg, int64_t i, int thread), void *arg)
{
    ha_parallel(threads, n, body, arg);
}

const ha_kernels *best_kernels(void)
{
    const char *reason;
    return ha_kernels_best(&reason);
}
