/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/bundle.h"

#include <math.h>
#include <string.h>

#include "algo/select.h"
#include "int64.h"

#define R HA_REPRESENTATIVES

/* Rounds of moving representatives to the middle of the rows that are nearest. */
#define ROUNDS 3

/* The largest sizes of any layout's recipe. */
static void largest(const ha_cpu_plan *plan, int64_t *keys, int64_t *candidates, int64_t *selected,
                    int64_t *columns)
{
    *keys = *candidates = *selected = *columns = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        int64_t nk = plan->layouts[i].nk;
        const ha_recipe r = ha_recipe_of(plan->params, nk, plan->problem->causal);
        int64_t cells = (nk + r.cell - 1) / r.cell, taken = ha_min(cells, r.candidates);
        *candidates = ha_max(*candidates, taken);
        *keys = ha_max(*keys, ha_min(nk, taken * r.cell));
        *selected = ha_max(*selected, ha_min(nk, r.selected));
        *columns = ha_max(*columns, taken + (nk + r.far_cell - 1) / r.far_cell);
    }
}

void ha_bundle_carve(ha_carver *c, const ha_cpu_plan *plan, ha_bundle_work *w)
{
    int64_t cells = ha_most_cells(plan), ldk = ha_cells_ldk(plan), keys, candidates, selected, n;
    largest(plan, &keys, &candidates, &selected, &n);
    int64_t scored = ha_max(cells, keys), one = ha_max(HA_SHORT_STRETCH, cells);
    int64_t rows = ha_round_up(ha_rows_held(plan, HA_BUNDLE_ROWS), plan->kernels->f32.mr);
    w->q = ha_carve(c, rows * ldk, sizeof *w->q);
    w->finite = ha_carve(c, rows, sizeof *w->finite);
    w->nearest = ha_carve(c, rows, 1);
    w->centre = ha_carve(c, R * ldk, sizeof *w->centre);
    w->mean = ha_carve(c, ldk, sizeof *w->mean);
    w->score = ha_carve(c, ha_max(rows, scored) * R + HA_SCORES_PAD, sizeof *w->score);
    w->weight = ha_carve(c, scored * R, sizeof *w->weight);
    w->rank = ha_carve(c, scored, sizeof *w->rank);
    w->candidates = ha_carve(c, candidates, sizeof *w->candidates);
    w->is_candidate = ha_carve(c, cells, 1);
    w->keys = ha_carve(c, keys, sizeof *w->keys);
    w->chosen = ha_carve(c, selected, sizeof *w->chosen);
    w->selected = ha_carve(c, selected, sizeof *w->selected);
    w->column_key = ha_carve(c, n * ha_cells_ldk(plan), sizeof(float));
    w->column_value = ha_carve(c, n * ha_cells_ldv(plan), sizeof(float));
    w->columns.logw = ha_carve(c, n + plan->arith->nr, sizeof(float));
    w->w = ha_carve(c, one, sizeof *w->w);
    w->tilt = ha_carve(c, one, sizeof *w->tilt);
    w->index = ha_carve(c, one, sizeof *w->index);
}

/* ---- representatives ------------------------------------------------------------------------- */

static float length2(const float *x, int64_t n)
{
    float sum = 0;
    for (int64_t c = 0; c < n; c++)
        sum += x[c] * x[c];
    return sum;
}

/* Some rows, evenly spaced, to begin with; those beyond `used` repeat the first and stand for none. */
static int64_t first_centres(const ha_cpu_plan *plan, ha_bundle_work *w)
{
    const hyperattn_params *p = plan->params;
    int64_t ld = ha_cells_ldk(plan), wanted = p->num_representatives ? p->num_representatives : R;
    int64_t used = ha_min(wanted, w->nfinite);
    for (int64_t i = 0; i < R; i++) {
        int64_t step = used ? w->nfinite / used : 0, x = i < used ? step / 2 + i * step : 0;
        if (used)
            memcpy(w->centre + i * ld, w->q + w->finite[x] * ld, (size_t)ld * sizeof(float));
        else
            memset(w->centre + i * ld, 0, (size_t)ld * sizeof(float));
    }
    return used;
}

/* Each row joins the nearest centre: the largest q.c - |c|^2 / 2. */
static void join(const ha_cpu_plan *plan, ha_bundle_work *w, int64_t used)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan);
    const ha_rows rows = {w->q, ld, w->finite, 0, HYPERATTN_F32};
    const ha_scores scores = {w->score, w->centre, ld, rows, w->nfinite, d, R, 1};
    float half[R];
    plan->kernels->score_rows(&scores);
    for (int64_t i = 0; i < used; i++)
        half[i] = length2(w->centre + i * ld, d) / 2;
    for (int64_t x = 0; x < w->nfinite; x++) {
        int64_t best = 0;
        for (int64_t i = 1; i < used; i++)
            if (w->score[x * R + i] - half[i] > w->score[x * R + best] - half[best])
                best = i;
        w->nearest[x] = (uint8_t)best;
    }
}

