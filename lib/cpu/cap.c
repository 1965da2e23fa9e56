/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cap.h"

#include <math.h>

#include "cpu/clock.h"
#include "cpu/columns.h"
#include "cpu/state.h"
#include "cpu/walk.h"
#include "int64.h"
#include "parallel.h"

int64_t ha_cap_tiles(const hyperattn_params *params, const ha_arith *arith)
{
    return params->kappa_cap > 0 ? (params->sample_size + arith->br - 1) / arith->br : 0;
}

static float *tau_of(const ha_run *run, const ha_unit *u, int64_t head, const ha_rect *rect)
{
    int64_t tiles = ha_cap_tiles(run->plan->params, run->cpu->arith);
    int64_t place = rect - (u->layout->rects + u->layout->wave[run->wave]);
    return u->tau + (head * run->cpu->max.max_rects + place) * tiles;
}

/* A random run of the rectangle and up to br of its rows from a random place on. */
static int64_t draw_rows(const ha_run *run, const ha_unit *u, const ha_rect *rect, int64_t head,
                         int64_t tile, int64_t *block, int64_t *row0)
{
    const uint32_t *bounds = u->bounds + head * run->cpu->max.max_bounds + rect->bounds;
    ha_words w = ha_philox(run->plan->params->seed, (uint32_t)tile, 0,
                           HA_STREAM_TAU_ROWS + 8 * (uint32_t)(rect - u->layout->rects),
                           (uint32_t)(u->head0 + head));
    *block = ha_below(w.w[0], (uint32_t)rect->nblocks);
    int64_t run_rows = bounds[*block + 1] - bounds[*block];
    int64_t rows = run_rows < run->cpu->arith->br ? run_rows : run->cpu->arith->br;
    *row0 = rect->q0 + bounds[*block] + ha_below(w.w[1], (uint32_t)(run_rows - rows + 1));
    return rows;
}

/* log2 of the largest sum over all keys of the rectangle outside the rows' exact columns. */
static float tile_tau(const ha_run *run, ha_scratch *s, const ha_unit *u, const ha_rect *rect,
                      int64_t head, int64_t tile)
{
    int64_t block, row0, rows = draw_rows(run, u, rect, head, tile, &block, &row0);
    ha_rows q = u->q[head];
    q.index = ha_is_sorted(run->plan->params) ? u->qorder + head * u->layout->nq + row0 : NULL;
    q.first = row0;
    run->cpu->arith->load_q(s->q, &q, rows, run->plan->problem->head_dim);
    ha_state_clear(run, s, rows);
    ha_sampler all = ha_walk_sampler(run, u, rect, head, &block);
    all.draws = all.outside;
    for (int64_t first = 0; first < all.outside; first += HA_TASK_KEYS) {
        ha_columns *c = &s->columns[0];
        c->n = ha_min(HA_TASK_KEYS, all.outside - first);
        ha_sample(&all, first, c->n, c->key, c->logw);
        for (int64_t i = 0; i < c->n; i++)
            c->key[i] = ha_key_at(run, u, rect, c->key[i]);
        ha_columns_pack(run, s, u, c, 0);
        ha_columns_attend(run, s, c, rows, 0, 0);
    }
    float tau = -INFINITY;
    for (int64_t i = 0; i < rows; i++)
        tau = fmaxf(tau, s->m[i] + log2f(s->l[i]));
    return tau;
}

static void tau_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    double start = ha_clock(run->plan);
    ha_unit *u = &run->units[i % run->nunits];
    i /= run->nunits;
    int64_t head = i % run->cpu->group;
    i /= run->cpu->group;
    int64_t tiles = ha_cap_tiles(run->plan->params, run->cpu->arith), number = i / tiles;
    const ha_layout *l = u->layout;
    if (run->wave >= l->nwaves || number >= l->wave[run->wave + 1] - l->wave[run->wave])
        return;
    const ha_rect *rect = &l->rects[l->wave[run->wave] + number];
    tau_of(run, u, head, rect)[i % tiles] =
        tile_tau(run, &run->scratch[thread], u, rect, head, i % tiles);
    ha_clock_add(run, thread, HA_STAGE_SAMPLE, start);
}

