/* SPDX-License-Identifier: Apache-2.0 */
#include "softmax.h"

#include "memory.h"
#include "message.h"

void softmax_problem(hyperattn_problem *head, const hyperattn_problem *problem)
{
    hyperattn_problem_init(head);
    head->seqlen_q = problem->seqlen_q;
    head->seqlen_k = problem->seqlen_k;
    head->head_dim = problem->head_dim;
    head->head_dim_v = 1;
    head->causal = problem->causal;
    head->softmax_scale = problem->softmax_scale;
}

static float *floats(int64_t rows, int64_t dim)
{
    size_t bytes;
    int64_t factors[] = {rows, dim, (int64_t)sizeof(float)};
    if (!size_product(&bytes, 3, factors)) {
        failed("the softmax as an operator: its size exceeds the address space");
        return NULL;
    }
    return buffer_alloc(bytes, "the softmax as an operator");
}

int softmax_open(softmax *s, hyperattn_ctx *ctx, const hyperattn_problem *head,
                 const hyperattn_params *params, const float *q, const float *k)
{
    int64_t nq = head->seqlen_q, nk = head->seqlen_k, dim = head->head_dim;
    *s = (softmax){.q = q, .k = k, .nq = nq, .nk = nk};
    hyperattn_status status = hyperattn_plan_create(&s->plan, ctx, head, params);
    if (status)
        return library_failed("planning", status);
    size_t forward = hyperattn_plan_workspace(s->plan, 0);
    size_t backward = hyperattn_plan_workspace(s->plan, 1);
    s->workspace = buffer_alloc(forward > backward ? forward : backward, "workspace");
    float **vectors[] = {&s->x, &s->xt, &s->y, &s->out, &s->lse, &s->dq, &s->dk};
    const int64_t rows[] = {nk, nk, nq, nq, nq, nq, nk};
    for (int i = 0; i < 7 && s->workspace; i++) {
        *vectors[i] = floats(rows[i], i < 5 ? 1 : dim);
        if (!*vectors[i])
            return STATUS_FAILED;
    }
    return s->workspace ? STATUS_OK : STATUS_FAILED;
}

void softmax_close(softmax *s)
{
    float *vectors[] = {s->x, s->xt, s->y, s->out, s->lse, s->dq, s->dk};
    for (int i = 0; i < 7; i++)
        buffer_free(vectors[i]);
    buffer_free(s->workspace);
    hyperattn_plan_destroy(s->plan);
    *s = (softmax){0};
}

int softmax_times(softmax *s)
{
    hyperattn_status status =
        hyperattn_forward(s->plan, s->q, s->k, s->x, s->out, s->lse, s->workspace);
    for (int64_t i = 0; i < s->nq; i++)
        s->y[i] = s->out[i];
    return status ? library_failed("attention", status) : STATUS_OK;
}

int softmax_transposed(softmax *s)
{
    hyperattn_status status =
        hyperattn_backward(s->plan, s->q, s->k, s->x, s->out, s->lse, s->y, s->dq, s->dk, s->xt,
                           s->workspace);
    return status ? library_failed("backward", status) : STATUS_OK;
}
