/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/sums.h"

#include <math.h>
#include <string.h>

#include "cpu/backward_exact.h"
#include "cpu/clock.h"
#include "int64.h"

typedef struct stage {
    ha_call *call;
    const ha_sums *heads;
    float *const *factors;
} stage;

void ha_sums_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_sums **heads,
                   float ***factors)
{
    int64_t nq = plan->group * plan->max.nq, rows = 0, keys = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        const ha_layout *l = &plan->layouts[i];
        const ha_copies copies = ha_copies_of(plan, l);
        if (!ha_tasks_own_rows(l))
            rows = ha_max(rows, copies.rows * plan->group * l->nq);
        keys = ha_max(keys, copies.keys * l->nk);
    }
    *heads = ha_carve(c, plan->in_flight, sizeof **heads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_sums none, *s = c->base ? &(*heads)[i] : &none;
        s->lse_log2 = ha_carve(c, nq, sizeof *s->lse_log2);
        s->delta = ha_carve(c, nq, sizeof *s->delta);
        s->dq = ha_carve(c, rows * plan->ldgrad, sizeof *s->dq);
        s->dk = ha_carve(c, keys * plan->ldgrad, sizeof *s->dk);
        s->dv = ha_carve(c, keys * plan->ldacc, sizeof *s->dv);
    }
    *factors = ha_carve(c, nthreads, sizeof **factors);
    for (int i = 0; i < nthreads; i++) {
        float *none, **factor = c->base ? &(*factors)[i] : &none;
        *factor = ha_carve(c, HA_TASK_ROWS, sizeof **factor);
    }
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* Chunks of HA_TASK_ROWS rows: of the keys, then of each query head. */
static int64_t chunks(int64_t n)
{
    return (n + HA_TASK_ROWS - 1) / HA_TASK_ROWS;
}

static int64_t count_chunks(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    return chunks(l->nk) + st->call->plan->group * chunks(l->nq);
}

/* Some keys (head < 0) or rows of one head. */
typedef struct chunk {
    int64_t head, first, rows;
} chunk;

static chunk chunk_at(const ha_layout *l, int64_t item)
{
    int64_t keys = chunks(l->nk);
    chunk c = {-1, item * HA_TASK_ROWS, 0};
    if (item >= keys) {
        c.head = (item - keys) / chunks(l->nq);
        c.first = (item - keys) % chunks(l->nq) * HA_TASK_ROWS;
    }
    c.rows = ha_min(HA_TASK_ROWS, (c.head < 0 ? l->nk : l->nq) - c.first);
    return c;
}

/* ---- before ---------------------------------------------------------------------------------- */

/* Where no key was seen, an lse of +inf makes every weight 0. */
static void prepare_rows(const ha_cpu_plan *plan, const ha_key_head *kh, const ha_sums *s,
                         const chunk *c)
{
    int64_t row = c->head * kh->layout->nq + c->first;
    ha_rows o = ha_head_rows(&kh->o, c->head), dout = ha_head_rows(&kh->dout, c->head);
    o.first = dout.first = c->first;
    plan->kernels->dot_rows(s->delta + row, &o, &dout, c->rows, plan->problem->head_dim_v);
    const float *lse = kh->lse_given + c->head * kh->lse_step + c->first;
    for (int64_t i = 0; i < c->rows; i++)
        s->lse_log2[row + i] = lse[i] == -INFINITY ? INFINITY : lse[i] * HA_LOG2E;
}

static void prepare_chunk(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_sums *s = &st->heads[place];
    const ha_copies copies = ha_copies_of(plan, kh->layout);
    const chunk c = chunk_at(kh->layout, item);
    size_t wide = (size_t)(c.rows * plan->ldgrad) * sizeof(float);
    double start = ha_clock(st->call);
    if (c.head >= 0)
        prepare_rows(plan, kh, s, &c);
    for (int64_t copy = 0; c.head >= 0 && !ha_tasks_own_rows(kh->layout) && copy < copies.rows;
         copy++)
        memset(ha_sum_q(plan, kh, s, copy, c.head, c.first), 0, wide);
    for (int64_t copy = 0; c.head < 0 && copy < copies.keys; copy++) {
        memset(ha_sum_k(plan, kh, s, copy, c.first), 0, wide);
        memset(ha_sum_v(plan, kh, s, copy, c.first), 0,
               (size_t)(c.rows * plan->ldacc) * sizeof(float));
    }
    ha_clock_add(st->call, thread, HA_STAGE_STATE, start);
}

void ha_sums_prepare(ha_call *call, const ha_sums *heads)
{
    stage st = {call, heads, NULL};
    ha_for_items(call, count_chunks, prepare_chunk, &st);
}

/* ---- after ----------------------------------------------------------------------------------- */

/* Rows of sums in several copies, which become rows of a tensor. */
typedef struct copied {
    float *first;
    int64_t copies, apart; /* and floats between them */
    int64_t ld, columns;
} copied;

static void store(const ha_cpu_plan *plan, ha_out_rows to, const chunk *c, const copied *from,
                  const float *factor)
{
    for (int64_t copy = 1; copy < from->copies; copy++)
        for (int64_t x = 0; x < c->rows * from->ld; x++)
            from->first[x] += from->first[copy * from->apart + x];
    to.first = c->first;
    plan->kernels->store_rows(&to, from->first, from->ld, factor, c->rows, from->columns);
}

static void fill(float *factor, float value)
{
    for (int64_t i = 0; i < HA_TASK_ROWS; i++)
        factor[i] = value;
}

static void finish_chunk(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_layout *l = kh->layout;
    const hyperattn_problem *p = plan->problem;
    const ha_sums *s = &st->heads[place];
    const ha_copies copies = ha_copies_of(plan, l);
    const chunk c = chunk_at(l, item);
    float *factor = st->factors[thread];
    double start = ha_clock(st->call);
    fill(factor, p->softmax_scale);
    if (c.head >= 0 && !ha_tasks_own_rows(l)) {
        const copied dq = {ha_sum_q(plan, kh, s, 0, c.head, c.first), copies.rows,
                           plan->group * l->nq * plan->ldgrad, plan->ldgrad, p->head_dim};
        store(plan, ha_head_out(&kh->dq, c.head), &c, &dq, factor);
    } else if (c.head < 0) {
        const copied dk = {ha_sum_k(plan, kh, s, 0, c.first), copies.keys, l->nk * plan->ldgrad,
                           plan->ldgrad, p->head_dim};
        const copied dv = {ha_sum_v(plan, kh, s, 0, c.first), copies.keys, l->nk * plan->ldacc,
                           plan->ldacc, p->head_dim_v};
        store(plan, kh->dk, &c, &dk, factor);
        fill(factor, 1);
        store(plan, kh->dv, &c, &dv, factor);
    }
    ha_clock_add(st->call, thread, HA_STAGE_STATE, start);
}

void ha_sums_finish(ha_call *call, const ha_sums *heads, float *const *factors)
{
    stage st = {call, heads, factors};
    ha_for_items(call, count_chunks, finish_chunk, &st);
}
