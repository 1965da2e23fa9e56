/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/backward_hyper.h"

#include <math.h>
#include <string.h>

#include "cpu/clock.h"
#include "cpu/grad.h"
#include "int64.h"

/* Columns of a round of tasks, so that a few rounds' gradients stay in a cache; but as many tasks
 * as threads need. */
#define ROUND_COLUMNS 16384

/* Sets of slots: a round's are summed while the next is at work, and the one after that begins. */
#define SETS 3

/* One thread's buffers. */
typedef struct ha_grad_thread {
    ha_grad grad;
    ha_picks picks;
    float *dq, *factor; /* [rows of a task][ldgrad], [rows of a task] */
    uint32_t *found;    /* [columns of a task + 1] */
    /* with kappa_cap: */
    ha_softmax rows;
    ha_key_pack pack;
    ha_cap cap;
} ha_grad_thread;

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Most keys of the predefined mask's blocks for one query block. */
static int64_t mask_columns(const ha_cpu_plan *plan)
{
    const hyperattn_block_mask *mask = plan->params->block_mask;
    int64_t rows = 1 + (plan->problem->seqlen_q - 1) / mask->query_block, most = 0;
    rows *= mask->per_head ? plan->problem->nheads : 1;
    for (int64_t i = 0; i < rows; i++)
        most = ha_max(most, mask->row_start[i + 1] - mask->row_start[i]);
    int64_t blocks = 1 + (plan->problem->seqlen_k - 1) / mask->key_block;
    return most < blocks ? most * mask->key_block : plan->problem->seqlen_k;
}

static int64_t most_tasks(const ha_cpu_plan *plan)
{
    return plan->in_flight * plan->group * plan->max.max_tasks;
}

/* Not more slots than there are tasks to fill them. */
static void size_slots(const ha_cpu_plan *plan, int nthreads, ha_slots *slots)
{
    const hyperattn_params *p = plan->params;
    int64_t columns = p->block_mask ? mask_columns(plan) : p->block_size;
    columns += (int64_t)p->num_sinks + p->window + p->sample_size;
    slots->columns = ha_min(columns, plan->max.nk);
    slots->round = ha_max(ROUND_COLUMNS / ha_max(1, slots->columns), 2 * (int64_t)nthreads);
    slots->round = ha_max(1, ha_min(slots->round, most_tasks(plan)));
    slots->parts = 2 * (int64_t)nthreads;
}

static int64_t tasks_kept(const ha_cpu_plan *plan, const ha_slots *slots)
{
    return ha_min(SETS * slots->round, ha_round_up(most_tasks(plan), slots->round));
}

static void carve_slots(ha_carver *c, const ha_cpu_plan *plan, ha_slots *slots)
{
    int64_t kept = tasks_kept(plan, slots), columns = kept * slots->columns;
    slots->done = ha_carve(c, most_tasks(plan) / slots->round + 1, sizeof *slots->done);
    slots->summed = ha_carve(c, plan->in_flight * slots->parts, sizeof *slots->summed);
    slots->used = ha_carve(c, kept, sizeof *slots->used);
    slots->key = ha_carve(c, columns, sizeof *slots->key);
    slots->sums = (ha_column_sums){
        .dk = ha_carve(c, columns * plan->ldgrad, sizeof *slots->sums.dk),
        .dv = ha_carve(c, columns * plan->ldacc, sizeof *slots->sums.dv),
        .ldk = plan->ldgrad,
        .ldv = plan->ldacc,
    };
}

void ha_backward_hyper_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                             ha_backward_hyper *b)
{
    int capped = plan->params->kappa_cap > 0;
    int64_t rows = ha_rows_held(plan, HA_TASK_ROWS);
    size_slots(plan, nthreads, &b->slots);
    carve_slots(c, plan, &b->slots);
    b->threads = ha_carve(c, nthreads, sizeof *b->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_grad_thread none, *t = c->base ? &b->threads[i] : &none;
        ha_grad_carve(c, plan, &t->grad);
        ha_picks_carve(c, plan, &t->picks);
        t->dq = ha_carve(c, rows * plan->ldgrad, sizeof *t->dq);
        t->factor = ha_carve(c, rows, sizeof *t->factor);
        t->found = ha_carve(c, b->slots.columns + 1, sizeof *t->found);
        ha_cap_carve(c, plan, &t->cap);
        if (!capped)
            continue;
        ha_softmax_carve(c, plan, &t->rows, rows);
        ha_key_pack_carve(c, plan, &t->pack);
    }
}

/* ---- a task ---------------------------------------------------------------------------------- */

/* What threads do in turn: the tasks of a round, then the sums of the round before it, each key
 * head's keys in several parts. */
typedef struct stage {
    ha_call *call;
    const ha_backward_hyper *b;
    const ha_wave *wave;
    const ha_sums *sums;
} stage;

