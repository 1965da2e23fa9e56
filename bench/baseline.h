/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention as one writes it without a fused kernel: a matrix product, a softmax over its rows, a
 * matrix product, head after head, f32, with OpenBLAS and n^2 memory.
 */
#ifndef BENCH_BASELINE_H
#define BENCH_BASELINE_H

#include <stdbool.h>

#include "hyperattn.h"
#include "input.h"
#include "kernels.h"

typedef struct baseline {
    hyperattn_problem problem;
    const input *in; /* f32 */
    float *scores;   /* seqlen_q x seqlen_k */
    float *out;
    int threads;
    const ha_kernels *kernels; /* for the exponential */
} baseline;

/* Whether the program was built with OpenBLAS. */
bool baseline_built_in(void);

/* Bytes of scores for a problem, or SIZE_MAX if they cannot be addressed. */
size_t baseline_bytes(const hyperattn_problem *problem);

/* Returns an exit status; baseline_close is needed after failures too. in is f32, and out has room
 * for the problem's output. */
int baseline_open(baseline *b, const hyperattn_problem *problem, const input *in, float *out,
                  int threads);
void baseline_close(baseline *b);

/* A timed_job's run function. */
int baseline_run(void *baseline_pointer, int call);

/* What OpenBLAS says of itself; NULL without it. */
const char *baseline_config(void);
const char *baseline_parallel(void); /* "sequential", "pthread" or "openmp" */

#endif
