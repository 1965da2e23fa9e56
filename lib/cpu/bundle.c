/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/bundle.h"

#include <math.h>
#include <string.h>

#include "algo/select.h"
#include "int64.h"

ha_bundle_sizes ha_largest_bundle(const ha_cpu_plan *plan)
{
    ha_bundle_sizes s = {0, 0, 0, 0, 0};
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        int64_t nk = plan->layouts[i].nk;
        const ha_recipe r = ha_recipe_of(plan->params, nk, plan->problem->causal);
        int64_t cells = (nk + r.cell - 1) / r.cell, taken = ha_min(cells, r.candidates);
        s.cells = ha_max(s.cells, cells);
        s.candidates = ha_max(s.candidates, taken);
        s.keys = ha_max(s.keys, ha_min(nk, taken * r.cell));
        s.selected = ha_max(s.selected, ha_min(nk, r.selected));
        s.columns = ha_max(s.columns, taken + (nk + r.far_cell - 1) / r.far_cell);
    }
    return s;
}

void ha_bundle_carve(ha_carver *c, const ha_cpu_plan *plan, ha_bundle_work *w)
{
    const ha_bundle_sizes s = ha_largest_bundle(plan);
    int64_t ldk = ha_cells_ldk(plan), one = ha_max(HA_SHORT_STRETCH, s.cells);
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
    w->chosen = ha_carve(c, s.selected, sizeof *w->chosen);
    w->gone = ha_carve(c, s.keys, 1);
    w->selected = ha_carve(c, s.selected, sizeof *w->selected);
    w->column_key = ha_carve(c, s.columns * ldk, sizeof(float));
    w->column_value = ha_carve(c, s.columns * ha_cells_ldv(plan), sizeof(float));
    w->column_mass = ha_carve(c, s.columns, sizeof *w->column_mass);
    w->columns.logw = ha_carve(c, s.columns, sizeof(float));
    w->rank = ha_carve(c, ha_max(s.cells, s.keys), sizeof *w->rank);
    w->index = ha_carve(c, one, sizeof *w->index);
    w->w = ha_carve(c, one, sizeof *w->w);
    w->tilt = ha_carve(c, one, sizeof *w->tilt);
}

/* ---- rows ------------------------------------------------------------------------------------ */

void ha_bundle_load(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_query_rows *at)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan), found = 0;
    const ha_rows q = ha_rows_at(&at->kh->q, at);
    plan->kernels->f32.load_q(w->q, &q, at->rows, d);
    memset(w->mean, 0, (size_t)ld * sizeof *w->mean);
    for (int64_t i = 0; i < at->rows; i++) {
        w->finite[i] = (uint8_t)ha_is_finite_row(w->q + i * ld, d);
        found += w->finite[i];
        for (int64_t c = 0; w->finite[i] && c < d; c++)
            w->mean[c] += w->q[i * ld + c];
    }
    for (int64_t c = 0; found && c < d; c++)
        w->mean[c] /= (float)found;
}

/* ---- choices --------------------------------------------------------------------------------- */

static void choose_cells(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_cells *cells,
                         int64_t n, int64_t candidates)
{
    int64_t ld = ha_cells_ldk(plan);
    const ha_rows keys = {cells->key, ld, NULL, 0, HYPERATTN_F32};
    const ha_scores scores = {w->cell_score, w->mean, ld, keys, n, plan->problem->head_dim, 1,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t x = 0; x < n; x++) {
        int empty = cells->mass[x] == -INFINITY;
        w->rank[x] = empty ? 0 : ha_rank_of(cells->mass[x] + w->cell_score[x]);
        w->place[x] = w->column[x] = -1;
    }
    w->ncandidates = ha_largest(w->rank, n, candidates, w->candidates);
}

