/* SPDX-License-Identifier: Apache-2.0 */
#include "peak.h"

#include "kernels.h"
#include "message.h"
#include "parallel.h"
#include "timing.h"

static const double run_seconds = 0.2;

static void one_thread(void *peak_pointer, int64_t i, int thread)
{
    peak *p = peak_pointer;
    double done = p->kernel(p->iters);
    (void)thread;
    if (i == 0) /* the others do the same */
        p->operations = done * p->threads;
}

int peak_run(void *peak_pointer)
{
    peak *p = peak_pointer;
    ha_parallel(p->threads, p->threads, one_thread, p);
    return STATUS_OK;
}

void peak_open(peak *p, hyperattn_dtype dtype, int threads)
{
    const char *reason;
    const ha_kernels *kernels = ha_kernels_best(&reason);
    bool bf16 = dtype == HYPERATTN_BF16 && kernels->bf16 && kernels->bf16_peak;
    *p = (peak){
        .kernel = bf16 ? kernels->bf16_peak : kernels->f32_peak,
        .threads = threads,
        .iters = 1000,
        .name = bf16 ? "bf16 dot product" : "f32 FMA",
    };
    for (;;) {
        double start = timing_now();
        peak_run(p);
        if (timing_now() - start >= run_seconds / 2)
            return;
        p->iters *= 2;
    }
}
