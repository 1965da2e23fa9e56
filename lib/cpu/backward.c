/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/backward.h"

#include <math.h>
#include <string.h>

#include "cpu/cap.h"
#include "cpu/clock.h"
#include "cpu/hyper.h"
#include "int64.h"
#include "parallel.h"

/* Columns of a round of tasks, so that a few rounds' gradients stay in a cache; but as many tasks
 * as threads need. */
#define ROUND_COLUMNS 16384

/* Most keys of the predefined mask's blocks for one query block. */
static int64_t mask_columns(const ha_plan *plan)
{
    const hyperattn_block_mask *mask = plan->params->block_mask;
    int64_t rows = 1 + (plan->problem->seqlen_q - 1) / mask->query_block, most = 0;
    rows *= mask->per_head ? plan->problem->nheads : 1;
    for (int64_t i = 0; i < rows; i++)
        most = ha_max(most, mask->row_start[i + 1] - mask->row_start[i]);
    int64_t blocks = 1 + (plan->problem->seqlen_k - 1) / mask->key_block;
    return most < blocks ? most * mask->key_block : plan->problem->seqlen_k;
}

void ha_backward_plan(const ha_plan *plan, ha_cpu_plan *cpu)
{
    const hyperattn_params *p = plan->params;
    int64_t columns = p->block_mask ? mask_columns(plan) : p->block_size;
    columns += (int64_t)p->num_sinks + p->window + p->sample_size;
    cpu->task_columns = ha_min(columns, cpu->max.nk);
    int64_t round = ROUND_COLUMNS / ha_max(1, cpu->task_columns);
    cpu->round = ha_max(round, 2 * (int64_t)plan->device->nthreads);
    cpu->parts = 2 * (int64_t)plan->device->nthreads;
    ha_backward_plan_leaves(cpu);
    cpu->one_wave = cpu->max.nwaves == 1 && !cpu->max.nleaves;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Chunks of HA_TASK_ROWS rows: of the keys (side 0) and of each query head (side 1 + head). */
typedef struct chunk {
    ha_unit *unit;
    int64_t side, first, rows;
} chunk;

static int64_t chunks(const ha_run *run)
{
    int64_t n = ha_max(run->cpu->max.nq, run->cpu->max.nk);
    return run->nunits * (1 + run->cpu->group) * ((n + HA_TASK_ROWS - 1) / HA_TASK_ROWS);
}

static chunk chunk_at(const ha_run *run, int64_t i)
{
    ha_unit *u = &run->units[i % run->nunits];
    i /= run->nunits;
    int64_t sides = 1 + run->cpu->group, side = i % sides, first = i / sides * HA_TASK_ROWS;
    int64_t n = side ? u->layout->nq : u->layout->nk;
    return (chunk){u, side, first, ha_max(0, ha_min(HA_TASK_ROWS, n - first))};
}

/* lse as log2 and delta. Where no key was seen, an lse of +inf makes every weight 0. */
static void prepare_queries(const ha_run *run, const chunk *c)
{
    const ha_unit *u = c->unit;
    int64_t head = c->side - 1, place = head * u->layout->nq + c->first;
    ha_rows o = u->o[head], dout = u->dout[head];
    o.first = dout.first = c->first;
    ha_run_kernels(run)->dot_rows(u->delta + place, &o, &dout, c->rows,
                                  run->plan->problem->head_dim_v);
    const float *lse = u->lse_given[head] + c->first;
    for (int64_t i = 0; i < c->rows; i++)
        u->lse2[place + i] = lse[i] == -INFINITY ? INFINITY : lse[i] * HA_LOG2E;
}

static void prepare_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    const ha_cpu_plan *cpu = run->cpu;
    const chunk c = chunk_at(run, i);
    size_t wide = (size_t)(c.rows * cpu->ldgrad) * sizeof(float);
    double start = ha_clock(run->plan);
    if (!c.rows)
        return;
    if (c.side)
        prepare_queries(run, &c);
    for (int64_t copy = 0; c.side && !cpu->one_wave && copy < cpu->row_copies; copy++)
        memset(ha_sum_q(run, c.unit, copy, c.side - 1, c.first), 0, wide);
    for (int64_t copy = 0; !c.side && copy < cpu->key_copies; copy++) {
        memset(ha_sum_k(run, c.unit, copy, c.first), 0, wide);
        memset(ha_sum_v(run, c.unit, copy, c.first), 0,
               (size_t)(c.rows * cpu->ldacc) * sizeof(float));
    }
    ha_clock_add(run, thread, HA_STAGE_STATE, start);
}

/* Rows whose sums, in several copies, become rows of a tensor. */
typedef struct sums {
    float *first;
    int64_t copies, apart; /* and floats between them */
    int64_t ld, n;
    float factor;
} sums;

static void store(const ha_run *run, ha_scratch *s, ha_out_rows to, const chunk *c,
                  const sums *from)
{
    for (int64_t copy = 1; copy < from->copies; copy++)
        for (int64_t x = 0; x < c->rows * from->ld; x++)
            from->first[x] += from->first[copy * from->apart + x];
    for (int64_t i = 0; i < c->rows; i++)
        s->inv[i] = from->factor;
    to.first = c->first;
    ha_run_kernels(run)->store_rows(&to, from->first, from->ld, s->inv, c->rows, from->n);
}

static void finish_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    const hyperattn_problem *p = run->plan->problem;
    const ha_cpu_plan *cpu = run->cpu;
    const chunk c = chunk_at(run, i);
    ha_unit *u = c.unit;
    ha_scratch *s = &run->scratch[thread];
    double start = ha_clock(run->plan);
    if (!c.rows || (c.side && cpu->one_wave))
        return;
    if (c.side) {
        const sums dq = {ha_sum_q(run, u, 0, c.side - 1, c.first), cpu->row_copies,
                         cpu->group * u->layout->nq * cpu->ldgrad, cpu->ldgrad, p->head_dim,
                         p->softmax_scale};
        store(run, s, u->dq[c.side - 1], &c, &dq);
    } else {
        const sums dk = {ha_sum_k(run, u, 0, c.first), cpu->key_copies,
                         u->layout->nk * cpu->ldgrad, cpu->ldgrad, p->head_dim, p->softmax_scale};
        const sums dv = {ha_sum_v(run, u, 0, c.first), cpu->key_copies, u->layout->nk * cpu->ldacc,
                         cpu->ldacc, p->head_dim_v, 1};
        store(run, s, u->dk, &c, &dk);
        store(run, s, u->dv, &c, &dv);
    }
    ha_clock_add(run, thread, HA_STAGE_STATE, start);
}

void ha_backward_units(ha_run *run)
{
    const ha_layout *max = &run->cpu->max;
    int nthreads = run->plan->device->nthreads;
    ha_parallel_for(nthreads, chunks(run), prepare_task, run);
    if (max->nwaves)
        ha_hyper_hash(run);
    for (run->wave = 0; run->wave < max->nwaves; run->wave++) {
        ha_hyper_sort(run);
        if (run->plan->params->kappa_cap > 0)
            ha_cap_tau(run);
        ha_backward_tasks(run);
    }
    if (max->nleaves)
        ha_backward_leaves(run);
    ha_parallel_for(nthreads, chunks(run), finish_task, run);
}
