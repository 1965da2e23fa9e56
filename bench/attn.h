/* SPDX-License-Identifier: Apache-2.0
 *
 * One planned attention call, forward and, where wanted, backward, that can be run again and again.
 */
#ifndef BENCH_ATTN_H
#define BENCH_ATTN_H

#include "hyperattn.h"
#include "input.h"
#include "profile.h"
#include "timing.h"

/* What backward writes, with the shapes and strides of q, k and v. */
typedef struct gradients {
    void *dq, *dk, *dv;
} gradients;

typedef struct attn {
    hyperattn_plan *plan;
    const input *in;
    void *out;
    float *lse; /* may be NULL without backward */
    const gradients *grads; /* NULL: forward only */
    void *workspace; /* for either call */
    size_t workspace_bytes, backward_bytes;
    int calls; /* of forward */
    ha_profile profile[TIMING_MAX_REPEAT + 1]; /* of each call */
} attn;

/* out has room for the problem's output. Returns an exit status; attn_close is needed after
 * failures too. */
int attn_open(attn *a, hyperattn_ctx *ctx, const hyperattn_problem *problem,
              const hyperattn_params *params, const input *in, void *out);

/* Makes it ready for backward too, with the dout of its input; lse has room for the problem's
 * rows. */
int attn_open_backward(attn *a, float *lse, const gradients *grads);
void attn_close(attn *a);

/* A timed_job's run functions. attn_backward takes what the last attn_run left. */
int attn_run(void *attn_pointer);
int attn_backward(void *attn_pointer);

/* Output of a problem, and its log-sum-exp. */
size_t attn_out_bytes(const hyperattn_problem *problem);
size_t attn_lse_bytes(const hyperattn_problem *problem);

/* Room for the gradients of a problem with strides. An exit status; gradients_free is needed after
 * failures too. */
int gradients_alloc(gradients *grads, const hyperattn_problem *problem);
void gradients_free(gradients *grads);

/* A context with that many threads (0: the default). */
int attn_context(hyperattn_ctx **ctx, int threads);

#endif
