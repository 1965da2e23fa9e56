/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/hyper.h"

#include "cpu/ahead.h"
#include "cpu/clock.h"
#include "int64.h"

/* One thread's buffers. */
typedef struct ha_hyper_thread {
    ha_softmax rows;
    ha_cap cap;
    ha_key_pack pack;
    ha_picks picks[3]; /* at work, next, and of the task behind this one */
    ha_ahead ahead;
} ha_hyper_thread;

typedef struct stage {
    const ha_call *call;
    const ha_hyper *hyper;
    const ha_wave *wave;
    const ha_states *states;
    int final;
} stage;

void ha_hyper_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_hyper *hyper)
{
    hyper->threads = ha_carve(c, nthreads, sizeof *hyper->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_hyper_thread none, *t = c->base ? &hyper->threads[i] : &none;
        ha_softmax_carve(c, plan, &t->rows, ha_rows_held(plan, HA_TASK_ROWS));
        ha_cap_carve(c, plan, &t->cap);
        ha_key_pack_carve(c, plan, &t->pack);
        for (int x = 0; x < 3; x++)
            ha_picks_carve(c, plan, &t->picks[x]);
        ha_ahead_carve(c, plan, &t->ahead);
    }
}

/* ---- tasks ----------------------------------------------------------------------------------- */

void ha_wave_carve(ha_carver *c, const ha_cpu_plan *plan, ha_wave *wave)
{
    int64_t most = plan->in_flight * plan->group * plan->max.max_tasks;
    wave->tasks = ha_carve(c, most, sizeof *wave->tasks);
}

void ha_wave_list_tasks(const ha_call *call, ha_wave *wave)
{
    wave->ntasks = 0;
    for (int64_t place = 0; place < call->nheads; place++) {
        int64_t nrects;
        const ha_rect *rects =
            ha_wave_rects(call->heads[place].layout, wave->number, &nrects);
        for (int64_t n = 0; n < nrects; n++)
            for (int64_t head = 0; head < call->plan->group; head++)
                wave->ntasks += ha_list_tasks(
                    wave->tasks + wave->ntasks, &rects[n],
                    ha_bounds_of(call->plan, &wave->sort->heads[place], &rects[n], head),
                    (int32_t)place, (int32_t)head);
    }
}

ha_query_rows ha_task_rows(const ha_call *call, const ha_wave *wave, const ha_task *task)
{
    const ha_key_head *kh = &call->heads[task->key_head];
    const uint32_t *order = ha_qorder_of(kh, &wave->sort->heads[task->key_head], task->head);
    int64_t first = task->rect->q0 + task->row0;
    return (ha_query_rows){kh, task->head, order ? order + first : NULL, first, task->rows};
}

ha_picker ha_task_picker(const ha_call *call, const ha_wave *wave, const ha_task *task)
{
    const ha_key_head *kh = &call->heads[task->key_head];
    const double *mass = wave->vnorm->heads[task->key_head].mass;
    const ha_sampler sampler = ha_run_sampler(
        call->plan->problem, call->plan->params, kh->layout, task->rect, kh->query0 + task->head,
        &task->run, mass ? mass + task->rect->k0 : NULL);
    return ha_picker_begin(&sampler, task->rect, wave->sort->heads[task->key_head].korder);
}

void ha_task_cap(const ha_call *call, const ha_wave *wave, const ha_task *task, ha_cap *cap)
{
    cap->nk = task->rect->nk;
    cap->floor = ha_approxd_floor(call, wave->taus, wave->number, task->key_head, task->head,
                                  task->rect);
}

/* ---- forward --------------------------------------------------------------------------------- */

/* The rows that a task needs first; threads take tasks in turn, so this thread is likely to get the
 * one that is nthreads further on. */
