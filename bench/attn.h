/* SPDX-License-Identifier: Apache-2.0
 *
 * One planned attention call, forward and, where wanted, backward, that can be run again and again.
 */
#ifndef BENCH_ATTN_H
#define BENCH_ATTN_H

#include <stdbool.h>
#include <stddef.h>

#include "hyperattn.h"
#include "input.h"
#include "profile.h"

/* What backward writes, with the shapes and strides of q, k and v. */
typedef struct gradients {
    void *dq, *dk, *dv;
} gradients;

/* What the calls leave. */
typedef struct outcome {
    void *out;
    float *lse;      /* NULL: not wanted */
    gradients grads; /* NULLs: too */
} outcome;

/* Room for the outcome of a problem with strides. An exit status; outcome_close is needed after
 * failures too. */
int outcome_open(outcome *o, const hyperattn_problem *problem, bool lse, bool grads);
void outcome_close(outcome *o);

typedef struct attn {
    hyperattn_plan *plan;
    const input *in;
    outcome result; /* the caller's buffers */
    void *workspace; /* for either call */
    size_t workspace_bytes, backward_bytes; /* 0: forward only */
    ha_profile *profiles; /* of forward, [calls that are measured]; NULL: none taken */
    hyperattn_choice *choices; /* [heads of the batch]; NULL: without target_error */
} attn;

/* result has room for the problem's. With gradients there, backward can be run too, with the dout
 * of the input. Returns an exit status; attn_close is needed after failures too. */
int attn_open(attn *a, hyperattn_ctx *ctx, const hyperattn_problem *problem,
              const hyperattn_params *params, const input *in, const outcome *result);
void attn_close(attn *a);

/* A timed_job's run functions. attn_backward takes what the last attn_run left. */
int attn_run(void *attn_pointer, int call);
int attn_backward(void *attn_pointer, int call);

/* Elements of a problem's output. */
size_t attn_out_elements(const hyperattn_problem *problem);

/* A context with that many threads (0: the default). */
int attn_context(hyperattn_ctx **ctx, int threads);

#endif
