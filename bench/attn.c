/* SPDX-License-Identifier: Apache-2.0 */
#include "attn.h"

#include "convert.h"
#include "memory.h"
#include "message.h"

int attn_context(hyperattn_ctx **ctx, int threads)
{
    hyperattn_ctx_params params;
    hyperattn_ctx_params_init(&params);
    params.nthreads = threads;
    hyperattn_status status = hyperattn_ctx_create(ctx, &params);
    return status ? library_failed("creating the context", status) : STATUS_OK;
}

size_t attn_out_bytes(const hyperattn_problem *p)
{
    return (size_t)(p->batch * p->nheads * p->seqlen_q * p->head_dim_v) * dtype_size(p->dtype);
}

int attn_open(attn *a, hyperattn_ctx *ctx, const hyperattn_problem *problem,
              const hyperattn_params *params, const input *in, void *out)
{
    *a = (attn){.in = in, .out = out};
    hyperattn_status status = hyperattn_plan_create(&a->plan, ctx, problem, params);
    if (status)
        return library_failed("planning", status);
    a->workspace_bytes = hyperattn_plan_workspace(a->plan, 0);
    a->workspace = buffer_alloc(a->workspace_bytes, "workspace");
    return a->workspace ? STATUS_OK : STATUS_FAILED;
}

void attn_close(attn *a)
{
    hyperattn_plan_destroy(a->plan);
    buffer_free(a->workspace);
    *a = (attn){0};
}

int attn_run(void *attn_pointer)
{
    attn *a = attn_pointer;
    ha_profile *profile = &a->profile[a->calls++ % (TIMING_MAX_REPEAT + 1)];
    *profile = (ha_profile){{0}};
    ha_plan_profile(a->plan, profile);
    hyperattn_status status = hyperattn_forward(a->plan, a->in->q.data, a->in->k.data,
                                                a->in->v.data, a->out, a->lse, a->workspace);
    ha_plan_profile(a->plan, NULL);
    return status ? library_failed("attention", status) : STATUS_OK;
}