void ha_cap_tau(ha_run *run)
{
    int64_t tiles = ha_cap_tiles(run->plan->params, run->cpu->arith);
    ha_parallel_for(run->plan->device->nthreads,
                    run->cpu->max.max_rects * tiles * run->cpu->group * run->nunits, tau_task, run);
}

/* log2(tau / kappa) of a task's rectangle. */
static double log2_floor(const ha_run *run, const ha_task *task)
{
    const ha_unit *u = &run->units[task->unit];
    const float *tau = tau_of(run, u, task->head, task->rect);
    int64_t tiles = ha_cap_tiles(run->plan->params, run->cpu->arith);
    double top = -INFINITY;
    for (int64_t i = 0; i < tiles; i++)
        top = fmax(top, (double)tau[i]);
    return top - log2((double)run->plan->params->kappa_cap);
}

/* log2(2^a + 2^b) */
static double log2_add(double a, double b)
{
    double top = fmax(a, b);
    return top == -INFINITY ? top : top + log2(exp2(a - top) + exp2(b - top));
}

void ha_cap_prepare(const ha_run *run, ha_scratch *s, const ha_task *task)
{
    double floor = log2_floor(run, task), log_n = log2(fmax(1, log((double)task->rect->nk)));
    for (int64_t i = 0; i < task->rows; i++) {
        s->block_sum[i] = s->m[i] + log2f(s->l[i]);
        s->cap[i] = (float)(log2_add((double)s->block_sum[i], floor) - log_n);
    }
    int64_t padded = ha_round_up(task->rows, run->cpu->arith->mr);
    for (int64_t i = task->rows; i < padded; i++)
        s->cap[i] = INFINITY;
}

/* Whether the samples of row i sum to less than 2^floor; *sum: what the whole row then sums to,
 * relative to its maximum. */
static int is_floored(const ha_scratch *s, int64_t i, double floor, double *sum)
{
    if (floor == -INFINITY || s->m[i] == -INFINITY) /* neither blocks nor samples saw a key */
        return 0;
    double block = exp2((double)s->block_sum[i] - (double)s->m[i]);
    double least = exp2(floor - (double)s->m[i]);
    *sum = block + least;
    return (double)s->l[i] - block < least;
}

void ha_cap_finish(const ha_run *run, ha_scratch *s, const ha_task *task)
{
    double floor = log2_floor(run, task), sum;
    for (int64_t i = 0; i < task->rows; i++)
        if (is_floored(s, i, floor, &sum))
            s->l[i] = (float)sum;
}

void ha_cap_sums(ha_run *run, ha_scratch *s, const ha_task *task)
{
    const ha_state_rows at = ha_task_rows(run, task);
    ha_rows q = at.unit->q[at.head];
    ha_walk w = ha_walk_begin(run, task);
    ha_columns *c = &s->columns[0];
    int prepared = 0;
    q.index = at.index;
    q.first = at.first;
    run->cpu->arith->load_q(s->q, &q, at.rows, run->plan->problem->head_dim);
    ha_state_clear(run, s, at.rows);
    while (ha_walk_next(&w, c)) {
        if (c->sampled && !prepared) {
            ha_cap_prepare(run, s, task);
            prepared = 1;
        }
        ha_columns_pack(run, s, at.unit, c, 0);
        ha_columns_attend(run, s, c, at.rows, c->sampled, 0);
    }
    if (!prepared)
        ha_cap_prepare(run, s, task);
}

void ha_cap_drop_floored(const ha_run *run, const ha_scratch *s, const ha_task *task, float *entry)
{
    double floor = log2_floor(run, task), sum;
    for (int64_t i = 0; i < task->rows; i++)
        if (is_floored(s, i, floor, &sum))
            entry[i] = 0;
}