/* A task at work: `used` slots of its own, which begin at `slot`, are taken already. */
typedef struct job {
    const stage *st;
    ha_grad_thread *t;
    const ha_task *task;
    ha_query_rows at;
    int64_t slot, used;
} job;

/* A batch of columns. */
static void run_columns(job *j, const ha_columns *c, const float *cap)
{
    const ha_cpu_plan *plan = j->st->call->plan;
    const ha_slots *slots = &j->st->b->slots;
    int64_t first = j->slot + j->used, padded = ha_round_up(c->n, plan->arith->nr);
    for (int64_t x = c->n; x < padded; x++)
        c->logw[x] = -INFINITY;
    ha_grad_pack_keys(plan, &j->t->grad, &c->k, &c->v, c->n);
    memcpy(slots->key + first, c->k.index, (size_t)c->n * sizeof *slots->key);
    const ha_grad_block block = {
        .rows = j->at.rows,
        .keys = c->n,
        .logw = c->logw,
        .cap = cap,
        .dq = j->t->dq,
        .dk = slots->sums.dk + first * slots->sums.ldk,
        .dv = slots->sums.dv + first * slots->sums.ldv,
    };
    memset(block.dk, 0, (size_t)(c->n * slots->sums.ldk) * sizeof *block.dk);
    memset(block.dv, 0, (size_t)(c->n * slots->sums.ldv) * sizeof *block.dv);
    ha_grad_tiles(plan, &j->t->grad, &block);
    j->used += c->n;
}

/* The task's columns of one kind, or all (only < 0). */
static void run_kind(job *j, int only, const float *cap)
{
    const stage *st = j->st;
    ha_picker picker = ha_task_picker(st->call, st->wave, j->task);
    while (ha_pick(&picker, &j->t->picks)) {
        const ha_columns c = ha_columns_picked(j->at.kh, &j->t->picks);
        if (only < 0 || (int)c.kind == only)
            run_columns(j, &c, c.kind == HA_SAMPLED_COLUMNS ? cap : NULL);
    }
}

/* The row sums of this rectangle and the cap, as forward had them. */
static void sum_rows(job *j)
{
    const stage *st = j->st;
    const ha_cpu_plan *plan = st->call->plan;
    ha_grad_thread *t = j->t;
    ha_picker picker = ha_task_picker(st->call, st->wave, j->task);
    int prepared = 0;
    ha_task_cap(st->call, st->wave, j->task, &t->cap);
    ha_softmax_load_q(plan, &t->rows, &j->at);
    ha_softmax_clear(plan, &t->rows, j->at.rows);
    while (ha_pick(&picker, &t->picks)) {
        const ha_columns c = ha_columns_picked(j->at.kh, &t->picks);
        int sampled = c.kind == HA_SAMPLED_COLUMNS;
        if (sampled && !prepared) {
            ha_cap_prepare(plan, &t->cap, &t->rows, j->at.rows);
            prepared = 1;
        }
        ha_columns_pack(plan, &t->pack, &c, 0);
        ha_columns_attend(plan, &t->rows, j->at.rows, &t->pack, &c, sampled ? t->cap.cap : NULL, 0,
                          NULL);
    }
    if (!prepared)
        ha_cap_prepare(plan, &t->cap, &t->rows, j->at.rows);
}

/* Algorithm 2's cap and floor. The cap (B_i + tau / kappa) / ln n passes on to the exact sum B_i
 * what its entries would get, and the sum of a row at its floor does not depend on its samples. tau
 * is a choice, and held fixed. */
static void run_capped(job *j)
{
    const ha_cpu_plan *plan = j->st->call->plan;
    ha_grad *g = &j->t->grad;
    int64_t rows = j->at.rows;
    sum_rows(j);
    memset(g->capped, 0, (size_t)ha_round_up(rows, plan->arith->mr) * sizeof *g->capped);
    ha_cap_drop_floored(&j->t->cap, &j->t->rows, rows, g->delta);
    run_kind(j, HA_SAMPLED_COLUMNS, j->t->cap.cap);
    ha_grad_load_rows(plan, g, &j->st->sums[j->task->key_head], &j->at);
    float share = (float)(1 / ha_cap_divisor(j->task->rect->nk));
    for (int64_t i = 0; i < rows; i++)
        g->delta[i] -= g->capped[i] * share;
    run_kind(j, HA_EXACT_COLUMNS, NULL);
}

