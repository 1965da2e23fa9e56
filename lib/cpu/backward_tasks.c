/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of a wave's tasks. A task owns its rows of dQ, but its columns may be anyone's: it keeps
 * what they get in slots, a row per column. When a round of tasks is done, threads that own the keys
 * add up the slots in the order of the tasks.
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

/* Tasks [first, end) of the run. */
typedef struct task_round {
    ha_run *run;
    int64_t first, end;
    int64_t parts; /* of a unit's keys */
} task_round;

/* ---- a task ---------------------------------------------------------------------------------- */

/* A batch of columns; `used` slots of the task are taken already. */
static void run_columns(ha_run *run, ha_scratch *s, const ha_state_rows *at, const ha_columns *c,
                        int64_t slot, int64_t used)
{
    const ha_cpu_plan *cpu = run->cpu;
    const ha_slots *slots = &run->slots;
    int64_t place = slot * cpu->task_columns + used, padded = ha_round_up(c->n, cpu->arith->nr);
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
        .capped = c->sampled && run->plan->params.kappa_cap > 0,
        .dq = s->dq,
        .dk = slots->dk + place * cpu->ldgrad,
        .dv = slots->dv + place * cpu->ldacc,
    };
    memset(block.dk, 0, (size_t)(c->n * cpu->ldgrad) * sizeof *block.dk);
    memset(block.dv, 0, (size_t)(c->n * cpu->ldacc) * sizeof *block.dv);
    ha_grad_tiles(run, s, &block);
}

/* All columns of a task, or the sampled ones (1) or exact ones (0) alone; returns the slots used. */
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

static void run_task(void *arg, int64_t i, int thread)
{
    const task_round *r = arg;
    ha_run *run = r->run;
    const ha_cpu_plan *cpu = run->cpu;
    const ha_task *task = &run->tasks[r->first + i];
    ha_scratch *s = &run->scratch[thread];
    const ha_state_rows at = ha_task_rows(run, task);
    double start = ha_clock(run->plan);
    ha_rows q = at.unit->q[at.head], dout = at.unit->dout[at.head];
    q.index = dout.index = at.index;
    q.first = dout.first = at.first;
    ha_grad_pack_rows(run, s, &q, &dout, at.rows);
    ha_grad_load_rows(run, s, at.unit, at.head, at.index, at.first, at.rows);
    memset(s->dq, 0, (size_t)(at.rows * cpu->ldgrad) * sizeof *s->dq);
    run->slots.used[i] = run->plan->params.kappa_cap > 0 ? run_capped(run, s, task, i)
                                                         : run_walk(run, s, task, i, 0, -1);
    for (int64_t x = 0; x < at.rows; x++) {
        int64_t row = at.index ? (int64_t)at.index[x] : at.first + x;
        float *sum = at.unit->gq + (at.head * at.unit->layout->nq + row) * cpu->ldgrad;
        for (int64_t c = 0; c < cpu->ldgrad; c++)
            sum[c] += s->dq[x * cpu->ldgrad + c];
    }
    ha_clock_add(run, thread, HA_STAGE_BLOCK, start);
}

/* ---- sums per key ---------------------------------------------------------------------------- */

/* Slots that are looked up before the first is added: memory takes that long. */
#define BATCH 64

typedef struct match {
    uint32_t key;
    int64_t slot;
} match;

static void ask_for(const float *row, int64_t n)
{
    for (int64_t c = 0; c < n; c += 16)
        __builtin_prefetch(row + c);
}

static void add_row(float *restrict sum, const float *restrict row, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        sum[c] += row[c];
}

static void add_matches(const ha_run *run, const ha_unit *u, const match *found, int n)
{
    int64_t ldk = run->cpu->ldgrad, ldv = run->cpu->ldacc;
    for (int i = 0; i < n; i++) {
        add_row(u->gk + found[i].key * ldk, run->slots.dk + found[i].slot * ldk, ldk);
        add_row(u->gv + found[i].key * ldv, run->slots.dv + found[i].slot * ldv, ldv);
    }
}

/* The slots of one task whose keys are in [first, end). */
static void sum_task(const ha_run *run, const ha_unit *u, int64_t slot, uint32_t first,
                     uint32_t end)
{
    int64_t ldk = run->cpu->ldgrad, ldv = run->cpu->ldacc, base = slot * run->cpu->task_columns;
    match found[BATCH];
    int n = 0;
    for (int64_t i = 0; i < run->slots.used[slot]; i++) {
        uint32_t key = run->slots.key[base + i];
        if (key < first || key >= end)
            continue;
        ask_for(u->gk + key * ldk, ldk);
        ask_for(u->gv + key * ldv, ldv);
        ask_for(run->slots.dk + (base + i) * ldk, ldk);
        ask_for(run->slots.dv + (base + i) * ldv, ldv);
        found[n++] = (match){key, base + i};
        if (n == BATCH) {
            add_matches(run, u, found, n);
            n = 0;
        }
    }
    add_matches(run, u, found, n);
}

/* One part of the keys of one unit. */
static void sum_part(void *arg, int64_t i, int thread)
{
    const task_round *r = arg;
    ha_run *run = r->run;
    double start = ha_clock(run->plan);
    int64_t unit = i / r->parts, part = i % r->parts;
    const ha_unit *u = &run->units[unit];
    uint32_t first = (uint32_t)(u->layout->nk * part / r->parts);
    uint32_t end = (uint32_t)(u->layout->nk * (part + 1) / r->parts);
    for (int64_t task = r->first; task < r->end; task++)
        if (run->tasks[task].unit == unit)
            sum_task(run, u, task - r->first, first, end);
    ha_clock_add(run, thread, HA_STAGE_STATE, start);
}

void ha_backward_tasks(ha_run *run)
{
    int nthreads = run->plan->ctx->nthreads;
    task_round r = {.run = run, .parts = 2 * nthreads};
    for (; r.first < run->ntasks; r.first = r.end) {
        r.end = ha_min(run->ntasks, r.first + run->cpu->round);
        ha_parallel_for(nthreads, r.end - r.first, run_task, &r);
        ha_parallel_for(nthreads, run->nunits * r.parts, sum_part, &r);
    }
}
