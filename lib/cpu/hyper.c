/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/hyper.h"

#include "cpu/cap.h"
#include "cpu/clock.h"
#include "cpu/columns.h"
#include "cpu/state.h"
#include "cpu/walk.h"
#include "int64.h"
#include "parallel.h"

/* ---- rows that are needed next --------------------------------------------------------------- */

static void expect_rows(ha_scratch *s, const ha_rows *rows, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        s->ahead[s->nahead++] = ha_row_at(rows, i);
}

static void expect_columns(ha_scratch *s, const ha_unit *u, const ha_columns *c)
{
    ha_rows k = u->k, v = u->v;
    k.index = v.index = c->key;
    expect_rows(s, &k, c->n);
    expect_rows(s, &v, c->n);
}

static ha_rows query_rows(const ha_state_rows *at)
{
    ha_rows q = at->unit->q[at->head];
    q.index = at->index;
    q.first = at->first;
    return q;
}

/* The task that this thread is likely to get next: threads take them in turn. */
static void expect_task(const ha_run *run, ha_scratch *s, int64_t i)
{
    if (i >= run->ntasks)
        return;
    const ha_task *task = &run->tasks[i];
    const ha_state_rows at = ha_task_rows(run, task);
    ha_rows q = query_rows(&at);
    ha_walk w = ha_walk_begin(run, task);
    expect_rows(s, &q, task->rows);
    if (ha_walk_next(&w, &s->columns[2]))
        expect_columns(s, at.unit, &s->columns[2]);
    if (!task->rect->first)
        for (int64_t x = 0; x < task->rows; x++)
            s->ahead[s->nahead++] = ha_state_row(run, &at, x);
}

static void expect_out(ha_scratch *s, const ha_state_rows *at)
{
    const ha_out_rows *out = &at->unit->out[at->head];
    const ha_rows rows = {out->base, out->stride, at->index, at->first, out->dtype};
    expect_rows(s, &rows, at->rows);
}

/* ---- a task ---------------------------------------------------------------------------------- */

/* All columns of a task in one online softmax. Each batch is named while the one before is at work,
 * so that its rows, which lie anywhere, are in the caches when they are gathered. */
static double attend_columns(ha_run *run, ha_scratch *s, int64_t i, int thread, int final,
                             double clock)
{
    const ha_task *task = &run->tasks[i];
    const ha_state_rows at = ha_task_rows(run, task);
    int64_t dv = run->plan->problem->head_dim_v;
    int capped = run->plan->params->kappa_cap > 0, prepared = !capped;
    ha_columns *now = &s->columns[0], *next = &s->columns[1];
    ha_walk w = ha_walk_begin(run, task);
    for (int more = ha_walk_next(&w, now); more;) {
        ha_columns_pack(run, s, at.unit, now, dv);
        more = ha_walk_next(&w, next);
        if (more)
            expect_columns(s, at.unit, next);
        else {
            expect_task(run, s, i + run->plan->device->nthreads);
            if (final)
                expect_out(s, &at);
        }
        clock = ha_clock_add(run, thread, HA_STAGE_GATHER, clock);
        if (now->sampled && !prepared) {
            ha_cap_prepare(run, s, task);
            prepared = 1;
        }
        ha_columns_attend(run, s, now, task->rows, capped && now->sampled, dv);
        clock = ha_clock_add(run, thread, now->sampled ? HA_STAGE_SAMPLE : HA_STAGE_BLOCK, clock);
        ha_columns *done = now;
        now = next;
        next = done;
    }
    if (!prepared)
        ha_cap_prepare(run, s, task);
    return clock;
}

/* One run of queries: its block and other exact columns, then its samples, in one online softmax
 * that goes on from the waves before. With kappa_cap, the cap needs this rectangle's block sum
 * alone, so the earlier state is folded in at the end. */
static void attend_task(void *arg, int64_t i, int thread, int final)
{
    ha_run *run = arg;
    const ha_task *task = &run->tasks[i];
    ha_scratch *s = &run->scratch[thread];
    const ha_state_rows at = ha_task_rows(run, task);
    const ha_rows q = query_rows(&at);
    int capped = run->plan->params->kappa_cap > 0;
    double clock = ha_clock(run->plan);
    run->cpu->arith->load_q(s->q, &q, task->rows, run->plan->problem->head_dim);
    clock = ha_clock_add(run, thread, HA_STAGE_GATHER, clock);
    if (task->rect->first || capped)
        ha_state_clear(run, s, task->rows);
    else
        ha_state_load(run, s, &at);
    clock = ha_clock_add(run, thread, HA_STAGE_STATE, clock);
    clock = attend_columns(run, s, i, thread, final, clock);
    if (capped)
        ha_cap_finish(run, s, task);
    if (capped && !task->rect->first)
        ha_state_merge(run, s, &at);
    if (final)
        ha_state_finish(run, s, &at);
    else
        ha_state_store(run, s, &at);
    ha_clock_add(run, thread, HA_STAGE_STATE, clock);
}

static void middle_task(void *arg, int64_t i, int thread)
{
    attend_task(arg, i, thread, 0);
}

static void final_task(void *arg, int64_t i, int thread)
{
    attend_task(arg, i, thread, 1);
}

void ha_hyper_attend(ha_run *run, int final)
{
    if (run->plan->params->kappa_cap > 0)
        ha_cap_tau(run);
    ha_parallel_for(run->plan->device->nthreads, run->ntasks, final ? final_task : middle_task,
                    run);
}
