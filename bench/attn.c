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

/* ---- outcomes ------------------------------------------------------------------------------- */

size_t attn_out_elements(const hyperattn_problem *p)
{
    return (size_t)(p->batch * p->nheads * p->seqlen_q * p->head_dim_v);
}

static int gradients_open(gradients *g, const hyperattn_problem *p)
{
    size_t batch = (size_t)p->batch * dtype_size(p->dtype);
    g->dq = buffer_alloc(batch * (size_t)p->q_stride[0], "dq");
    if (g->dq)
        g->dk = buffer_alloc(batch * (size_t)p->k_stride[0], "dk");
    if (g->dk)
        g->dv = buffer_alloc(batch * (size_t)p->v_stride[0], "dv");
    return g->dv ? STATUS_OK : STATUS_FAILED;
}

int outcome_open(outcome *o, const hyperattn_problem *p, bool lse, bool grads)
{
    size_t rows = (size_t)(p->batch * p->nheads * p->seqlen_q);
    *o = (outcome){0};
    o->out = buffer_alloc(attn_out_elements(p) * dtype_size(p->dtype), "output");
    if (!o->out)
        return STATUS_FAILED;
    if (lse && !(o->lse = buffer_alloc(rows * sizeof(float), "log-sum-exp")))
        return STATUS_FAILED;
    return grads ? gradients_open(&o->grads, p) : STATUS_OK;
}

void outcome_close(outcome *o)
{
    buffer_free(o->out);
    buffer_free(o->lse);
    buffer_free(o->grads.dq);
    buffer_free(o->grads.dk);
    buffer_free(o->grads.dv);
    *o = (outcome){0};
}

/* ---- calls ---------------------------------------------------------------------------------- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

int attn_open(attn *a, hyperattn_ctx *ctx, const hyperattn_problem *problem,
              const hyperattn_params *params, const input *in, const outcome *result)
{
    *a = (attn){.in = in, .result = *result};
    hyperattn_status status = hyperattn_plan_create(&a->plan, ctx, problem, params);
    if (status)
        return library_failed("planning", status);
    if (params->target_error > 0) {
        a->choices = buffer_alloc((size_t)(problem->batch * problem->nheads) * sizeof *a->choices,
                                  "choices");
        if (!a->choices)
            return STATUS_FAILED;
        hyperattn_choice_init(a->choices);
    }
    a->workspace_bytes = hyperattn_plan_workspace(a->plan, 0);
    if (result->grads.dq)
        a->backward_bytes = hyperattn_plan_workspace(a->plan, 1);
    a->workspace = buffer_alloc(larger(a->workspace_bytes, a->backward_bytes), "workspace");
    return a->workspace ? STATUS_OK : STATUS_FAILED;
}

void attn_close(attn *a)
{
    hyperattn_plan_destroy(a->plan);
    buffer_free(a->workspace);
    buffer_free(a->choices);
    *a = (attn){0};
}

static hyperattn_status run(const attn *a)
{
    const input *in = a->in;
    const outcome *o = &a->result;
    if (a->choices)
        return hyperattn_forward_report(a->plan, in->q.data, in->k.data, in->v.data, o->out, o->lse,
                                        a->workspace, a->choices);
    return hyperattn_forward(a->plan, in->q.data, in->k.data, in->v.data, o->out, o->lse,
                             a->workspace);
}

int attn_run(void *attn_pointer, int call)
{
    const attn *a = attn_pointer;
    if (a->profiles) {
        a->profiles[call] = (ha_profile){{0}};
        ha_plan_profile(a->plan, &a->profiles[call]);
    }
    hyperattn_status status = run(a);
    if (a->profiles) /* backward's times are no part of it */
        ha_plan_profile(a->plan, NULL);
    return status ? library_failed("attention", status) : STATUS_OK;
}

int attn_backward(void *attn_pointer, int call)
{
    const attn *a = attn_pointer;
    const input *in = a->in;
    const gradients *g = &a->result.grads;
    (void)call;
    hyperattn_status status =
        hyperattn_backward(a->plan, in->q.data, in->k.data, in->v.data, a->result.out,
                           a->result.lse, in->dout.data, g->dq, g->dk, g->dv, a->workspace);
    return status ? library_failed("backward", status) : STATUS_OK;
}
