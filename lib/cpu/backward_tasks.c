/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of a wave's tasks. A task owns its rows of dQ, but its columns may be anyone's: it
 * keeps what they get in slots, a row per column. When a round of tasks is done, threads that own
 * the keys add up its slots in the order of the tasks, while others are at the next round. Slots
 * are few enough to stay in a cache until then.
 */
#include <math.h>
#include <string.h>

#include "cpu/backward.h"
#include "cpu/cap.h"
#include "cpu/clock.h"
#include "cpu/columns.h"
#include "cpu/grad.h"
#include "cpu/state.h"
#include "cpu/walk.h"
#include "int64.h"
#include "parallel.h"

/* ---- a task ---------------------------------------------------------------------------------- */

/* A batch of columns; `used` slots of the task's, which begin at `slot`, are taken already. */
static void run_columns(ha_run *run, ha_scratch *s, const ha_state_rows *at, const ha_columns *c,
                        int64_t slot, int64_t used)
{
    const ha_cpu_plan *cpu = run->cpu;
    const ha_slots *slots = &run->slots;
    int64_t place = slot + used, padded = ha_round_up(c->n, cpu->arith->nr);
    ha_rows k = at->unit->k, v = at->unit->v;
    k.index = v.index = c->key;
    for (int64_t j = c->n; j < padded; j++)
        c->logw[j] = -INFINITY;
    ha_grad_pack_keys(run, s, &k, &v, c->n);
    memcpy(slots->key + place, c->key, (size_t)c->n * sizeof *c->key);
    const ha_grad_block block = {
        .rows = at->rows,
        .keys = c->n,
        .logw = c->logw,
        .capped = c->sampled && run->plan->params->kappa_cap > 0,
        .dq = s->dq,
        .dk = slots->dk + place * cpu->ldgrad,
        .dv = slots->dv + place * cpu->ldacc,
    };
    memset(block.dk, 0, (size_t)(c->n * cpu->ldgrad) * sizeof *block.dk);
    memset(block.dv, 0, (size_t)(c->n * cpu->ldacc) * sizeof *block.dv);
    ha_grad_tiles(run, s, &block);
}

/* All columns of a task (only < 0), its sampled (1) or its exact ones (0); returns the slots
 * used. */
static int64_t run_walk(ha_run *run, ha_scratch *s, const ha_task *task, int64_t slot, int64_t used,
                        int only)
{
    const ha_state_rows at = ha_task_rows(run, task);
    ha_walk w = ha_walk_begin(run, task);
    ha_columns *c = &s->columns[0];
    while (ha_walk_next(&w, c)) {
        if (only >= 0 && c->sampled != only)
            continue;
        run_columns(run, s, &at, c, slot, used);
        used += c->n;
    }
    return used;
}

/* Algorithm 2's cap and floor, from the row sums of this rectangle as forward had them. The cap
 * (B_i + tau / kappa) / ln n passes on to the exact sum B_i what its entries would get, and the sum
 * of a row at its floor does not depend on its samples. tau is a choice, and held fixed. */
static int64_t run_capped(ha_run *run, ha_scratch *s, const ha_task *task, int64_t slot)
{
    const ha_state_rows at = ha_task_rows(run, task);
    int64_t rows = task->rows;
    ha_cap_sums(run, s, task);
    memset(s->capped, 0, (size_t)ha_round_up(rows, run->cpu->arith->mr) * sizeof *s->capped);
    ha_cap_drop_floored(run, s, task, s->delta);
    int64_t used = run_walk(run, s, task, slot, 0, 1);
    ha_grad_load_rows(run, s, at.unit, at.head, at.index, at.first, rows);
    float share = (float)(1 / fmax(1, log((double)task->rect->nk)));
    for (int64_t i = 0; i < rows; i++)
        s->delta[i] -= s->capped[i] * share;
    return run_walk(run, s, task, slot, used, 0);
}

static void add_row(float *restrict sum, const float *restrict row, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        sum[c] += row[c];
}

/* The task's rows of dQ: stored, if no other wave or leaf adds to them. */
static void keep_rows(const ha_run *run, ha_scratch *s, const ha_state_rows *at)
{
    const ha_cpu_plan *cpu = run->cpu;
    int64_t ld = cpu->ldgrad;
    if (cpu->one_wave) {
        ha_out_rows to = at->unit->dq[at->head];
        to.index = at->index;
        to.first = at->first;
        for (int64_t i = 0; i < at->rows; i++)
            s->inv[i] = run->plan->problem->softmax_scale;
        ha_run_kernels(run)->store_rows(&to, s->dq, ld, s->inv, at->rows,
                                        run->plan->problem->head_dim);
        return;
    }
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = at->index ? (int64_t)at->index[i] : at->first + i;
        add_row(ha_sum_q(run, at->unit, 0, at->head, row), s->dq + i * ld, ld);
    }
}

/* Returns the slots used, from `slot` on. */
static int64_t run_task(ha_run *run, const ha_task *task, int64_t slot, int thread)
{
    ha_scratch *s = &run->scratch[thread];
    const ha_state_rows at = ha_task_rows(run, task);
    double start = ha_clock(run->plan);
    ha_rows q = at.unit->q[at.head], dout = at.unit->dout[at.head];
    q.index = dout.index = at.index;
    q.first = dout.first = at.first;
    ha_grad_pack_rows(run, s, &q, &dout, at.rows);
    ha_grad_load_rows(run, s, at.unit, at.head, at.index, at.first, at.rows);
    memset(s->dq, 0, (size_t)(at.rows * run->cpu->ldgrad) * sizeof *s->dq);
    int64_t used = run->plan->params->kappa_cap > 0 ? run_capped(run, s, task, slot)
                                                   : run_walk(run, s, task, slot, 0, -1);
    keep_rows(run, s, &at);
    ha_clock_add(run, thread, HA_STAGE_BLOCK, start);
    return used;
}

