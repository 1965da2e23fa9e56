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

size_t attn_lse_bytes(const hyperattn_problem *p)
{
    return (size_t)(p->batch * p->nheads * p->seqlen_q) * sizeof(float);
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

int attn_open_backward(attn *a, float *lse, const gradients *grads)
{
    a->lse = lse;
    a->grads = grads;
    a->backward_bytes = hyperattn_plan_workspace(a->plan, 1);
    if (a->backward_bytes <= a->workspace_bytes)
        return STATUS_OK;
    buffer_free(a->workspace);
    a->workspace = buffer_alloc(a->backward_bytes, "workspace of backward");
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

int attn_backward(void *attn_pointer)
{
    const attn *a = attn_pointer;
    const input *in = a->in;
    const gradients *g = a->grads;
    hyperattn_status status =
        hyperattn_backward(a->plan, in->q.data, in->k.data, in->v.data, a->out, a->lse,
                           in->dout.data, g->dq, g->dk, g->dv, a->workspace);
    return status ? library_failed("backward", status) : STATUS_OK;
}

int gradients_alloc(gradients *g, const hyperattn_problem *p)
{
    size_t batch = (size_t)p->batch * dtype_size(p->dtype);
    g->dq = buffer_alloc(batch * (size_t)p->q_stride[0], "dq");
    if (g->dq)
        g->dk = buffer_alloc(batch * (size_t)p->k_stride[0], "dk");
    if (g->dk)
        g->dv = buffer_alloc(batch * (size_t)p->v_stride[0], "dv");
    return g->dv ? STATUS_OK : STATUS_FAILED;
}

void gradients_free(gradients *g)
{
    buffer_free(g->dq);
    buffer_free(g->dk);
    buffer_free(g->dv);
    *g = (gradients){0};
}
