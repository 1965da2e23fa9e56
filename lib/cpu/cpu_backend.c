/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend: plans what a call needs and runs its stages.
 */
#include "cpu/cpu_backend.h"

#include <string.h>

#include "cpu/backward.h"
#include "cpu/call.h"
#include "cpu/exact.h"
#include "cpu/exact_blas.h"
#include "cpu/hyper.h"
#include "cpu/merge.h"
#include "int64.h"
#include "parallel.h"
#include "status.h"

/* Tasks that a thread should find between two barriers. */
#define TASKS_PER_THREAD 16

/* ---- device -------------------------------------------------------------------------------- */

static hyperattn_status cpu_open(ha_device *device)
{
    ha_cpu_device *cpu = ha_alloc(device->ctx, sizeof *cpu);
    if (!cpu)
        return HYPERATTN_ENOMEM;
    cpu->kernels = ha_kernels_best(&device->reason);
    device->isa = cpu->kernels->name;
    device->state = cpu;
    return HYPERATTN_OK;
}

static void cpu_close(ha_device *device)
{
    ha_free(device->ctx, device->state);
}

/* ---- plan ---------------------------------------------------------------------------------- */

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
    max->max_rects = ha_max(max->max_rects, l->max_rects);
    max->max_bounds = ha_max(max->max_bounds, l->max_bounds);
    max->max_tasks = ha_max(max->max_tasks, l->max_tasks);
    max->max_leaf_rows = ha_max(max->max_leaf_rows, l->max_leaf_rows);
    max->max_leaf_keys = ha_max(max->max_leaf_keys, l->max_leaf_keys);
    max->leaf_classes = ha_max(max->leaf_classes, l->leaf_classes);
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
        ha_sequence seq = ha_plan_sequence(plan, i);
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

/* Units in flight: enough for every thread to find work, no more, to keep the workspace small. */
static int64_t units_in_flight(const ha_plan *plan, const ha_cpu_plan *cpu)
{
    int64_t tasks = ha_max(1, cpu->max.nq / HA_TASK_ROWS) * cpu->group;
    int64_t wanted = (TASKS_PER_THREAD * (int64_t)plan->device->nthreads + tasks - 1) / tasks;
    return wanted < cpu->units ? wanted : cpu->units;
}

static void cpu_unplan(ha_plan *plan)
{
    ha_cpu_plan *cpu = plan->data;
    for (int64_t i = 0; cpu->layouts && i < cpu->nlayouts; i++)
        ha_free(plan->device->ctx, cpu->layouts[i].wave);
    ha_free(plan->device->ctx, cpu->layouts);
    ha_free(plan->device->ctx, cpu);
    plan->data = NULL;
}

static hyperattn_status cpu_plan(ha_plan *plan)
{
    const hyperattn_problem *p = plan->problem;
    const ha_kernels *kernels = ha_cpu_kernels(plan);
    ha_cpu_plan *cpu = ha_alloc(plan->device->ctx, sizeof *cpu);
    if (!cpu)
        return HYPERATTN_ENOMEM;
    *cpu = (ha_cpu_plan){
        .arith = p->dtype == HYPERATTN_BF16 && kernels->bf16 ? kernels->bf16 : &kernels->f32,
        .group = p->nheads / p->nheads_kv,
        .units = p->batch * p->nheads_kv,
        .ldproj = ha_round_up(plan->params->lsh_num_projs, kernels->f32.lanes),
    };
    cpu->ldacc = ha_padded_columns(cpu->arith, p->head_dim_v);
    cpu->ldgrad = ha_padded_columns(cpu->arith, p->head_dim);
    plan->data = cpu;
    hyperattn_status status = build_layouts(plan, cpu);
    if (!status) {
        int forward_wraps, backward_wraps;
        ha_run sizing;
        cpu->in_flight = units_in_flight(plan, cpu);
        ha_backward_plan(plan, cpu);
        plan->workspace = ha_call_carve(NULL, plan, cpu, &sizing, 0, &forward_wraps);
        plan->workspace_backward = ha_call_carve(NULL, plan, cpu, &sizing, 1, &backward_wraps);
        if (forward_wraps || backward_wraps)
            status = ha_fail(HYPERATTN_EINVAL,
                             "the workspace for seqlen_q %lld, seqlen_k %lld wraps",
                             (long long)p->seqlen_q, (long long)p->seqlen_k);
    }
    if (status)
        cpu_unplan(plan);
    return status;
}

/* ---- forward ------------------------------------------------------------------------------- */

static void run_units(ha_run *run)
{
    const ha_layout *max = &run->cpu->max;
    if (max->nwaves)
        ha_hyper_hash(run);
    for (run->wave = 0; run->wave < max->nwaves; run->wave++) {
        ha_hyper_sort(run);
        ha_hyper_attend(run, !max->nleaves);
    }
    if (max->nleaves && ha_exact_blas_serves(run->plan))
        ha_exact_blas(run);
    else if (max->nleaves) {
        ha_exact_pack(run);
        ha_exact_leaves(run);
    }
}

static void book_profile(const ha_run *run)
{
    const ha_plan *plan = run->plan;
    for (int i = 0; plan->profile && i < plan->device->nthreads; i++)
        for (int stage = 0; stage < HA_STAGES; stage++)
            plan->profile->seconds[stage] += run->scratch[i].seconds[stage];
}

/* Units of the round that begins with unit `first`. */
static int64_t units_from(const ha_cpu_plan *cpu, int64_t first)
{
    int64_t left = cpu->units - first;
    return left < cpu->in_flight ? left : cpu->in_flight;
}

static hyperattn_status cpu_forward(const ha_plan *plan, const ha_tensors *t,
                                    void *workspace)
{
    const ha_cpu_plan *cpu = plan->data;
    ha_run run = {.plan = plan, .cpu = cpu};
    int wraps;
    ha_call_carve(workspace, plan, cpu, &run, 0, &wraps);
    for (int64_t first = 0; first < cpu->units; first += cpu->in_flight) {
        run.nunits = units_from(cpu, first);
        for (int64_t i = 0; i < run.nunits; i++)
            ha_call_aim_forward(&run, t, &run.units[i], first + i);
        run_units(&run);
    }
    book_profile(&run);
    return HYPERATTN_OK;
}

static hyperattn_status cpu_backward(const ha_plan *plan, const ha_gradients *t,
                                     void *workspace)
{
    const ha_cpu_plan *cpu = plan->data;
    ha_run run = {.plan = plan, .cpu = cpu};
    int wraps;
    ha_call_carve(workspace, plan, cpu, &run, 1, &wraps);
    for (int64_t first = 0; first < cpu->units; first += cpu->in_flight) {
        run.nunits = units_from(cpu, first);
        for (int64_t i = 0; i < run.nunits; i++)
            ha_call_aim_backward(&run, t, &run.units[i], first + i);
        ha_backward_units(&run);
    }
    book_profile(&run);
    return HYPERATTN_OK;
}

const ha_backend ha_backend_cpu = {
    .abi_version = HA_BACKEND_ABI,
    .struct_size = sizeof(ha_backend),
    .name = "cpu",
    .workspace = HA_MEMORY_HOST,
    .open = cpu_open,
    .close = cpu_close,
    .plan = cpu_plan,
    .unplan = cpu_unplan,
    .forward = cpu_forward,
    .backward = cpu_backward,
    .merge = ha_merge,
};
