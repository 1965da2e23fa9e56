/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cpu_plan.h"

#include <string.h>

#include "algo/multipole.h"
#include "cpu/call.h"
#include "cpu/choose.h"
#include "cpu/cpu_backend.h"
#include "int64.h"
#include "status.h"
#include "workspace.h"

/* Tasks that a thread should find in a loop. */
#define TASKS_PER_THREAD 16

/* Multiply-adds that make it worth while to wake a thread: some ten microseconds' work. */
#define WORK_PER_THREAD 2e6

/* ---- sequences ------------------------------------------------------------------------------- */

ha_sequence ha_cpu_sequence(const ha_cpu_plan *plan, const ha_plan *whole, int64_t b)
{
    const hyperattn_problem *p = plan->problem;
    ha_sequence seq = ha_plan_sequence(whole, b);
    int64_t skipped = plan->tail ? ha_max(0, seq.nq - plan->tail) : 0;
    seq.nq -= skipped;
    seq.q += skipped * p->q_stride[2];
    seq.out += skipped * p->out_stride[2];
    seq.lse += skipped;
    return seq;
}

/* ---- layouts --------------------------------------------------------------------------------- */

static hyperattn_status build_layout(const ha_plan *plan, ha_layout *l)
{
    ha_layout_build(l, plan->params, plan->problem->causal);
    ha_carver carver = {0};
    for (int pass = 0; pass < 2; pass++) {
        l->wave = ha_carve(&carver, l->nwaves + 1, sizeof *l->wave);
        l->rects = ha_carve(&carver, l->nrects, sizeof *l->rects);
        l->leaves = ha_carve(&carver, l->nleaves, sizeof *l->leaves);
        if (carver.wraps)
            return ha_fail(HYPERATTN_EINVAL, "seqlen_q %lld at min_seq_len %d: the task list wraps",
                           (long long)l->nq, plan->params->min_seq_len);
        if (pass == 0) {
            carver = (ha_carver){.base = ha_alloc(plan->device->ctx, carver.used)};
            if (!carver.base)
                return HYPERATTN_ENOMEM;
        }
    }
    ha_layout_build(l, plan->params, plan->problem->causal);
    return HYPERATTN_OK;
}

static void keep_largest(ha_layout *max, const ha_layout *l)
{
    max->nq = ha_max(max->nq, l->nq);
    max->nk = ha_max(max->nk, l->nk);
    max->nleaves = ha_max(max->nleaves, l->nleaves);
    max->nwaves = (int)ha_max(max->nwaves, l->nwaves);
    max->estimated |= l->estimated;
    max->max_rects = ha_max(max->max_rects, l->max_rects);
    max->max_bounds = ha_max(max->max_bounds, l->max_bounds);
    max->max_tasks = ha_max(max->max_tasks, l->max_tasks);
}