/* The candidates' keys, and the heaviest of them. */
static void choose_keys(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                        const ha_order *order, const ha_era *era, const ha_recipe *r, int64_t past)
{
    ha_rows k = kh->k;
    w->nkeys = 0;
    for (int64_t x = 0; x < w->ncandidates; x++) {
        int64_t first = w->candidates[x] * r->cell, n = ha_min(r->cell, past - first);
        memcpy(w->keys + w->nkeys, ha_past_keys(order, era, first), (size_t)n * sizeof *w->keys);
        w->place[w->candidates[x]] = (int32_t)w->nkeys;
        w->nkeys += n;
    }
    k.index = w->keys;
    const ha_scores scores = {w->key_score, w->mean, ha_cells_ldk(plan), k, w->nkeys,
                              plan->problem->head_dim, 1,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t j = 0; j < w->nkeys; j++)
        w->rank[j] = (int64_t)w->keys[j] < r->sinks ? 0 : ha_rank_of(w->key_score[j]);
    w->nselected = ha_largest(w->rank, w->nkeys, r->selected, w->chosen);
    for (int64_t x = 0; x < w->nselected; x++)
        w->selected[x] = w->keys[w->chosen[x]];
}

/* ---- columns --------------------------------------------------------------------------------- */

/* The next column, unless nothing is left to stand for. Returns its number, or -1. */
static int32_t add_column(const ha_cpu_plan *plan, ha_bundle_work *w, ha_expansion *x)
{
    int64_t number = w->columns.n;
    x->tilt = w->tilt;
    x->w = w->w;
    x->key = w->column_key + number * ha_cells_ldk(plan);
    x->value = w->column_value + number * ha_cells_ldv(plan);
    const ha_moments m = ha_expand(plan, x);
    if (m.mass == -INFINITY)
        return -1;
    w->column_mass[number] = m.mass;
    w->columns.logw[number] = m.mass - m.tilt;
    w->columns.n++;
    return (int32_t)number;
}

/* What is left of the candidates. */
static void candidate_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                              const ha_recipe *r, int64_t past)
{
    for (int64_t j = 0; j < w->nkeys; j++)
        w->gone[j] = (int64_t)w->keys[j] < r->sinks;
    for (int64_t x = 0; x < w->nselected; x++)
        w->gone[w->chosen[x]] = 1;
    for (int64_t x = 0; x < w->ncandidates; x++) {
        int64_t cell = w->candidates[x], first = w->place[cell];
        ha_expansion left = {.k = kh->k, .v = kh->v, .n = ha_min(r->cell, past - cell * r->cell)};
        for (int64_t j = 0; j < left.n; j++) {
            w->tilt[j] = w->key_score[first + j];
            w->w[j] = w->gone[first + j] ? -INFINITY : w->tilt[j];
        }
        left.k.index = left.v.index = w->keys + first;
        w->column[cell] = add_column(plan, w, &left);
    }
}

/* All other cells, moved to the mean query. */
static void far_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_cells *cells,
                        const ha_recipe *r, int64_t n)
{
    int64_t ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan), per = r->far_cell / r->cell;
    for (int64_t first = 0; first < n; first += per) {
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
        int32_t column = add_column(plan, w, &far);
        for (int64_t j = 0; j < far.n && column >= 0; j++) {
            w->column[w->index[j]] = column;
            w->share[w->index[j]] -= w->column_mass[column];
        }
    }
}

void ha_bundle_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                       const ha_order *order, const ha_cells *cells, const ha_era *era,
                       int64_t past)
{
    const ha_recipe r = ha_recipe_of(plan->params, kh->layout->nk, plan->problem->causal);
    int64_t n = (past + r.cell - 1) / r.cell;
    choose_cells(plan, w, cells, n, r.candidates);
    choose_keys(plan, w, kh, order, era, &r, past);
    w->columns.n = 0;
    candidate_columns(plan, w, kh, &r, past);
    far_columns(plan, w, cells, &r, n);
    w->columns.k = (ha_rows){w->column_key, ha_cells_ldk(plan), NULL, 0, HYPERATTN_F32};
    w->columns.v = (ha_rows){w->column_value, ha_cells_ldv(plan), NULL, 0, HYPERATTN_F32};
    w->columns.kind = HA_EXACT_COLUMNS;
}
