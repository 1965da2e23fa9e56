/* SPDX-License-Identifier: Apache-2.0
 *
 * The arithmetic peak of this machine, measured with independent multiply-adds on all threads.
 */
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

#include <stdbool.h>
#include <stdint.h>

#include "hyperattn.h"

typedef struct peak {
    double (*kernel)(int64_t iters);
    int threads;
    int64_t iters;
    double operations; /* of one run, over all threads */
    const char *name;  /* "f32 FMA" or "bf16 dot product" */
} peak;

/* The peak that tensors of type dtype are computed at. Chooses iters by trial so that a run takes
 * these seconds at least. */
void peak_open(peak *p, hyperattn_dtype dtype, int threads, double seconds);

/* A timed_job's run function. */
int peak_run(void *peak_pointer, int call);

#endif
