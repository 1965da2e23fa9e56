/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cells.h"

#include <math.h>
#include <string.h>

/* Rows whose mean is formed at a time. */
#define MEAN_ROWS 64

/* One thread's buffers. */
typedef struct ha_cells_thread {
    float *score, *w; /* of the keys of a cell */
    float *rows;      /* [MEAN_ROWS][ldk] */
    double *sum;      /* of all: an epoch may have very many */
} ha_cells_thread;

int64_t ha_most_cells(const ha_cpu_plan *plan)
{
    int64_t most = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        int64_t nk = plan->layouts[i].nk;
        const ha_recipe r = ha_recipe_for(plan, &plan->layouts[i]);
        most = ha_max(most, (nk + r.cell - 1) / r.cell);
    }
    return most;
}

int64_t ha_most_eras(const ha_cpu_plan *plan)
{
    int64_t most = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++)
        most = ha_max(most, ha_eras_of(&plan->layouts[i], plan->problem->causal));
    return most;
}

void ha_cells_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_cell_sets *sets)
{
    int64_t cells = ha_most_cells(plan), ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan);
    sets->cells = ha_carve(c, plan->in_flight * plan->group, sizeof *sets->cells);
    for (int64_t i = 0; i < plan->in_flight * plan->group; i++) {
        ha_cells none, *x = c->base ? &sets->cells[i] : &none;
        x->query = ha_carve(c, ha_most_eras(plan) * ldk, sizeof *x->query);
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
        t->sum = ha_carve(c, ldk, sizeof *t->sum);
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

/* ---- an epoch -------------------------------------------------------------------------------- */

/* Adds those of n rows that are finite, so that a NaN stays in its own. Returns how many. */
static int64_t add_finite(double *sum, const float *rows, int64_t n, int64_t d, int64_t ld)
{
    int64_t found = 0;
    for (int64_t x = 0; x < n; x++) {
        if (!ha_is_finite_row(rows + x * ld, d))
            continue;
        found++;
        for (int64_t c = 0; c < d; c++)
            sum[c] += rows[x * ld + c];
    }
    return found;
}

void ha_cells_mean(const ha_cpu_plan *plan, const ha_cell_sets *sets, int thread,
                   const ha_key_head *kh, int64_t head, const ha_era *epoch, float *mean)
{
    const ha_cells_thread *t = &sets->threads[thread];
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan), found = 0;
    ha_rows q = ha_head_rows(&kh->q, head);
    memset(mean, 0, (size_t)ld * sizeof *mean);
    memset(t->sum, 0, (size_t)d * sizeof *t->sum);
    for (int64_t i = 0; i < epoch->nq; i += MEAN_ROWS) {
        int64_t n = ha_min(MEAN_ROWS, epoch->nq - i);
        q.first = epoch->q0 + i;
        plan->kernels->f32.load_q(t->rows, &q, n, d);
        found += add_finite(t->sum, t->rows, n, d, ld);
    }
    for (int64_t c = 0; c < d && found; c++)
        mean[c] = (float)(t->sum[c] / (double)found);
}

void ha_cells_expand(const ha_cpu_plan *plan, const ha_cell_sets *sets, int thread,
                     const ha_key_head *kh, const ha_cells *cells, const ha_cell *cell,
                     const float *r, int64_t sinks)
{
    const ha_cells_thread *t = &sets->threads[thread];
    int64_t ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan), n = cell->n;
    ha_expansion x = {kh->k, kh->v, t->score, t->w, n, cells->key + cell->number * ldk,
                      cells->value + cell->number * ldv};
    x.k.index = x.v.index = cell->keys;
    const ha_scores scores = {t->score, r, ldk, x.k, n, plan->problem->head_dim, 1,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t j = 0; j < n; j++)
        t->w[j] = (int64_t)cell->keys[j] < sinks ? -INFINITY : t->score[j];
    const ha_moments m = ha_expand(plan, &x);
    cells->mass[cell->number] = m.mass - m.tilt;
    for (int64_t j = 0; j < n; j++)
        cells->share[cell->first + j] = t->score[j] - m.mass;
    if (m.mass == -INFINITY) {
        memset(x.key, 0, (size_t)ldk * sizeof *x.key);
        memset(x.value, 0, (size_t)ldv * sizeof *x.value);
    }
}
