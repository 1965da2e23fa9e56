/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cells.h"

#include <math.h>
#include <string.h>

#include "cpu/clock.h"
#include "int64.h"

/* Keys of an item; a multiple of every cell. */
#define ITEM_KEYS 1024

/* Rows whose mean is formed at a time. */
#define MEAN_ROWS 64

/* One thread's buffers. */
typedef struct ha_cells_thread {
    float *score, *w; /* of the keys of a cell */
    float *rows;      /* [MEAN_ROWS][ldk] */
} ha_cells_thread;

typedef struct stage {
    ha_call *call;
    const ha_cell_sets *sets;
    const ha_orders *orders;
    int64_t number; /* of the era */
} stage;

int64_t ha_most_cells(const ha_cpu_plan *plan)
{
    int64_t most = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        int64_t nk = plan->layouts[i].nk;
        const ha_recipe r = ha_recipe_of(plan->params, nk, plan->problem->causal);
        most = ha_max(most, (nk + r.cell - 1) / r.cell);
    }
    return most;
}

void ha_cells_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_cell_sets *sets)
{
    int64_t cells = ha_most_cells(plan), ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan);
    sets->cells = ha_carve(c, plan->in_flight * plan->group, sizeof *sets->cells);
    for (int64_t i = 0; i < plan->in_flight * plan->group; i++) {
        ha_cells none, *x = c->base ? &sets->cells[i] : &none;
        x->query = ha_carve(c, ldk, sizeof *x->query);
        x->mass = ha_carve(c, cells, sizeof *x->mass);
        x->key = ha_carve(c, cells * ldk, sizeof *x->key);
        x->value = ha_carve(c, cells * ldv, sizeof *x->value);
        x->share = ha_carve(c, plan->max.nk, sizeof *x->share);
    }
    sets->threads = ha_carve(c, nthreads, sizeof *sets->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_cells_thread none, *t = c->base ? &sets->threads[i] : &none;
        t->score = ha_carve(c, HA_SHORT_STRETCH + HA_SCORES_PAD, sizeof *t->score);
        t->w = ha_carve(c, HA_SHORT_STRETCH, sizeof *t->w);
        t->rows = ha_carve(c, ha_round_up(MEAN_ROWS, plan->kernels->f32.mr) * ldk,
                           sizeof *t->rows);
    }
}

/* ---- one cell -------------------------------------------------------------------------------- */

/* The largest weight; 0 where no row has one, or none can be compared. */
static int heaviest(const ha_expansion *x, float *top)
{
    int alive = 0;
    *top = -INFINITY;
    for (int64_t j = 0; j < x->n; j++) {
        alive |= !(x->w[j] == -INFINITY);
        *top = x->w[j] > *top ? x->w[j] : *top;
    }
    return alive;
}

ha_moments ha_expand(const ha_cpu_plan *plan, const ha_expansion *x)
{
    const ha_kernels *kernels = plan->kernels;
    int64_t d = plan->problem->head_dim, dv = plan->problem->head_dim_v;
    ha_moments m = {-INFINITY, 0};
    float top, sum = 0;
    if (!heaviest(x, &top))
        return m;
    for (int64_t j = 0; j < x->n; j++)
        x->w[j] -= top;
    kernels->exp2(x->w, x->n);
    for (int64_t j = 0; j < x->n; j++)
        sum += x->w[j];
    for (int64_t j = 0; j < x->n; j++) {
        x->w[j] /= sum;
        /* a score of -inf has no weight, and its product with 0 none either */
        m.tilt += x->w[j] > 0 ? x->w[j] * x->tilt[j] : x->w[j];
    }
    kernels->sum_rows(x->key, &x->k, x->w, 1, x->n, d);
    kernels->sum_rows(x->value, &x->v, x->w, 1, x->n, dv);
    m.mass = top + log2f(sum);
    return m;
}

/* ---- an era's mean query --------------------------------------------------------------------- */

static int era_of(const stage *st, int64_t place, ha_era *era)
{
    const ha_cpu_plan *plan = st->call->plan;
    const ha_layout *l = st->call->heads[place].layout;
    const ha_recipe r = ha_recipe_of(plan->params, l->nk, plan->problem->causal);
    return ha_era_at(l, &r, plan->problem->causal, st->number, era) && era->nq > 0;
}

