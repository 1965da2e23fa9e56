/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend: plans what a call needs, lays out its workspace and runs the stages.
 */
#include <string.h>

#include "backend.h"
#include "cpu/cap.h"
#include "cpu/exact.h"
#include "cpu/exact_blas.h"
#include "cpu/hyper.h"
#include "cpu/merge.h"
#include "int64.h"
#include "parallel.h"
#include "status.h"

/* Tasks that a thread should find between two barriers. */
#define TASKS_PER_THREAD 16

/* ---- plan ---------------------------------------------------------------------------------- */

static hyperattn_status build_layout(const hyperattn_plan *plan, ha_layout *l)
{
    ha_layout_build(l, &plan->params, plan->problem.causal);
    ha_carver carver = {0};
    for (int pass = 0; pass < 2; pass++) {
        l->wave = ha_carve(&carver, l->nwaves + 1, sizeof *l->wave);
        l->rects = ha_carve(&carver, l->nrects, sizeof *l->rects);
        l->leaves = ha_carve(&carver, l->nleaves, sizeof *l->leaves);
        if (carver.wraps)
            return ha_fail(HYPERATTN_EINVAL, "seqlen_q %lld at min_seq_len %d: the task list wraps",
                           (long long)l->nq, plan->params.min_seq_len);
        if (pass == 0) {
            carver = (ha_carver){.base = ha_alloc(plan->ctx, carver.used)};
            if (!carver.base)
                return HYPERATTN_ENOMEM;
        }
    }
    ha_layout_build(l, &plan->params, plan->problem.causal);
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
}