/* The task's rows of dQ: stored, if no other wave or leaf adds to them. */
static void keep_rows(const job *j)
{
    const ha_cpu_plan *plan = j->st->call->plan;
    const ha_key_head *kh = j->at.kh;
    int64_t ld = plan->ldgrad;
    if (ha_tasks_own_rows(kh->layout)) {
        const ha_out_rows to = ha_out_at(&kh->dq, &j->at);
        for (int64_t i = 0; i < j->at.rows; i++)
            j->t->factor[i] = plan->problem->softmax_scale;
        plan->kernels->store_rows(&to, j->t->dq, ld, j->t->factor, j->at.rows,
                                  plan->problem->head_dim);
        return;
    }
    for (int64_t i = 0; i < j->at.rows; i++) {
        float *sum = ha_sum_q(plan, kh, &j->st->sums[j->task->key_head], 0, j->at.head,
                              ha_row_of(&j->at, i));
        for (int64_t c = 0; c < ld; c++)
            sum[c] += j->t->dq[i * ld + c];
    }
}

/* Returns the slots used, from `slot` on. */
static int64_t run_task(const stage *st, const ha_task *task, int64_t slot, int thread)
{
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    ha_grad_thread *t = &st->b->threads[thread];
    job j = {st, t, task, ha_task_rows(call, st->wave, task), slot, 0};
    double start = ha_clock(call);
    ha_grad_pack_rows(plan, &t->grad, &j.at);
    ha_grad_load_rows(plan, &t->grad, &st->sums[task->key_head], &j.at);
    memset(t->dq, 0, (size_t)(j.at.rows * plan->ldgrad) * sizeof *t->dq);
    if (plan->params->kappa_cap > 0)
        run_capped(&j);
    else
        run_kind(&j, -1, NULL);
    keep_rows(&j);
    ha_clock_add(call, thread, HA_STAGE_BLOCK, start);
    return j.used;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* Which of the tasks kept a task is. */
static int64_t kept_task(const stage *st, int64_t task)
{
    return task % (SETS * st->b->slots.round);
}

static void await_sums(const stage *st, int64_t round)
{
    const ha_slots *slots = &st->b->slots;
    for (int64_t p = 0; p < st->call->nheads * slots->parts; p++)
        ha_await(&slots->summed[p], round + 1);
}

static void work_task(const stage *st, int64_t task, int thread)
{
    const ha_slots *slots = &st->b->slots;
    int64_t round = task / slots->round, kept = kept_task(st, task);
    if (task >= st->wave->ntasks)
        return;
    await_sums(st, round - SETS);
    slots->used[kept] = run_task(st, &st->wave->tasks[task], kept * slots->columns, thread);
    atomic_fetch_add_explicit(&slots->done[round], 1, memory_order_release);
}

/* Adds a round's slots to the sums of one part of a key head's keys. */
static void sum_round(const stage *st, int64_t round, int64_t part, int thread)
{
    const ha_slots *slots = &st->b->slots;
    const ha_sums *s = &st->sums[part / slots->parts];
    int64_t first = round * slots->round, end = ha_min(st->wave->ntasks, first + slots->round);
    int64_t nk = st->call->heads[part / slots->parts].layout->nk, p = part % slots->parts;
    const ha_column_sums to = {s->dk, s->dv, slots->sums.ldk, slots->sums.ldv};
    ha_await(&slots->done[round], end - first);
    ha_await(&slots->summed[part], round);
    double start = ha_clock(st->call);
    for (int64_t task = first; task < end; task++) {
        int64_t kept = kept_task(st, task), slot = kept * slots->columns;
        if (st->wave->tasks[task].key_head != part / slots->parts)
            continue;
        const ha_column_sums from = {slots->sums.dk + slot * to.ldk,
                                     slots->sums.dv + slot * to.ldv, to.ldk, to.ldv};
        ha_columns_scatter(&to, &from, slots->key + slot, slots->used[kept],
                           (uint32_t)(nk * p / slots->parts),
                           (uint32_t)(nk * (p + 1) / slots->parts), st->b->threads[thread].found);
    }
    atomic_store_explicit(&slots->summed[part], round + 1, memory_order_release);
    ha_clock_add(st->call, thread, HA_STAGE_STATE, start);
}

static void work(void *arg, int64_t i, int thread)
{
    const stage *st = arg;
    int64_t size = st->b->slots.round;
    int64_t turn = size + st->call->nheads * st->b->slots.parts, round = i / turn, x = i % turn;
    if (x < size)
        work_task(st, round * size + x, thread);
    else if (round > 0)
        sum_round(st, round - 1, x - size, thread);
}

void ha_backward_hyper_run(ha_call *call, const ha_backward_hyper *b, const ha_wave *wave,
                           const ha_sums *sums)
{
    const ha_slots *slots = &b->slots;
    stage st = {call, b, wave, sums};
    int64_t nrounds = (wave->ntasks + slots->round - 1) / slots->round;
    for (int64_t i = 0; i < nrounds; i++)
        atomic_init(&slots->done[i], 0);
    for (int64_t i = 0; i < call->nheads * slots->parts; i++)
        atomic_init(&slots->summed[i], 0);
    ha_parallel_for(call->team, (nrounds + 1) * (slots->round + call->nheads * slots->parts), work,
                    &st);
}