/* Each centre becomes the mean of its rows. */
static void centre(const ha_cpu_plan *plan, ha_bundle_work *w, int64_t used)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan);
    for (int64_t i = 0; i < used; i++) {
        float *c = w->centre + i * ld;
        int64_t count = 0;
        for (int64_t x = 0; x < w->nfinite; x++)
            count += w->nearest[x] == i;
        w->share[i] = (float)count / (float)w->nfinite;
        if (!count)
            continue;
        memset(c, 0, (size_t)ld * sizeof *c);
        for (int64_t x = 0; x < w->nfinite; x++)
            for (int64_t f = 0; w->nearest[x] == i && f < d; f++)
                c[f] += w->q[w->finite[x] * ld + f];
        for (int64_t f = 0; f < d; f++)
            c[f] /= (float)count;
    }
}

void ha_bundle_load(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_query_rows *at)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan);
    const ha_rows q = ha_rows_at(&at->kh->q, at);
    plan->kernels->f32.load_q(w->q, &q, at->rows, d);
    w->nfinite = 0;
    for (int64_t i = 0; i < at->rows; i++)
        if (isfinite(length2(w->q + i * ld, d)))
            w->finite[w->nfinite++] = (uint32_t)i;
    int64_t used = first_centres(plan, w);
    memset(w->share, 0, sizeof w->share);
    for (int round = 0; used && round < ROUNDS; round++) {
        join(plan, w, used);
        centre(plan, w, used);
    }
    memset(w->mean, 0, (size_t)ld * sizeof *w->mean);
    for (int64_t i = 0; i < used; i++)
        for (int64_t c = 0; c < d; c++)
            w->mean[c] += w->share[i] * w->centre[i * ld + c];
    if (!used)
        w->share[0] = 1;
}

/* What the rows of each representative have seen up to now: the mean of their log2. */
static void near_sums(ha_bundle_work *w, const ha_softmax *seen)
{
    int64_t count[R] = {0};
    for (int64_t i = 0; i < R; i++)
        w->near[i] = 0;
    for (int64_t x = 0; x < w->nfinite; x++) {
        int64_t row = w->finite[x], i = w->nearest[x];
        float sum = seen->m[row] + log2f(seen->l[row]);
        if (isfinite(sum)) {
            w->near[i] += sum;
            count[i]++;
        }
    }
    for (int64_t i = 0; i < R; i++)
        w->near[i] = count[i] ? w->near[i] / (float)count[i] : -INFINITY;
}

/* ---- choices --------------------------------------------------------------------------------- */

/* weight[x][i], the log2 scores of n things by each representative, become their shares in what its
 * rows see; rank[x]: of the sum over rows. Those with a score of -inf have rank 0. */
static void rank_all(const ha_cpu_plan *plan, ha_bundle_work *w, int64_t n)
{
    float top[R], factor[R], sum[R] = {0};
    for (int64_t i = 0; i < R; i++) {
        top[i] = w->near[i];
        for (int64_t x = 0; x < n; x++)
            top[i] = w->weight[x * R + i] > top[i] ? w->weight[x * R + i] : top[i];
        top[i] = top[i] == -INFINITY ? 0 : top[i];
    }
    for (int64_t x = 0; x < n; x++) {
        w->rank[x] = w->weight[x * R] == -INFINITY ? 0 : 1;
        for (int64_t i = 0; i < R; i++)
            w->weight[x * R + i] -= top[i];
    }
    plan->kernels->exp2(w->weight, n * R);
    for (int64_t x = 0; x < n; x++)
        for (int64_t i = 0; i < R; i++)
            sum[i] += w->weight[x * R + i];
    for (int64_t i = 0; i < R; i++)
        factor[i] = w->share[i] / (sum[i] + exp2f(w->near[i] - top[i]));
    for (int64_t x = 0; x < n; x++) {
        float share = 0;
        for (int64_t i = 0; i < R; i++)
            share += w->share[i] > 0 ? factor[i] * w->weight[x * R + i] : 0;
        w->rank[x] = w->rank[x] ? ha_rank_of(share) : 0;
    }
}

/* score: s c_i.kt of every cell and representative; weight: with the mass. */
static void score_cells(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_cells *cells,
                        int64_t n)
{
    const hyperattn_problem *p = plan->problem;
    int64_t ld = ha_cells_ldk(plan);
    const ha_rows keys = {cells->key, ld, NULL, 0, HYPERATTN_F32};
    const ha_scores scores = {w->score, w->centre, ld, keys, n, p->head_dim, R,
                              p->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t x = 0; x < n; x++)
        for (int64_t i = 0; i < R; i++)
            w->weight[x * R + i] = cells->mass[x] + w->score[x * R + i];
}

