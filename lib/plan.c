/* SPDX-License-Identifier: Apache-2.0 */
#include "plan.h"

#include <string.h>

#include "keep_errno.h"
#include "params.h"
#include "problem.h"
#include "status.h"

static hyperattn_status copy_cu_seqlens(hyperattn_plan *plan)
{
    hyperattn_problem *p = &plan->problem;
    if (!p->cu_seqlens_q)
        return HYPERATTN_OK;
    size_t count = (size_t)p->batch + 1;
    plan->cu_seqlens = ha_alloc(plan->ctx, 2 * count * sizeof(int64_t));
    if (!plan->cu_seqlens)
        return HYPERATTN_ENOMEM;
    memcpy(plan->cu_seqlens, p->cu_seqlens_q, count * sizeof(int64_t));
    memcpy(plan->cu_seqlens + count, p->cu_seqlens_k, count * sizeof(int64_t));
    p->cu_seqlens_q = plan->cu_seqlens;
    p->cu_seqlens_k = plan->cu_seqlens + count;
    return HYPERATTN_OK;
}

static hyperattn_status copy_mask(hyperattn_plan *plan)
{
    hyperattn_block_mask *mask = &plan->mask;
    if (!plan->params.block_mask)
        return HYPERATTN_OK;
    int64_t heads = mask->per_head ? plan->problem.nheads : 1;
    size_t rows = (size_t)((1 + (plan->problem.seqlen_q - 1) / mask->query_block) * heads) + 1;
    size_t entries = (size_t)mask->row_start[rows - 1];
    plan->mask_rows = ha_alloc(plan->ctx, (rows + entries) * sizeof(int64_t));
    if (!plan->mask_rows)
        return HYPERATTN_ENOMEM;
    memcpy(plan->mask_rows, mask->row_start, rows * sizeof(int64_t));
    memcpy(plan->mask_rows + rows, mask->key_blocks, entries * sizeof(int64_t));
    mask->row_start = plan->mask_rows;
    mask->key_blocks = plan->mask_rows + rows;
    plan->params.block_mask = mask;
    return HYPERATTN_OK;
}

/* What the backend computes, or chooses from. One that cannot choose is exact under AUTO. */
static hyperattn_status set_method(hyperattn_plan *plan)
{
    plan->method = plan->params.method;
    ha_ladder_build(&plan->ladder, &plan->params, &plan->problem);
    if (plan->ladder.nsteps > 1 && !plan->ctx->backend->forward_report) {
        if (plan->method != HYPERATTN_AUTO)
            return ha_fail(HYPERATTN_ENOTSUP,
                           "target_error is %g, and the backend %s cannot choose",
                           (double)plan->params.target_error, plan->ctx->backend->name);
        plan->ladder.step[0] = plan->ladder.step[plan->ladder.nsteps - 1];
        plan->ladder.nsteps = 1;
    }
    plan->params = plan->ladder.step[plan->ladder.nsteps - 1].params;
    plan->view.ladder = plan->ladder.nsteps > 1 ? &plan->ladder : NULL;
    return HYPERATTN_OK;
}

static void free_plan(hyperattn_plan *plan)
{
    ha_free(plan->ctx, plan->mask_rows);
    ha_free(plan->ctx, plan->cu_seqlens);
    ha_free(plan->ctx, plan);
}

hyperattn_status hyperattn_plan_create(hyperattn_plan **out, hyperattn_ctx *ctx,
                                       const hyperattn_problem *problem,
                                       const hyperattn_params *params)
{
    HA_KEEP_ERRNO;
    if (!out)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    *out = NULL;
    if (!ctx)
        return ha_fail(HYPERATTN_EINVAL, "ctx is NULL");
    hyperattn_plan draft = {.ctx = ctx};
    hyperattn_status status;
    if ((status = ha_problem_resolve(&draft.problem, &draft.view.bytes, problem)) ||
        (status = ha_params_resolve(&draft.params, &draft.mask, params, &draft.problem)))
        return status;

    hyperattn_plan *plan = ha_alloc(ctx, sizeof *plan);
    if (!plan)
        return HYPERATTN_ENOMEM;
    *plan = draft;
    plan->view.problem = &plan->problem;
    plan->view.params = &plan->params;
    plan->view.device = &ctx->device;
    if ((status = copy_cu_seqlens(plan)) || (status = copy_mask(plan)) ||
        (status = set_method(plan)) || (status = ctx->backend->plan(&plan->view))) {
        free_plan(plan);
        return status;
    }
    *out = plan;
    return HYPERATTN_OK;
}

void hyperattn_plan_destroy(hyperattn_plan *plan)
{
    HA_KEEP_ERRNO;
    if (!plan)
        return;
    plan->ctx->backend->unplan(&plan->view);
    free_plan(plan);
}

hyperattn_method hyperattn_plan_method(const hyperattn_plan *plan)
{
    if (!plan)
        return HYPERATTN_AUTO;
    return plan->ladder.nsteps > 1 ? plan->method : plan->params.method;
}

int hyperattn_plan_steps(const hyperattn_plan *plan)
{
    return plan ? plan->ladder.nsteps : 0;
}

hyperattn_status hyperattn_plan_step(const hyperattn_plan *plan, int step, hyperattn_params *params)
{
    HA_KEEP_ERRNO;
    if (!plan || !params)
        return ha_fail(HYPERATTN_EINVAL, plan ? "params is NULL" : "plan is NULL");
    if (step < 0 || step >= plan->ladder.nsteps)
        return ha_fail(HYPERATTN_EINVAL, "step is %d, must be 0..%d", step,
                       plan->ladder.nsteps - 1);
    return ha_params_write(params, &plan->ladder.step[step].params);
}

size_t hyperattn_plan_workspace(const hyperattn_plan *plan, int backward)
{
    HA_KEEP_ERRNO;
    if (!plan || backward < 0 || backward > 1) {
        ha_fail(HYPERATTN_EINVAL, plan ? "backward is %d, not 0 or 1" : "plan is NULL", backward);
        return 0;
    }
    return backward ? plan->view.workspace_backward : plan->view.workspace;
}

ha_sequence ha_plan_sequence(const ha_plan *plan, int64_t b)
{
    const hyperattn_problem *p = plan->problem;
    if (!p->cu_seqlens_q)
        return (ha_sequence){
            .nq = p->seqlen_q,
            .nk = p->seqlen_k,
            .q = b * p->q_stride[0],
            .k = b * p->k_stride[0],
            .v = b * p->v_stride[0],
            .out = b * p->out_stride[0],
            .lse = b * p->nheads * p->seqlen_q,
            .lse_head = p->seqlen_q,
        };
    int64_t q = p->cu_seqlens_q[b], k = p->cu_seqlens_k[b];
    return (ha_sequence){
        .nq = p->cu_seqlens_q[b + 1] - q,
        .nk = p->cu_seqlens_k[b + 1] - k,
        .q = q * p->q_stride[2],
        .k = k * p->k_stride[2],
        .v = k * p->v_stride[2],
        .out = q * p->out_stride[2],
        .lse = q,
        .lse_head = p->cu_seqlens_q[p->batch],
    };
}