static void expect_task(const stage *st, ha_hyper_thread *t, int64_t i)
{
    const ha_call *call = st->call;
    if (i >= st->wave->ntasks)
        return;
    const ha_task *task = &st->wave->tasks[i];
    const ha_query_rows at = ha_task_rows(call, st->wave, task);
    ha_picker picker = ha_task_picker(call, st->wave, task);
    ha_expect_queries(&t->ahead, &at);
    if (ha_pick(&picker, &t->picks[2]))
        ha_expect_columns(&t->ahead, at.kh, &t->picks[2]);
    if (!task->rect->fresh)
        ha_expect_states(&t->ahead, call->plan, &st->states[task->key_head], &at);
}

/* All columns of a task in one online softmax. Each batch is named while the one before is at work,
 * so that its rows, which lie anywhere, are in the caches when they are gathered. */
static double attend_columns(const stage *st, ha_hyper_thread *t, int64_t i, int thread,
                             const ha_query_rows *at, double clock)
{
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    int capped = plan->params->kappa_cap > 0, prepared = !capped;
    ha_picks *now = &t->picks[0], *next = &t->picks[1];
    ha_picker picker = ha_task_picker(call, st->wave, &st->wave->tasks[i]);
    for (int more = ha_pick(&picker, now); more;) {
        const ha_columns c = ha_columns_picked(at->kh, now);
        ha_columns_pack(plan, &t->pack, &c, 1);
        more = ha_pick(&picker, next);
        if (more)
            ha_expect_columns(&t->ahead, at->kh, next);
        else {
            expect_task(st, t, i + plan->nthreads[0]);
            if (st->final)
                ha_expect_out(&t->ahead, at);
        }
        clock = ha_clock_add(call, thread, HA_STAGE_GATHER, clock);
        int sampled = c.kind == HA_SAMPLED_COLUMNS;
        if (sampled && !prepared) {
            ha_cap_prepare(plan, &t->cap, &t->rows, at->rows);
            prepared = 1;
        }
        ha_columns_attend(plan, &t->rows, at->rows, &t->pack, &c,
                          capped && sampled ? t->cap.cap : NULL, 1, &t->ahead);
        clock = ha_clock_add(call, thread, sampled ? HA_STAGE_SAMPLE : HA_STAGE_BLOCK, clock);
        ha_picks *done = now;
        now = next;
        next = done;
    }
    if (!prepared)
        ha_cap_prepare(plan, &t->cap, &t->rows, at->rows);
    return clock;
}

/* Goes on from the waves before. With kappa_cap, the cap needs this rectangle's exact sum alone, so
 * what was before is folded in at the end. */
static void attend_task(void *arg, int64_t i, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    const ha_task *task = &st->wave->tasks[i];
    const ha_states *states = &st->states[task->key_head];
    ha_hyper_thread *t = &st->hyper->threads[thread];
    const ha_query_rows at = ha_task_rows(call, st->wave, task);
    int capped = plan->params->kappa_cap > 0;
    double clock = ha_clock(call);
    ha_softmax_load_q(plan, &t->rows, &at);
    clock = ha_clock_add(call, thread, HA_STAGE_GATHER, clock);
    if (task->rect->fresh || capped)
        ha_softmax_clear(plan, &t->rows, at.rows);
    else
        ha_softmax_load(plan, &t->rows, states, &at);
    if (capped)
        ha_task_cap(call, st->wave, task, &t->cap);
    clock = ha_clock_add(call, thread, HA_STAGE_STATE, clock);
    clock = attend_columns(st, t, i, thread, &at, clock);
    if (capped)
        ha_cap_finish(&t->cap, &t->rows, at.rows);
    if (capped && !task->rect->fresh)
        ha_softmax_fold(plan, &t->rows, states, &at);
    if (st->final)
        ha_softmax_finish(plan, &t->rows, &at);
    else
        ha_softmax_store(plan, &t->rows, states, &at);
    ha_clock_add(call, thread, HA_STAGE_STATE, clock);
}

void ha_hyper_forward(ha_call *call, const ha_hyper *hyper, const ha_wave *wave,
                      const ha_states *states, int final)
{
    stage st = {call, hyper, wave, states, final};
    ha_parallel_for(call->team, wave->ntasks, attend_task, &st);
}