static hyperattn_status build_layouts(const hyperattn_plan *plan, ha_cpu_plan *cpu)
{
    cpu->nlayouts = plan->problem.cu_seqlens_q ? plan->problem.batch : 1;
    ha_carver size = {0};
    ha_carve(&size, cpu->nlayouts, sizeof *cpu->layouts);
    if (size.wraps)
        return ha_fail(HYPERATTN_EINVAL, "batch is %lld: its task lists wrap",
                       (long long)cpu->nlayouts);
    cpu->layouts = ha_alloc(plan->ctx, size.used);
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

/* ---- workspace ----------------------------------------------------------------------------- */

static void carve_hash(ha_carver *c, const hyperattn_plan *plan, const ha_cpu_plan *cpu, ha_unit *u)
{
    const hyperattn_params *p = &plan->params;
    const ha_layout *max = &cpu->max;
    int sorted = ha_is_sorted(p);
    int64_t nq = sorted ? cpu->group * max->nq : 0, nk = sorted ? max->nk : 0;
    u->directions = ha_carve(c, sorted ? (int64_t)ha_k_bytes(&plan->ctx->kernels->f32, HA_MAX_PROJS,
                                                             plan->problem.head_dim) : 0, 1);
    u->qproj = ha_carve(c, nq * cpu->ldproj, sizeof *u->qproj);
    u->kproj = ha_carve(c, nk * cpu->ldproj, sizeof *u->kproj);
    u->qrank = ha_carve(c, nq, sizeof *u->qrank);
    u->krank = ha_carve(c, nk, sizeof *u->krank);
    u->qorder = ha_carve(c, nq, sizeof *u->qorder);
    u->korder = ha_carve(c, nk, sizeof *u->korder);
    u->bounds = ha_carve(c, cpu->group * max->max_bounds, sizeof *u->bounds);
    u->tau = ha_carve(c, cpu->group * max->max_rects * ha_cap_tiles(p, cpu->arith), sizeof *u->tau);
    if (p->sampling == HYPERATTN_VNORM) {
        u->vnorm = ha_carve(c, max->nk, sizeof *u->vnorm);
        u->mass = ha_carve(c, max->nk, sizeof *u->mass);
    }
}

static void carve_unit(ha_carver *c, const hyperattn_plan *plan, const ha_cpu_plan *cpu, ha_unit *u)
{
    const hyperattn_problem *p = &plan->problem;
    const ha_layout *max = &cpu->max;
    u->q = ha_carve(c, cpu->group, sizeof *u->q);
    u->out = ha_carve(c, cpu->group, sizeof *u->out);
    u->lse = ha_carve(c, cpu->group, sizeof *u->lse);
    if (max->nwaves)
        carve_hash(c, plan, cpu, u);
    if (max->nwaves && max->nleaves) {
        u->m = ha_carve(c, cpu->group * max->nq, sizeof *u->m);
        u->l = ha_carve(c, cpu->group * max->nq, sizeof *u->l);
        u->acc = ha_carve(c, cpu->group * max->nq * cpu->ldacc, sizeof *u->acc);
    }
    if (max->nleaves && !ha_exact_blas_serves(plan)) {
        int64_t nk = ha_round_up(max->nk, HA_SPLIT);
        u->kpack = ha_carve(c, (int64_t)ha_k_bytes(cpu->arith, nk, p->head_dim), 1);
        u->vpack = ha_carve(c, (int64_t)ha_v_bytes(cpu->arith, nk, p->head_dim_v), 1);
        u->finite = ha_carve(c, nk / HA_SPLIT, 1);
    }
}

static void carve_scratch(ha_carver *c, const hyperattn_plan *plan, const ha_cpu_plan *cpu,
                          ha_scratch *s)
{
    const hyperattn_problem *p = &plan->problem;
    const ha_arith *a = cpu->arith, *f32 = &plan->ctx->kernels->f32;
    int64_t rows = ha_task_rows_padded(a), wide = ha_max(p->head_dim, p->head_dim_v);
    int64_t directions = HA_MAX_PROJS * p->head_dim; /* made in acc */
    s->q = ha_carve(c, rows * ha_round_up(wide, f32->lanes), sizeof(float));
    s->m = ha_carve(c, rows, sizeof *s->m);
    s->l = ha_carve(c, rows, sizeof *s->l);
    s->acc = ha_carve(c, ha_max(rows * cpu->ldacc, directions), sizeof *s->acc);
    s->cap = ha_carve(c, rows, sizeof *s->cap);
    s->block_sum = ha_carve(c, rows, sizeof *s->block_sum);
    s->inv = ha_carve(c, rows, sizeof *s->inv);
    s->kpack = ha_carve(c, (int64_t)ha_k_bytes(a, HA_TASK_KEYS, p->head_dim), 1);
    s->vpack = ha_carve(c, (int64_t)ha_v_bytes(a, HA_TASK_KEYS, p->head_dim_v), 1);
    for (int i = 0; i < 3; i++) {
        s->columns[i].key = ha_carve(c, HA_TASK_KEYS, sizeof *s->columns[i].key);
        s->columns[i].logw = ha_carve(c, HA_TASK_KEYS, sizeof *s->columns[i].logw);
    }
    s->ahead = ha_carve(c, HA_TASK_AHEAD, sizeof *s->ahead);
    s->limit = ha_carve(c, rows, sizeof *s->limit);
    s->tile = ha_carve(c, ha_exact_blas_serves(plan) ? ha_exact_blas_scratch(cpu->ldacc)
                                                     : ha_tile_scratch(a), sizeof *s->tile);
    if (cpu->max.nwaves) /* ends of buckets, then the block of each, under strict_causal */
        s->counts = ha_carve(c, 2 * ((int64_t)1 << plan->params.lsh_num_projs) + 1,
                             sizeof *s->counts);
}

/* Lays out a call's workspace, or counts its bytes where base is NULL. */
static size_t carve(void *base, const hyperattn_plan *plan, const ha_cpu_plan *cpu, ha_run *run,
                    int *wraps)
{
    ha_carver c = {.base = base};
    int64_t nthreads = plan->ctx->nthreads;
    run->units = ha_carve(&c, cpu->in_flight, sizeof *run->units);
    run->scratch = ha_carve(&c, nthreads, sizeof *run->scratch);
    run->tasks = ha_carve(&c, cpu->in_flight * cpu->group * cpu->max.max_tasks, sizeof *run->tasks);
    if (base) {
        memset(run->units, 0, (size_t)cpu->in_flight * sizeof *run->units);
        memset(run->scratch, 0, (size_t)nthreads * sizeof *run->scratch);
    }
    for (int64_t i = 0; i < cpu->in_flight; i++) {
        ha_unit sizing = {0};
        carve_unit(&c, plan, cpu, base ? &run->units[i] : &sizing);
    }
    for (int64_t i = 0; i < nthreads; i++) {
        ha_scratch sizing = {0};
        carve_scratch(&c, plan, cpu, base ? &run->scratch[i] : &sizing);
    }
    *wraps = c.wraps;
    return c.used;
}

/* Units in flight: enough for every thread to find work, no more, to keep the workspace small. */
static int64_t units_in_flight(const hyperattn_plan *plan, const ha_cpu_plan *cpu)
{
    int64_t tasks = ha_max(1, cpu->max.nq / HA_TASK_ROWS) * cpu->group;
    int64_t wanted = (TASKS_PER_THREAD * (int64_t)plan->ctx->nthreads + tasks - 1) / tasks;
    return wanted < cpu->units ? wanted : cpu->units;
}

static void cpu_destroy(hyperattn_plan *plan)
{
    ha_cpu_plan *cpu = plan->backend_data;
    for (int64_t i = 0; cpu->layouts && i < cpu->nlayouts; i++)
        ha_free(plan->ctx, cpu->layouts[i].wave);
    ha_free(plan->ctx, cpu->layouts);
    ha_free(plan->ctx, cpu);
    plan->backend_data = NULL;
}

static hyperattn_status cpu_plan(hyperattn_plan *plan)
{
    const hyperattn_problem *p = &plan->problem;
    const ha_kernels *kernels = plan->ctx->kernels;
    ha_cpu_plan *cpu = ha_alloc(plan->ctx, sizeof *cpu);
    if (!cpu)
        return HYPERATTN_ENOMEM;
    *cpu = (ha_cpu_plan){
        .arith = p->dtype == HYPERATTN_BF16 && kernels->bf16 ? kernels->bf16 : &kernels->f32,
        .group = p->nheads / p->nheads_kv,
        .units = p->batch * p->nheads_kv,
        .ldproj = ha_round_up(plan->params.lsh_num_projs, kernels->f32.lanes),
    };
    cpu->ldacc = ha_padded_dv(cpu->arith, p->head_dim_v);
    plan->backend_data = cpu;
    hyperattn_status status = build_layouts(plan, cpu);
    if (!status) {
        int wraps;
        ha_run sizing;
        cpu->in_flight = units_in_flight(plan, cpu);
        plan->workspace = carve(NULL, plan, cpu, &sizing, &wraps);
        if (wraps)
            status = ha_fail(HYPERATTN_EINVAL, "the workspace for seqlen_q %lld, seqlen_k %lld wraps",
                             (long long)p->seqlen_q, (long long)p->seqlen_k);
    }
    if (status)
        cpu_destroy(plan);
    return status;
}

/* ---- forward ------------------------------------------------------------------------------- */

static const void *offset(const void *base, int64_t elements, hyperattn_dtype dtype)
{
    return (const char *)base + elements * (dtype == HYPERATTN_F32 ? 4 : 2);
}

/* Points a unit at key head `number` of the batch. */
static void aim(const hyperattn_plan *plan, const ha_cpu_plan *cpu, const ha_tensors *t, ha_unit *u,
                int64_t number)
{
    const hyperattn_problem *p = &plan->problem;
    int64_t b = number / p->nheads_kv, kv = number % p->nheads_kv;
    ha_sequence seq = ha_plan_sequence(plan, b);
    u->layout = &cpu->layouts[cpu->nlayouts > 1 ? b : 0];
    u->head0 = b * p->nheads + kv * cpu->group;
    u->id = (uint32_t)number;
    u->k = (ha_rows){.base = offset(t->k, seq.k + kv * p->k_stride[1], p->dtype),
                     .stride = p->k_stride[2], .dtype = p->dtype};
    u->v = (ha_rows){.base = offset(t->v, seq.v + kv * p->v_stride[1], p->dtype),
                     .stride = p->v_stride[2], .dtype = p->dtype};
    for (int64_t g = 0; g < cpu->group; g++) {
        int64_t head = kv * cpu->group + g;
        u->q[g] = (ha_rows){.base = offset(t->q, seq.q + head * p->q_stride[1], p->dtype),
                            .stride = p->q_stride[2], .dtype = p->dtype};
        int64_t out = (seq.out + head * p->out_stride[1]) * (p->dtype == HYPERATTN_F32 ? 4 : 2);
        u->out[g] = (ha_out_rows){.base = (char *)t->out + out, .stride = p->out_stride[2],
                                  .dtype = p->dtype};
        u->lse[g] = t->lse ? t->lse + seq.lse + head * seq.lse_head : NULL;
    }
}

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

static hyperattn_status cpu_forward(const hyperattn_plan *plan, const ha_tensors *t, void *workspace)
{
    const ha_cpu_plan *cpu = plan->backend_data;
    ha_run run = {.plan = plan, .cpu = cpu};
    int wraps;
    carve(workspace, plan, cpu, &run, &wraps);
    for (int64_t first = 0; first < cpu->units; first += cpu->in_flight) {
        int64_t left = cpu->units - first;
        run.nunits = left < cpu->in_flight ? left : cpu->in_flight;
        for (int64_t i = 0; i < run.nunits; i++)
            aim(plan, cpu, t, &run.units[i], first + i);
        run_units(&run);
    }
    for (int i = 0; plan->profile && i < plan->ctx->nthreads; i++)
        for (int stage = 0; stage < HA_STAGES; stage++)
            plan->profile->seconds[stage] += run.scratch[i].seconds[stage];
    return HYPERATTN_OK;
}

const ha_backend ha_backend_cpu = {
    .abi_version = HA_BACKEND_ABI,
    .struct_size = sizeof(ha_backend),
    .name = "cpu",
    .plan = cpu_plan,
    .forward = cpu_forward,
    .merge = ha_merge,
    .destroy = cpu_destroy,
};
