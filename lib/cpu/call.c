/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/call.h"

#include <string.h>

#include "cpu/backward.h"
#include "cpu/cap.h"
#include "cpu/exact_blas.h"
#include "cpu/walk.h"
#include "int64.h"

/* ---- workspace ----------------------------------------------------------------------------- */

static void carve_hash(ha_carver *c, const ha_plan *plan, const ha_cpu_plan *cpu, ha_unit *u)
{
    const hyperattn_params *p = plan->params;
    const ha_layout *max = &cpu->max;
    int sorted = ha_is_sorted(p);
    int64_t nq = sorted ? cpu->group * max->nq : 0, nk = sorted ? max->nk : 0;
    u->directions = ha_carve(c, sorted ? (int64_t)ha_k_bytes(&ha_cpu_kernels(plan)->f32,
                                                             HA_MAX_PROJS,
                                                             plan->problem->head_dim) : 0, 1);
    u->qproj = ha_carve(c, nq * cpu->ldproj, sizeof *u->qproj);
    u->kproj = ha_carve(c, nk * cpu->ldproj, sizeof *u->kproj);
    u->qrank = ha_carve(c, nq, sizeof *u->qrank);
    u->krank = ha_carve(c, nk, sizeof *u->krank);
    u->qorder = ha_carve(c, nq, sizeof *u->qorder);
    u->korder = ha_carve(c, nk, sizeof *u->korder);
    u->bounds = ha_carve(c, cpu->group * max->max_bounds, sizeof *u->bounds);
    u->tau = ha_carve(c, cpu->group * max->max_rects * ha_cap_tiles(p, cpu->arith), sizeof *u->tau);
    if (p->sampling == HYPERATTN_SAMPLING_VNORM) {
        u->vnorm = ha_carve(c, max->nk, sizeof *u->vnorm);
        u->mass = ha_carve(c, max->nk, sizeof *u->mass);
    }
}