static int64_t count_means(const void *arg, int64_t place)
{
    const stage *st = arg;
    ha_era era;
    return era_of(st, place, &era) ? st->call->plan->group : 0;
}

/* Of the rows that are finite, so that a NaN stays in its own row. */
static void mean_query(void *arg, int64_t place, int64_t head, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    float *mean = st->sets->cells[place * plan->group + head].query;
    float *rows = st->sets->threads[thread].rows;
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan), found = 0;
    ha_rows q = ha_head_rows(&kh->q, head);
    ha_era era;
    if (!era_of(st, place, &era))
        return;
    memset(mean, 0, (size_t)ld * sizeof *mean);
    for (int64_t i = 0; i < era.nq; i += MEAN_ROWS) {
        int64_t n = ha_min(MEAN_ROWS, era.nq - i);
        q.first = era.q0 + i;
        plan->kernels->f32.load_q(rows, &q, n, d);
        for (int64_t x = 0; x < n; x++) {
            if (!ha_is_finite_row(rows + x * ld, d))
                continue;
            found++;
            for (int64_t c = 0; c < d; c++)
                mean[c] += rows[x * ld + c];
        }
    }
    for (int64_t c = 0; c < d && found; c++)
        mean[c] /= (float)found;
}

/* ---- an era's cells -------------------------------------------------------------------------- */

static int64_t count_items(const void *arg, int64_t place)
{
    const stage *st = arg;
    ha_era era;
    if (!era_of(st, place, &era))
        return 0;
    return (era.end + ITEM_KEYS - 1) / ITEM_KEYS * st->call->plan->group;
}

/* Cell `number`: the keys at positions [first, first + n) of the past. */
static void expand_cell(const stage *st, const ha_key_head *kh, const ha_cells *cells,
                        ha_cells_thread *t, const uint32_t *keys, int64_t n, int64_t sinks,
                        int64_t first, int64_t number)
{
    const ha_cpu_plan *plan = st->call->plan;
    int64_t ldk = ha_cells_ldk(plan);
    ha_expansion x = {kh->k, kh->v, t->score, t->w, n, cells->key + number * ldk,
                      cells->value + number * ha_cells_ldv(plan)};
    x.k.index = x.v.index = keys;
    const ha_scores scores = {t->score, cells->query, ldk, x.k, n, plan->problem->head_dim, 1,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t j = 0; j < n; j++)
        t->w[j] = (int64_t)keys[j] < sinks ? -INFINITY : t->score[j];
    const ha_moments m = ha_expand(plan, &x);
    cells->mass[number] = m.mass - m.tilt;
    for (int64_t j = 0; j < n; j++)
        cells->share[first + j] = t->score[j] - m.mass;
    if (m.mass == -INFINITY) {
        memset(x.key, 0, (size_t)ldk * sizeof *x.key);
        memset(x.value, 0, (size_t)ha_cells_ldv(plan) * sizeof *x.value);
    }
}

static void expand_item(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    int64_t head = item % plan->group, first = item / plan->group * ITEM_KEYS;
    const ha_cells *cells = &st->sets->cells[place * plan->group + head];
    const ha_recipe r = ha_recipe_of(plan->params, kh->layout->nk, plan->problem->causal);
    double start = ha_clock(st->call);
    ha_era era;
    if (!era_of(st, place, &era))
        return;
    int64_t end = ha_min(era.end, first + ITEM_KEYS);
    for (int64_t x = first; x < end; x += r.cell)
        expand_cell(st, kh, cells, &st->sets->threads[thread],
                    ha_past_keys(&st->orders->heads[place], &era, x), ha_min(r.cell, end - x),
                    r.sinks, x, x / r.cell);
    ha_clock_add(st->call, thread, HA_STAGE_HASH, start);
}

void ha_cells_expand(ha_call *call, const ha_cell_sets *sets, const ha_orders *orders,
                     int64_t number)
{
    stage st = {call, sets, orders, number};
    ha_for_items(call, count_means, mean_query, &st);
    ha_for_items(call, count_items, expand_item, &st);
}