/* The keys of the candidates, and their scores. */
static void score_keys(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                       const ha_order *order, const ha_era *era, const ha_recipe *r, int64_t past)
{
    const hyperattn_problem *p = plan->problem;
    ha_rows k = kh->k;
    w->nkeys = 0;
    for (int64_t x = 0; x < w->ncandidates; x++) {
        int64_t first = w->candidates[x] * r->cell, n = ha_min(r->cell, past - first);
        memcpy(w->keys + w->nkeys, ha_past_keys(order, era, first), (size_t)n * sizeof *w->keys);
        w->nkeys += n;
    }
    k.index = w->keys;
    const ha_scores scores = {w->score, w->centre, ha_cells_ldk(plan), k, w->nkeys, p->head_dim, R,
                              p->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t j = 0; j < w->nkeys; j++)
        for (int64_t i = 0; i < R; i++)
            w->weight[j * R + i] =
                (int64_t)w->keys[j] < r->sinks ? -INFINITY : w->score[j * R + i];
}

/* ---- columns --------------------------------------------------------------------------------- */

/* A score by the mean query, of those by the representatives. */
static float mean_score(const ha_bundle_work *w, int64_t x)
{
    float sum = 0;
    for (int64_t i = 0; i < R; i++)
        sum += w->share[i] > 0 ? w->share[i] * w->score[x * R + i] : 0;
    return sum;
}

/* Room for the next column. */
static ha_expansion next_column(const ha_cpu_plan *plan, const ha_bundle_work *w)
{
    return (ha_expansion){
        .tilt = w->tilt, .tilt_step = 1, .w = w->w,
        .key = w->column_key + w->columns.n * ha_cells_ldk(plan),
        .value = w->column_value + w->columns.n * ha_cells_ldv(plan),
    };
}

/* Keeps the column unless it is empty. */
static void add_column(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_expansion *x)
{
    const ha_moments m = ha_expand(plan, x);
    if (m.mass == -INFINITY)
        return;
    w->columns.logw[w->columns.n++] = m.mass - m.tilt;
}

/* What is left of the candidates. */
static void near_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                         const ha_recipe *r, int64_t past)
{
    int64_t taken = 0;
    for (int64_t x = 0, first = 0; x < w->ncandidates; x++) {
        int64_t n = ha_min(r->cell, past - w->candidates[x] * r->cell);
        ha_expansion cell = next_column(plan, w);
        for (int64_t j = 0; j < n; j++) {
            int gone = (int64_t)w->keys[first + j] < r->sinks;
            if (taken < w->nselected && w->chosen[taken] == first + j) {
                gone = 1;
                taken++;
            }
            w->tilt[j] = mean_score(w, first + j);
            w->w[j] = gone ? -INFINITY : w->tilt[j];
        }
        cell.k = kh->k;
        cell.v = kh->v;
        cell.k.index = cell.v.index = w->keys + first;
        cell.n = n;
        add_column(plan, w, &cell);
        first += n;
    }
}

/* All other cells, moved to the mean query. */
static void far_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_cells *cells,
                        const ha_recipe *r, int64_t n)
{
    int64_t ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan), per = r->far_cell / r->cell;
    for (int64_t first = 0; first < n; first += per) {
        ha_expansion far = next_column(plan, w);
        for (int64_t x = first; x < ha_min(n, first + per); x++) {
            if (w->is_candidate[x] || cells->mass[x] == -INFINITY)
                continue;
            w->index[far.n] = (uint32_t)x;
            w->tilt[far.n] = mean_score(w, x);
            w->w[far.n] = cells->mass[x] + w->tilt[far.n];
            far.n++;
        }
        far.k = (ha_rows){cells->key, ldk, w->index, 0, HYPERATTN_F32};
        far.v = (ha_rows){cells->value, ldv, w->index, 0, HYPERATTN_F32};
        add_column(plan, w, &far);
    }
}

void ha_bundle_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                       const ha_order *order, const ha_cells *cells, const ha_era *era,
                       int64_t past, const ha_softmax *seen)
{
    const ha_recipe r = ha_recipe_of(plan->params, kh->layout->nk, plan->problem->causal);
    int64_t n = (past + r.cell - 1) / r.cell;
    w->columns.n = 0;
    near_sums(w, seen);
    score_cells(plan, w, cells, n);
    rank_all(plan, w, n);
    w->ncandidates = ha_largest(w->rank, n, r.candidates, w->candidates);
    memset(w->is_candidate, 0, (size_t)n);
    for (int64_t x = 0; x < w->ncandidates; x++)
        w->is_candidate[w->candidates[x]] = 1;
    far_columns(plan, w, cells, &r, n);
    score_keys(plan, w, kh, order, era, &r, past);
    rank_all(plan, w, w->nkeys);
    w->nselected = ha_largest(w->rank, w->nkeys, r.selected, w->chosen);
    for (int64_t x = 0; x < w->nselected; x++)
        w->selected[x] = w->keys[w->chosen[x]];
    near_columns(plan, w, kh, &r, past);
    w->columns.k = (ha_rows){w->column_key, ha_cells_ldk(plan), NULL, 0, HYPERATTN_F32};
    w->columns.v = (ha_rows){w->column_value, ha_cells_ldv(plan), NULL, 0, HYPERATTN_F32};
}