/* Row states and packs of forward. */
static void carve_states(ha_carver *c, const ha_plan *plan, const ha_cpu_plan *cpu,
                         ha_unit *u)
{
    const hyperattn_problem *p = plan->problem;
    const ha_layout *max = &cpu->max;
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

/* Sums of backward. */
static void carve_gradients(ha_carver *c, const ha_cpu_plan *cpu, ha_unit *u)
{
    int64_t nq = cpu->group * cpu->max.nq, nk = cpu->max.nk;
    u->o = ha_carve(c, cpu->group, sizeof *u->o);
    u->dout = ha_carve(c, cpu->group, sizeof *u->dout);
    u->dq = ha_carve(c, cpu->group, sizeof *u->dq);
    u->lse_given = ha_carve(c, cpu->group, sizeof *u->lse_given);
    u->lse2 = ha_carve(c, nq, sizeof *u->lse2);
    u->delta = ha_carve(c, nq, sizeof *u->delta);
    u->gq = ha_carve(c, cpu->one_wave ? 0 : cpu->row_copies * nq * cpu->ldgrad, sizeof *u->gq);
    u->gk = ha_carve(c, cpu->key_copies * nk * cpu->ldgrad, sizeof *u->gk);
    u->gv = ha_carve(c, cpu->key_copies * nk * cpu->ldacc, sizeof *u->gv);
    u->progress = ha_carve(c, ha_backward_progress(cpu), sizeof *u->progress);
}

static void carve_unit(ha_carver *c, const ha_plan *plan, const ha_cpu_plan *cpu, ha_unit *u,
                       int backward)
{
    u->q = ha_carve(c, cpu->group, sizeof *u->q);
    u->out = ha_carve(c, cpu->group, sizeof *u->out);
    u->lse = ha_carve(c, cpu->group, sizeof *u->lse);
    if (cpu->max.nwaves)
        carve_hash(c, plan, cpu, u);
    if (backward)
        carve_gradients(c, cpu, u);
    else
        carve_states(c, plan, cpu, u);
}

static void carve_scratch(ha_carver *c, const ha_plan *plan, const ha_cpu_plan *cpu,
                          ha_scratch *s)
{
    const hyperattn_problem *p = plan->problem;
    const ha_arith *a = cpu->arith, *f32 = &ha_cpu_kernels(plan)->f32;
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
        s->counts = ha_carve(c, 2 * ((int64_t)1 << plan->params->lsh_num_projs) + 1,
                             sizeof *s->counts);
}

static void carve_grad_scratch(ha_carver *c, const ha_plan *plan, const ha_cpu_plan *cpu,
                               ha_scratch *s)
{
    const ha_arith *a = cpu->arith;
    int64_t d = plan->problem->head_dim, dv = plan->problem->head_dim_v;
    int64_t rows = ha_round_up(HA_GRAD_ROWS, a->mr), keys = HA_TASK_KEYS;
    s->rows_q = ha_carve(c, rows * ha_ldq(a, d), sizeof(float));
    s->rows_dout = ha_carve(c, rows * ha_ldq(a, dv), sizeof(float));
    s->rows_q_sum = ha_carve(c, (int64_t)ha_v_bytes(a, rows, d), 1);
    s->rows_dout_sum = ha_carve(c, (int64_t)ha_v_bytes(a, rows, dv), 1);
    s->keys_k = ha_carve(c, (int64_t)ha_k_bytes(a, keys, d), 1);
    s->keys_v = ha_carve(c, (int64_t)ha_k_bytes(a, keys, dv), 1);
    s->keys_k_sum = ha_carve(c, (int64_t)ha_v_bytes(a, keys, d), 1);
    s->logw = ha_carve(c, keys, sizeof *s->logw);
    s->lse = ha_carve(c, rows, sizeof *s->lse);
    s->delta = ha_carve(c, rows, sizeof *s->delta);
    s->capped = ha_carve(c, rows, sizeof *s->capped);
    s->dq = ha_carve(c, HA_TASK_ROWS * cpu->ldgrad, sizeof *s->dq);
    s->grad_tile = ha_carve(c, a->grad_scratch, sizeof *s->grad_tile);
    s->grad_limit = ha_carve(c, a->gr, sizeof *s->grad_limit);
    s->found = ha_carve(c, cpu->task_columns + 1, sizeof *s->found);
}

size_t ha_call_carve(void *base, const ha_plan *plan, const ha_cpu_plan *cpu, ha_run *run,
                     int backward, int *wraps)
{
    ha_carver c = {.base = base};
    int64_t nthreads = plan->device->nthreads;
    run->units = ha_carve(&c, cpu->in_flight, sizeof *run->units);
    run->scratch = ha_carve(&c, nthreads, sizeof *run->scratch);
    run->tasks = ha_carve(&c, cpu->in_flight * cpu->group * cpu->max.max_tasks, sizeof *run->tasks);
    if (base) {
        memset(run->units, 0, (size_t)cpu->in_flight * sizeof *run->units);
        memset(run->scratch, 0, (size_t)nthreads * sizeof *run->scratch);
    }
    for (int64_t i = 0; i < cpu->in_flight; i++) {
        ha_unit sizing = {0};
        carve_unit(&c, plan, cpu, base ? &run->units[i] : &sizing, backward);
    }
    for (int64_t i = 0; i < nthreads; i++) {
        ha_scratch sizing = {0}, *s = base ? &run->scratch[i] : &sizing;
        carve_scratch(&c, plan, cpu, s);
        if (backward)
            carve_grad_scratch(&c, plan, cpu, s);
    }
    if (backward && cpu->max.nwaves)
        ha_backward_carve_slots(&c, cpu, run);
    *wraps = c.wraps;
    return c.used;
}

/* ---- tensors ------------------------------------------------------------------------------- */

static const void *offset(const void *base, int64_t elements, hyperattn_dtype dtype)
{
    return (const char *)base + elements * (dtype == HYPERATTN_F32 ? 4 : 2);
}

static ha_rows rows_of(const void *base, int64_t first, int64_t stride, hyperattn_dtype dtype)
{
    return (ha_rows){.base = offset(base, first, dtype), .stride = stride, .dtype = dtype};
}

static ha_out_rows out_rows_of(void *base, int64_t first, int64_t stride, hyperattn_dtype dtype)
{
    int64_t bytes = first * (dtype == HYPERATTN_F32 ? 4 : 2);
    return (ha_out_rows){.base = (char *)base + bytes, .stride = stride, .dtype = dtype};
}

/* Where key head `number` of the batch lies, and the first of its query heads. */
typedef struct place {
    ha_sequence seq;
    int64_t kv, head;
} place;

static place place_of(const ha_plan *plan, const ha_cpu_plan *cpu, int64_t number)
{
    int64_t heads = plan->problem->nheads_kv;
    return (place){ha_plan_sequence(plan, number / heads), number % heads,
                   number % heads * cpu->group};
}

static void aim_inputs(const ha_plan *plan, const ha_cpu_plan *cpu, const void *q,
                       const void *k, const void *v, ha_unit *u, int64_t number)
{
    const hyperattn_problem *p = plan->problem;
    const place at = place_of(plan, cpu, number);
    int64_t b = number / p->nheads_kv;
    u->layout = &cpu->layouts[cpu->nlayouts > 1 ? b : 0];
    u->head0 = b * p->nheads + at.head;
    u->id = (uint32_t)number;
    u->k = rows_of(k, at.seq.k + at.kv * p->k_stride[1], p->k_stride[2], p->dtype);
    u->v = rows_of(v, at.seq.v + at.kv * p->v_stride[1], p->v_stride[2], p->dtype);
    for (int64_t g = 0; g < cpu->group; g++)
        u->q[g] = rows_of(q, at.seq.q + (at.head + g) * p->q_stride[1], p->q_stride[2], p->dtype);
}

void ha_call_aim_forward(const ha_run *run, const ha_tensors *t, ha_unit *u, int64_t number)
{
    const hyperattn_problem *p = run->plan->problem;
    const place at = place_of(run->plan, run->cpu, number);
    aim_inputs(run->plan, run->cpu, t->q, t->k, t->v, u, number);
    for (int64_t g = 0; g < run->cpu->group; g++) {
        int64_t head = at.head + g;
        u->out[g] = out_rows_of(t->out, at.seq.out + head * p->out_stride[1], p->out_stride[2],
                                p->dtype);
        u->lse[g] = t->lse ? t->lse + at.seq.lse + head * at.seq.lse_head : NULL;
    }
}

void ha_call_aim_backward(const ha_run *run, const ha_gradients *t, ha_unit *u, int64_t number)
{
    const hyperattn_problem *p = run->plan->problem;
    const place at = place_of(run->plan, run->cpu, number);
    aim_inputs(run->plan, run->cpu, t->q, t->k, t->v, u, number);
    u->dk = out_rows_of(t->dk, at.seq.k + at.kv * p->k_stride[1], p->k_stride[2], p->dtype);
    u->dv = out_rows_of(t->dv, at.seq.v + at.kv * p->v_stride[1], p->v_stride[2], p->dtype);
    for (int64_t g = 0; g < run->cpu->group; g++) {
        int64_t head = at.head + g, out = at.seq.out + head * p->out_stride[1];
        u->o[g] = rows_of(t->out, out, p->out_stride[2], p->dtype);
        u->dout[g] = rows_of(t->dout, out, p->out_stride[2], p->dtype);
        u->dq[g] = out_rows_of(t->dq, at.seq.q + head * p->q_stride[1], p->q_stride[2], p->dtype);
        u->lse_given[g] = t->lse + at.seq.lse + head * at.seq.lse_head;
    }
}
