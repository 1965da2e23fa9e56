/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/bundle.h"

#include <math.h>
#include <string.h>

#include "cpu/choices.h"
#include "int64.h"

/* The part of a far cell that must be left when selected keys are taken out, or nothing is: beyond,
 * the digits of what is left are in doubt. */
#define LEAST_REST 0x1p-14f

ha_bundle_sizes ha_largest_bundle(const ha_cpu_plan *plan)
{
    ha_bundle_sizes s = {0, 0, 0, 0, 0};
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        int64_t nk = plan->layouts[i].nk;
        const ha_recipe r = ha_recipe_for(plan, &plan->layouts[i]);
        int64_t cells = (nk + r.cell - 1) / r.cell, taken = ha_min(cells, r.candidates);
        s.cells = ha_max(s.cells, cells);
        s.candidates = ha_max(s.candidates, taken);
        s.keys = ha_max(s.keys, ha_min(nk, taken * r.cell));
        int64_t selected = r.depth > 0 ? ha_max(r.selected, HA_CROWDED_PAST) : r.selected;
        s.selected = ha_max(s.selected, ha_min(nk, selected));
        s.columns = ha_max(s.columns, taken + (nk + r.far_cell - 1) / r.far_cell);
    }
    return s;
}

void ha_bundle_carve(ha_carver *c, const ha_cpu_plan *plan, ha_bundle_work *w)
{
    const ha_bundle_sizes s = ha_largest_bundle(plan);
    int64_t ldk = ha_cells_ldk(plan);
    int64_t one = ha_max(ha_max(HA_SHORT_STRETCH, s.cells), s.selected);
    int64_t rows = ha_round_up(ha_rows_held(plan, HA_BUNDLE_ROWS), plan->kernels->f32.mr);
    w->q = ha_carve(c, rows * ldk, sizeof *w->q);
    w->finite = ha_carve(c, rows, 1);
    w->mean = ha_carve(c, ldk, sizeof *w->mean);
    w->cell_score = ha_carve(c, s.cells + HA_SCORES_PAD, sizeof *w->cell_score);
    w->column = ha_carve(c, s.cells, sizeof *w->column);
    w->share = ha_carve(c, s.cells, sizeof *w->share);
    w->place = ha_carve(c, s.cells, sizeof *w->place);
    w->candidates = ha_carve(c, s.candidates, sizeof *w->candidates);
    w->keys = ha_carve(c, s.keys, sizeof *w->keys);
    w->key_score = ha_carve(c, s.keys + HA_SCORES_PAD, sizeof *w->key_score);
    w->gone = ha_carve(c, s.keys, 1);
    w->selected = ha_carve(c, s.selected, sizeof *w->selected);
    w->position = ha_carve(c, s.selected, sizeof *w->position);
    w->apart = ha_carve(c, s.selected, sizeof *w->apart);
    w->apart_key = ha_carve(c, s.selected, sizeof *w->apart_key);
    w->apart_score = ha_carve(c, s.selected + HA_SCORES_PAD, sizeof *w->apart_score);
    w->column_key = ha_carve(c, s.columns * ldk, sizeof(float));
    w->column_value = ha_carve(c, s.columns * ha_cells_ldv(plan), sizeof(float));
    w->column_mass = ha_carve(c, s.columns, sizeof *w->column_mass);
    w->columns.logw = ha_carve(c, s.columns, sizeof(float));
    w->rank = ha_carve(c, ha_max(s.cells, s.keys), sizeof *w->rank);
    w->index = ha_carve(c, one, sizeof *w->index);
    w->w = ha_carve(c, one, sizeof *w->w);
    w->tilt = ha_carve(c, one, sizeof *w->tilt);
    w->sum = ha_carve(c, ha_max(ldk, ha_cells_ldv(plan)), sizeof *w->sum);
}

/* ---- rows ------------------------------------------------------------------------------------ */

void ha_bundle_load(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_query_rows *at)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan);
    const ha_rows q = ha_rows_at(&at->kh->q, at);
    plan->kernels->f32.load_q(w->q, &q, at->rows, d);
    w->nrows = at->rows;
    for (int64_t i = 0; i < at->rows; i++)
        w->finite[i] = (uint8_t)ha_is_finite_row(w->q + i * ld, d);
}

void ha_bundle_mean(const ha_cpu_plan *plan, ha_bundle_work *w)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan), found = 0;
    memset(w->mean, 0, (size_t)ld * sizeof *w->mean);
    for (int64_t i = 0; i < w->nrows; i++) {
        found += w->finite[i];
        for (int64_t c = 0; w->finite[i] && c < d; c++)
            w->mean[c] += w->q[i * ld + c];
    }
    for (int64_t c = 0; found && c < d; c++)
        w->mean[c] /= (float)found;
}

/* ---- columns --------------------------------------------------------------------------------- */