static hyperattn_status build_layouts(const ha_plan *plan, ha_cpu_plan *cpu)
{
    cpu->nlayouts = plan->problem->cu_seqlens_q ? plan->problem->batch : 1;
    ha_carver size = {0};
    ha_carve(&size, cpu->nlayouts, sizeof *cpu->layouts);
    if (size.wraps)
        return ha_fail(HYPERATTN_EINVAL, "batch is %lld: its task lists wrap",
                       (long long)cpu->nlayouts);
    cpu->layouts = ha_alloc(plan->device->ctx, size.used);
    if (!cpu->layouts)
        return HYPERATTN_ENOMEM;
    memset(cpu->layouts, 0, size.used);
    for (int64_t i = 0; i < cpu->nlayouts; i++) {
        ha_sequence seq = ha_cpu_sequence(cpu, plan, i);
        ha_layout *l = &cpu->layouts[i];
        l->nq = seq.nq;
        l->nk = seq.nk;
        hyperattn_status status = build_layout(plan, l);
        if (status)
            return status;
        keep_largest(&cpu->max, l);
    }
    return HYPERATTN_OK;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Pairs of row and column that a layout attends to. */
static double pairs_of(const ha_cpu_plan *cpu, const ha_layout *l)
{
    const hyperattn_params *p = cpu->params;
    int causal = cpu->problem->causal;
    double sum = 0, wanted = (double)p->block_size + p->sample_size + p->num_sinks + p->window;
    for (int64_t i = 0; i < l->nrects; i++) {
        double keys = (double)l->rects[i].nk;
        sum += (double)l->rects[i].nq * (keys < wanted ? keys : wanted);
    }
    for (int64_t i = 0; i < l->nleaves; i++) {
        const ha_leaf *leaf = &l->leaves[i];
        int64_t first = ha_leaf_limit(l, leaf, causal, 0) - leaf->k0;
        int64_t last = ha_leaf_limit(l, leaf, causal, leaf->nq - 1) - leaf->k0;
        sum += (double)leaf->nq * (double)(ha_max(0, first) + ha_max(0, last)) / 2;
    }
    /* rows without a past among them */
    if (p->method == HYPERATTN_MULTIPOLE && !ha_layout_is_exact(l, p)) {
        const ha_recipe r = ha_recipe_of(p, l->nq, l->nk, causal);
        int64_t keys = r.sinks + r.selected + r.candidates + l->nk / r.far_cell;
        sum += (double)l->nq * (double)ha_min(keys, l->nk);
    }
    return sum;
}

/* As many threads as the work is worth, and no more than there may be. Results do not depend on
 * it. */
static void choose_threads(const ha_plan *plan, ha_cpu_plan *cpu)
{
    const hyperattn_problem *p = cpu->problem;
    double pairs = 0;
    for (int64_t i = 0; i < cpu->nlayouts; i++)
        pairs += pairs_of(cpu, &cpu->layouts[i]);
    pairs *= (double)p->nheads * (cpu->nlayouts == 1 ? (double)p->batch : 1);
    double work = pairs * (double)(p->head_dim + p->head_dim_v);
    for (int backward = 0; backward < 2; backward++) {
        double most = (backward ? 2.5 * work : work) / WORK_PER_THREAD;
        int nthreads = plan->device->nthreads;
        cpu->nthreads[backward] = most < 1 ? 1 : most < nthreads ? (int)most : nthreads;
    }
}

/* Key heads in flight: enough for every thread to find work, no more, to keep the workspace
 * small. */
static int64_t heads_in_flight(const ha_plan *plan, const ha_cpu_plan *cpu)
{
    int64_t tasks = ha_max(1, cpu->max.nq / HA_TASK_ROWS) * cpu->group;
    int64_t wanted = (TASKS_PER_THREAD * (int64_t)plan->device->nthreads + tasks - 1) / tasks;
    return ha_min(wanted, cpu->nkey_heads);
}

static hyperattn_status size_workspaces(ha_plan *plan, const ha_cpu_plan *cpu)
{
    int forward_wraps, backward_wraps;
    plan->workspace = plan->ladder ? ha_choose_workspace(plan, 0, &forward_wraps)
                                   : ha_cpu_workspace(cpu, 0, &forward_wraps);
    plan->workspace_backward = plan->ladder ? ha_choose_workspace(plan, 1, &backward_wraps)
                                            : ha_cpu_workspace(cpu, 1, &backward_wraps);
    if (forward_wraps || backward_wraps)
        return ha_fail(HYPERATTN_EINVAL, "the workspace for seqlen_q %lld, seqlen_k %lld wraps",
                       (long long)cpu->problem->seqlen_q, (long long)cpu->problem->seqlen_k);
    return HYPERATTN_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void destroy_steps(const ha_plan *plan, ha_plan *steps)
{
    for (int i = 0; steps && i < plan->ladder->nsteps; i++)
        if (steps[i].data)
            ha_cpu_plan_destroy(&steps[i]);
    ha_free(plan->device->ctx, steps);
}

void ha_cpu_plan_destroy(ha_plan *plan)
{
    ha_cpu_plan *cpu = plan->data;
    destroy_steps(plan, cpu->steps);
    destroy_steps(plan, cpu->alone);
    if (cpu->probe && cpu->probe->data)
        ha_cpu_plan_destroy(cpu->probe);
    ha_free(plan->device->ctx, cpu->probe);
    for (int64_t i = 0; cpu->layouts && i < cpu->nlayouts; i++)
        ha_free(plan->device->ctx, cpu->layouts[i].wave);
    ha_free(plan->device->ctx, cpu->layouts);
    ha_free(plan->device->ctx, cpu);
    plan->data = NULL;
}

static hyperattn_status create(ha_plan *plan, int64_t group, int64_t tail);

static ha_plan step_of(const ha_plan *plan, int step)
{
    return (ha_plan){
        .problem = plan->problem,
        .params = &plan->ladder->step[step].params,
        .bytes = plan->bytes,
        .device = plan->device,
    };
}

static hyperattn_status create_steps(const ha_plan *plan, int64_t group, ha_plan **steps)
{
    const ha_ladder *ladder = plan->ladder;
    *steps = ha_alloc(plan->device->ctx, (size_t)ladder->nsteps * sizeof **steps);
    if (!*steps)
        return HYPERATTN_ENOMEM;
    for (int i = 0; i < ladder->nsteps; i++)
        (*steps)[i] = step_of(plan, i);
    hyperattn_status status = HYPERATTN_OK;
    for (int i = 0; i < ladder->nsteps && !status; i++)
        status = create(&(*steps)[i], group, 0);
    return status;
}

static hyperattn_status create_probe(const ha_plan *plan, ha_cpu_plan *cpu)
{
    int probed = 0;
    for (int64_t i = 0; i < cpu->nlayouts; i++)
        probed |= ha_ladder_probes(plan->ladder, cpu->layouts[i].nq, cpu->layouts[i].nk);
    if (!probed)
        return HYPERATTN_OK;
    cpu->probe = ha_alloc(plan->device->ctx, sizeof *cpu->probe);
    if (!cpu->probe)
        return HYPERATTN_ENOMEM;
    *cpu->probe = step_of(plan, plan->ladder->probe);
    return create(cpu->probe, cpu->group, HA_PROBE_ROWS);
}

/* What a plan that chooses needs of its steps. */
static hyperattn_status create_ladder(const ha_plan *plan, ha_cpu_plan *cpu)
{
    hyperattn_status status = create_steps(plan, cpu->group, &cpu->steps);
    if (!status)
        status = create_steps(plan, 1, &cpu->alone);
    return status ? status : create_probe(plan, cpu);
}

static hyperattn_status create(ha_plan *plan, int64_t group, int64_t tail)
{
    const hyperattn_problem *p = plan->problem;
    const ha_kernels *kernels = ha_cpu_kernels(plan);
    ha_cpu_plan *cpu = ha_alloc(plan->device->ctx, sizeof *cpu);
    if (!cpu)
        return HYPERATTN_ENOMEM;
    *cpu = (ha_cpu_plan){
        .problem = p,
        .params = plan->params,
        .kernels = kernels,
        .arith = p->dtype == HYPERATTN_BF16 && kernels->bf16 ? kernels->bf16 : &kernels->f32,
        .group = group,
        .nkey_heads = p->batch * (p->nheads / group),
        .ldproj = ha_round_up(plan->params->lsh_num_projs, kernels->f32.lanes),
        .tail = tail,
    };
    cpu->ldacc = ha_padded_columns(cpu->arith, p->head_dim_v);
    cpu->ldgrad = ha_padded_columns(cpu->arith, p->head_dim);
    plan->data = cpu;
    hyperattn_status status = build_layouts(plan, cpu);
    if (!status && plan->ladder)
        status = create_ladder(plan, cpu);
    if (!status) {
        choose_threads(plan, cpu);
        cpu->in_flight = heads_in_flight(plan, cpu);
        status = size_workspaces(plan, cpu);
    }
    if (status)
        ha_cpu_plan_destroy(plan);
    return status;
}

hyperattn_status ha_cpu_plan_create(ha_plan *plan)
{
    return create(plan, plan->problem->nheads / plan->problem->nheads_kv, 0);
}
