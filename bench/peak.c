/* SPDX-License-Identifier: Apache-2.0 */
#include "peak.h"

#include "internals.h"
#include "message.h"
#include "timing.h"

static void one_thread(void *peak_pointer, int64_t i, int thread)
{
    peak *p = peak_pointer;
    double done = p->kernel(p->iters);
    (void)thread;
    if (i == 0) /* the others do the same */
        p->operations = done * p->threads;
}

int peak_run(void *peak_pointer, int call)
{
    peak *p = peak_pointer;
    (void)call;
    run_parallel(p->threads, p->threads, one_thread, p);
    return STATUS_OK;
}

void peak_open(peak *p, hyperattn_dtype dtype, int threads, double seconds)
{
    const ha_kernels *kernels = best_kernels();
    bool bf16 = dtype == HYPERATTN_BF16 && kernels->bf16 && kernels->bf16_peak;
    *p = (peak){
        .kernel = bf16 ? kernels->bf16_peak : kernels->f32_peak,
        .threads = threads,
        .iters = 1000,
        .name = bf16 ? "bf16 dot product" : "f32 FMA",
    };
    for (;;) {
        double start = timing_now();
        peak_run(p, 0);
        if (timing_now() - start >= seconds)
            return;
        p->iters *= 2;
    }
}