/* The next column, before it is known whether anything is left to stand for. */
static ha_moments expand_next(const ha_cpu_plan *plan, ha_bundle_work *w, ha_expansion *x)
{
    x->tilt = w->tilt;
    x->w = w->w;
    x->key = w->column_key + w->columns.n * ha_cells_ldk(plan);
    x->value = w->column_value + w->columns.n * ha_cells_ldv(plan);
    return ha_expand(plan, x);
}

/* It becomes a column. Returns its number, or -1. */
static int32_t add_column(ha_bundle_work *w, ha_moments m)
{
    if (m.mass == -INFINITY)
        return -1;
    w->column_mass[w->columns.n] = m.mass;
    w->columns.logw[w->columns.n] = m.mass - m.tilt;
    return (int32_t)w->columns.n++;
}

/* What is left of the candidates. */
static void candidate_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past)
{
    int64_t size = past->r->cell;
    for (int64_t x = 0; x < w->ncandidates; x++) {
        int64_t cell = w->candidates[x], first = w->place[cell];
        ha_expansion left = {.k = past->kh->k, .v = past->kh->v,
                             .n = ha_min(size, past->keys - cell * size)};
        for (int64_t j = 0; j < left.n; j++) {
            w->tilt[j] = w->key_score[first + j];
            w->w[j] = w->gone[first + j] ? -INFINITY : w->tilt[j];
        }
        left.k.index = left.v.index = w->keys + first;
        w->column[cell] = add_column(w, expand_next(plan, w, &left));
    }
}

/* Row of x without the n rows of `less`, whose weights w are parts of the whole. */
static void take_rows(const ha_cpu_plan *plan, const ha_bundle_work *w, float *x,
                      const ha_rows *less, int64_t n, float rest, int64_t columns)
{
    plan->kernels->sum_rows(w->sum, less, w->w, 1, n, columns);
    for (int64_t c = 0; c < columns; c++)
        x[c] = (x[c] - w->sum[c]) / rest;
}

/* What an expansion of cells is without the selected keys number [from, to) of those apart. */
static ha_moments take_out(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past,
                           const ha_expansion *far, ha_moments m, int64_t from, int64_t to)
{
    int64_t n = to - from;
    float taken = 0, tilt = 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t position = w->apart[from + j];
        w->w[j] = past->cells->share[position] + w->share[position >> past->r->cell_bits] - m.mass;
    }
    plan->kernels->exp2(w->w, n);
    for (int64_t j = 0; j < n; j++) {
        taken += w->w[j];
        tilt += w->w[j] * w->apart_score[from + j];
    }
    float rest = 1 - taken;
    if (!(rest > LEAST_REST))
        return (ha_moments){-INFINITY, 0};
    ha_rows k = past->kh->k, v = past->kh->v;
    k.index = v.index = w->apart_key + from;
    take_rows(plan, w, far->key, &k, n, rest, plan->problem->head_dim);
    take_rows(plan, w, far->value, &v, n, rest, plan->problem->head_dim_v);
    return (ha_moments){m.mass + log2f(rest), (m.tilt - tilt) / rest};
}

/* All other cells, moved to the mean query. */
static void far_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past)
{
    const ha_cells *cells = past->cells;
    const ha_recipe *r = past->r;
    int64_t ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan), per = r->far_cell / r->cell;
    int64_t n = past->ncells, from = 0, to = 0;
    for (int64_t first = 0; first < n; first += per, from = to) {
        ha_expansion far = {.k = {cells->key, ldk, w->index, 0, HYPERATTN_F32},
                            .v = {cells->value, ldv, w->index, 0, HYPERATTN_F32}};
        for (int64_t x = first; x < ha_min(n, first + per); x++) {
            if (w->place[x] >= 0 || cells->mass[x] == -INFINITY)
                continue;
            w->index[far.n] = (uint32_t)x;
            w->tilt[far.n] = w->cell_score[x];
            w->w[far.n] = w->share[x] = cells->mass[x] + w->cell_score[x];
            far.n++;
        }
        ha_moments m = expand_next(plan, w, &far);
        while (to < w->napart && w->apart[to] < (first + per) * r->cell)
            to++;
        if (to > from)
            m = take_out(plan, w, past, &far, m, from, to);
        int32_t column = add_column(w, m);
        for (int64_t j = 0; j < far.n && column >= 0; j++) {
            w->column[w->index[j]] = column;
            w->share[w->index[j]] -= w->column_mass[column];
        }
    }
}

void ha_bundle_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past,
                       ha_hits *hits)
{
    ha_choose(plan, w, past, hits);
    if (w->all)
        return;
    candidate_columns(plan, w, past);
    far_columns(plan, w, past);
    w->columns.k = (ha_rows){w->column_key, ha_cells_ldk(plan), NULL, 0, HYPERATTN_F32};
    w->columns.v = (ha_rows){w->column_value, ha_cells_ldv(plan), NULL, 0, HYPERATTN_F32};
    w->columns.kind = HA_EXACT_COLUMNS;
}
