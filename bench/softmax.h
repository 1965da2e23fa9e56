/* SPDX-License-Identifier: Apache-2.0
 *
 * The softmax matrix P = D^-1 A of one head as an operator, never formed: P x is attention with x
 * as values of one feature, and P' y the gradient by those values where y is that by the output.
 * Each costs O(n^2 d), in f32, by the library itself.
 */
#ifndef BENCH_SOFTMAX_H
#define BENCH_SOFTMAX_H

#include <stdint.h>

#include "hyperattn.h"

typedef struct softmax {
    hyperattn_plan *plan;
    const float *q, *k; /* packed rows of head_dim; the caller's */
    int64_t nq, nk;
    float *x;   /* [nk]: input of softmax_times */
    float *y;   /* [nq]: its output, and input of softmax_transposed */
    float *xt;  /* [nk]: output of softmax_transposed */
    float *lse; /* [nq]: natural logarithms of the row sums, from softmax_times */
    float *dq, *dk, *out;
    void *workspace;
} softmax;

/* The problem of one f32 head: the first nq rows of q and nk of k, head_dim, causal and scale of
 * another problem. */
void softmax_problem(hyperattn_problem *head, const hyperattn_problem *problem);

/* params.method EXACT: P. Another one: what takes its place. Each returns an exit status;
 * softmax_close is needed after failures too. */
int softmax_open(softmax *s, hyperattn_ctx *ctx, const hyperattn_problem *head,
                 const hyperattn_params *params, const float *q, const float *k);
void softmax_close(softmax *s);

/* y = P x, and lse. */
int softmax_times(softmax *s);

/* xt = P' y, after a softmax_times; y may have been written since. */
int softmax_transposed(softmax *s);

#endif