/* ---- sums per key ---------------------------------------------------------------------------- */

/* Columns between one in work and one asked for: their rows lie anywhere. */
#define AHEAD 8

static void ask_for(const float *row, int64_t n)
{
    for (int64_t c = 0; c < n; c += 16)
        __builtin_prefetch(row + c);
}

/* The columns of one task whose keys are in [first, end); found has room for all of them. */
static void sum_slots(const ha_run *run, const ha_unit *u, int64_t slot, int64_t used,
                      uint32_t first, uint32_t end, uint32_t *found)
{
    int64_t ldk = run->cpu->ldgrad, ldv = run->cpu->ldacc, n = 0;
    const uint32_t *key = run->slots.key + slot;
    const float *dk = run->slots.dk + slot * ldk, *dv = run->slots.dv + slot * ldv;
    for (int64_t i = 0; i < used; i++) {
        found[n] = (uint32_t)i;
        n += key[i] >= first && key[i] < end;
    }
    for (int64_t x = 0; x < n; x++) {
        if (x + AHEAD < n) {
            int64_t next = found[x + AHEAD];
            ask_for(ha_sum_k(run, u, 0, key[next]), ldk);
            ask_for(ha_sum_v(run, u, 0, key[next]), ldv);
            ask_for(dk + next * ldk, ldk);
            ask_for(dv + next * ldv, ldv);
        }
        int64_t i = found[x];
        add_row(ha_sum_k(run, u, 0, key[i]), dk + i * ldk, ldk);
        add_row(ha_sum_v(run, u, 0, key[i]), dv + i * ldv, ldv);
    }
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* Sets of slots: a round's are summed while the next is at work, and the one after that begins. */
#define SETS 3

/* What threads do in turn: the tasks of a round, then the sums of the round before it, each unit's
 * keys in several parts. */
typedef struct rounds {
    ha_run *run;
    int64_t size, parts;
} rounds;

static int64_t first_slot(const ha_run *run, int64_t task)
{
    return task % (SETS * run->cpu->round) * run->cpu->task_columns;
}

static void await_sums(const rounds *w, int64_t round)
{
    for (int64_t p = 0; p < w->run->nunits * w->parts; p++)
        ha_await(&w->run->slots.summed[p], round + 1);
}

static void work_task(const rounds *w, int64_t task, int thread)
{
    ha_run *run = w->run;
    int64_t round = task / w->size;
    if (task >= run->ntasks)
        return;
    await_sums(w, round - SETS);
    int64_t used = run_task(run, &run->tasks[task], first_slot(run, task), thread);
    run->slots.used[task % (SETS * w->size)] = used;
    atomic_fetch_add_explicit(&run->slots.done[round], 1, memory_order_release);
}

static void sum_round(const rounds *w, int64_t round, int64_t part, int thread)
{
    ha_run *run = w->run;
    const ha_unit *u = &run->units[part / w->parts];
    int64_t first = round * w->size, end = ha_min(run->ntasks, first + w->size);
    int64_t nk = u->layout->nk, p = part % w->parts;
    ha_await(&run->slots.done[round], end - first);
    ha_await(&run->slots.summed[part], round);
    double start = ha_clock(run->plan);
    for (int64_t task = first; task < end; task++)
        if (&run->units[run->tasks[task].unit] == u)
            sum_slots(run, u, first_slot(run, task), run->slots.used[task % (SETS * w->size)],
                      (uint32_t)(nk * p / w->parts), (uint32_t)(nk * (p + 1) / w->parts),
                      run->scratch[thread].found);
    atomic_store_explicit(&run->slots.summed[part], round + 1, memory_order_release);
    ha_clock_add(run, thread, HA_STAGE_STATE, start);
}

static void work(void *arg, int64_t i, int thread)
{
    const rounds *w = arg;
    int64_t turn = w->size + w->run->nunits * w->parts, round = i / turn, x = i % turn;
    if (x < w->size)
        work_task(w, round * w->size + x, thread);
    else if (round > 0)
        sum_round(w, round - 1, x - w->size, thread);
}

void ha_backward_tasks(ha_run *run)
{
    int nthreads = run->plan->device->nthreads;
    const rounds w = {run, run->cpu->round, run->cpu->parts};
    int64_t nrounds = (run->ntasks + w.size - 1) / w.size;
    for (int64_t i = 0; i < nrounds; i++)
        atomic_init(&run->slots.done[i], 0);
    for (int64_t i = 0; i < run->nunits * w.parts; i++)
        atomic_init(&run->slots.summed[i], 0);
    ha_parallel_ordered(nthreads, (nrounds + 1) * (w.size + run->nunits * w.parts), work,
                        (void *)&w);
}

void ha_backward_carve_slots(ha_carver *c, const ha_cpu_plan *cpu, ha_run *run)
{
    ha_slots *slots = &run->slots;
    int64_t tasks = cpu->in_flight * cpu->group * cpu->max.max_tasks;
    int64_t kept = SETS * cpu->round, columns = kept * cpu->task_columns;
    slots->done = ha_carve(c, tasks / cpu->round + 1, sizeof *slots->done);
    slots->summed = ha_carve(c, cpu->in_flight * cpu->parts, sizeof *slots->summed);
    slots->used = ha_carve(c, kept, sizeof *slots->used);
    slots->key = ha_carve(c, columns, sizeof *slots->key);
    slots->dk = ha_carve(c, columns * cpu->ldgrad, sizeof *slots->dk);
    slots->dv = ha_carve(c, columns * cpu->ldacc, sizeof *slots->dv);
}
