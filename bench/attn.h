/* SPDX-License-Identifier: Apache-2.0
 *
 * One planned attention call that can be run again and again.
 */
#ifndef BENCH_ATTN_H
#define BENCH_ATTN_H

#include "hyperattn.h"
#include "input.h"
#include "profile.h"
#include "timing.h"

typedef struct attn {
    hyperattn_plan *plan;
    const input *in;
    void *out;
    float *lse; /* may be NULL */
    void *workspace;
    size_t workspace_bytes;
    int calls;
    ha_profile profile[TIMING_MAX_REPEAT + 1]; /* of each call */
} attn;

/* out has room for the problem's output. Returns an exit status; attn_close is needed after
 * failures too. */
int attn_open(attn *a, hyperattn_ctx *ctx, const hyperattn_problem *problem,
              const hyperattn_params *params, const input *in, void *out);
void attn_close(attn *a);

/* A timed_job's run function. */
int attn_run(void *attn_pointer);

/* Output of a problem. */
size_t attn_out_bytes(const hyperattn_problem *problem);

/* A context with that many threads (0: the default). */
int attn_context(hyperattn_ctx **ctx, int threads);

#endif
