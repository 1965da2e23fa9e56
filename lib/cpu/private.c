/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/private.h"

#include <math.h>
#include <string.h>

#include "int64.h"

/* The largest product of two codes. */
#define LARGEST_PRODUCT (HA_CODE_LARGEST * HA_CODE_LARGEST * HA_CODE)

/* Standard deviations of what codes leave out by which a guess may be low. */
#define MARGIN 2

/* A row's sum may lose so much to signed weights that its digits are in doubt: then the row is
 * attended exactly. */
#define LEAST_SUM 0x1p-10f

/* Keys that attend_in_place takes at a time, of a row that is attended exactly. */
#define EXACT_KEYS (1 << 20)

/* One thread's buffers. */
typedef struct ha_private_thread {
    float *projection; /* [rows of a bundle][HA_BASIS] */
    float *score;      /* [cells][4] */
    int16_t *threshold;
    uint32_t *hit, *key, *column;
    float *exact, *model, *share;
    float *value;      /* [ldv] */
} ha_private_thread;

void ha_privates_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_privates *privates)
{
    const ha_kernels *k = plan->kernels;
    int64_t cells = ha_most_cells(plan), ldp = ha_round_up(HA_BASIS, k->f32.lanes);
    privates->threads = ha_carve(c, nthreads, sizeof *privates->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_private_thread none, *t = c->base ? &privates->threads[i] : &none;
        t->projection = ha_carve(c, ha_round_up(HA_BUNDLE_ROWS, k->f32.mr) * ldp, sizeof(float));
        t->score = ha_carve(c, 4 * cells + HA_SCORES_PAD, sizeof(float));
        t->threshold = ha_carve(c, cells, sizeof *t->threshold);
        t->hit = ha_carve(c, HA_PRIVATE_ROOM, sizeof *t->hit);
        t->key = ha_carve(c, HA_PRIVATE_ROOM, sizeof *t->key);
        t->column = ha_carve(c, HA_PRIVATE_ROOM, sizeof *t->column);
        t->exact = ha_carve(c, HA_PRIVATE_ROOM + HA_SCORES_PAD, sizeof(float));
        t->model = ha_carve(c, HA_PRIVATE_ROOM + HA_SCORES_PAD, sizeof(float));
        t->share = ha_carve(c, HA_PRIVATE_ROOM, sizeof(float));
        t->value = ha_carve(c, ha_cells_ldv(plan), sizeof(float));
    }
}

/* ---- a row ----------------------------------------------------------------------------------- */

/* One row of a bundle. */
typedef struct lone_row {
    const ha_cpu_plan *plan;
    const ha_detector *det;
    ha_private_thread *t;
    const ha_open_bundle *b;
    const ha_bundle_work *w; /* of b */
    ha_recipe recipe;
    int rows; /* that are scored together */
    int64_t i;
} lone_row;

/* The keys whose guess is at least `least`; column scores are t->score[x * rows + lane]. */
static int64_t scan_row(const lone_row *row, const float *projection, int lane, float least)
{
    ha_private_thread *t = row->t;
    int8_t q[HA_CODE];
    int64_t ncells = (row->b->past + row->recipe.cell - 1) / row->recipe.cell;
    float per_unit = 1 / row->det->unit;
    int shift = 0;
    for (int64_t c = 0; c < HA_CODE; c++) {
        q[c] = (int8_t)ha_code_of(row->det->factor[0] * projection[c]);
        shift += (HA_CODE_LARGEST + 1) * q[c];
    }
    for (int64_t x = 0; x < ncells; x++) {
        /* the products are integers above need when they are above the integer below it */
        float need = (least - t->score[x * row->rows + lane]) * per_unit;
        int none = !(need <= LARGEST_PRODUCT) || row->w->column[x] < 0; /* also for a NaN */
        need = need > -LARGEST_PRODUCT ? need : -LARGEST_PRODUCT;
        t->threshold[x] = none ? INT16_MAX : (int16_t)((int)need - 1 + shift);
    }
    const ha_scan scan = {row->det->codes, q, t->threshold, ncells, ha_code_blocks(&row->recipe),
                          t->hit, HA_PRIVATE_ROOM};
    return row->plan->kernels->scan_codes(&scan);
}

/* Of the hits, those that are keys of their own right: no sinks, not selected, of the past. */
static int64_t keep_hits(const lone_row *row, int64_t hits)
{
    ha_private_thread *t = row->t;
    const ha_bundle_work *w = row->w;
    int64_t slots = ha_code_blocks(&row->recipe) * HA_CODE_KEYS, n = 0;
    for (int64_t h = 0; h < hits; h++) {
        int64_t cell = t->hit[h] / slots, x = t->hit[h] % slots;
        int64_t position = cell * row->recipe.cell + x;
        if (x >= row->recipe.cell || position >= row->b->past)
            continue;
        uint32_t key = *ha_past_keys(row->b->order, row->b->era, position);
        int32_t place = w->place[cell];
        if ((int64_t)key < row->recipe.sinks || (place >= 0 && w->gone[place + x]))
            continue;
        t->key[n] = key;
        t->column[n] = (uint32_t)w->column[cell];
        t->share[n] = place >= 0
                          ? w->key_score[place + x] - w->column_mass[w->column[cell]]
                          : row->b->cells->share[position] + w->share[cell];
        n++;
    }
    return n;
}

/* exact[j] and model[j]: what key j weighs, and what its column says that it does. */
static void weigh(const lone_row *row, int64_t n, float *top)
{
    const ha_cpu_plan *plan = row->plan;
    ha_private_thread *t = row->t;
    int64_t ldk = ha_cells_ldk(plan);
    const float *q = row->w->q + row->i * ldk;
    float scale = plan->problem->softmax_scale * HA_LOG2E;
    ha_rows k = row->b->at->kh->k, columns = row->w->columns.k;
    k.index = t->key;
    columns.index = t->column;
    const ha_scores exact = {t->exact, q, ldk, k, n, plan->problem->head_dim, 1, scale};
    const ha_scores model = {t->model, q, ldk, columns, n, plan->problem->head_dim, 1, scale};
    plan->kernels->score_rows(&exact);
    plan->kernels->score_rows(&model);
    for (int64_t j = 0; j < n; j++) {
        t->model[j] += row->w->columns.logw[t->column[j]] + t->share[j];
        *top = t->exact[j] > *top ? t->exact[j] : *top;
    }
    for (int64_t j = 0; j < n; j++) {
        t->exact[j] -= *top;
        t->model[j] -= *top;
    }
    plan->kernels->exp2(t->exact, n);
    plan->kernels->exp2(t->model, n);
}

/* The row attends to every key that it sees. */
static void attend_exactly(const lone_row *row)
{
    const ha_cpu_plan *plan = row->plan;
    const hyperattn_problem *p = plan->problem;
    const ha_layout *l = row->b->at->kh->layout;
    int64_t limit = p->causal ? ha_row_of(row->b->at, row->i) + 1 + l->nk - l->nq : l->nk;
    ha_softmax *s = row->b->s;
    float *acc = s->acc + row->i * plan->ldacc;
    s->m[row->i] = -INFINITY;
    s->l[row->i] = 0;
    memset(acc, 0, (size_t)plan->ldacc * sizeof *acc);
    for (int64_t first = 0; first < limit; first += EXACT_KEYS) {
        ha_in_place step = {
            .q = row->w->q + row->i * ha_cells_ldk(plan), .ldq = ha_cells_ldk(plan),
            .k = row->b->at->kh->k, .v = row->b->at->kh->v, .rows = 1,
            .nkeys = (int)ha_min(EXACT_KEYS, limit - first), .head_dim = (int)p->head_dim,
            .head_dim_v = (int)p->head_dim_v, .scale = p->softmax_scale * HA_LOG2E,
            .m = s->m + row->i, .l = s->l + row->i, .acc = acc, .ldacc = plan->ldacc,
        };
        step.k.first = step.v.first = first;
        plan->kernels->attend_in_place(&step);
    }
}

/* The row's keys enter it with the difference of their two weights. */
static void enter_keys(const lone_row *row, const ha_private_row *found)
{
    const ha_cpu_plan *plan = row->plan;
    ha_private_thread *t = row->t;
    ha_softmax *s = row->b->s;
    int64_t i = row->i, dv = plan->problem->head_dim_v;
    float *acc = s->acc + i * plan->ldacc, before = exp2f(s->m[i] - found->top);
    ha_rows v = row->b->at->kh->v;
    v.index = t->key;
    for (int64_t j = 0; j < found->n; j++)
        t->exact[j] -= t->model[j];
    plan->kernels->sum_rows(t->value, &v, t->exact, 1, found->n, dv);
    for (int64_t c = 0; c < dv; c++)
        acc[c] = acc[c] * before + t->value[c];
    s->m[i] = found->top;
    s->l[i] = found->sum;
}

/* Adds n keys to the row. */
static void add_private(const lone_row *row, int64_t n)
{
    const ha_private_thread *t = row->t;
    const ha_open_bundle *b = row->b;
    int64_t i = row->i;
    float top = b->s->m[i], gain = 0, most = 0;
    weigh(row, n, &top);
    float before = b->s->l[i] * exp2f(b->s->m[i] - top);
    for (int64_t j = 0; j < n; j++) {
        most += t->exact[j];
        gain += t->exact[j] - t->model[j];
    }
    float sum = before + gain;
    const ha_private_row found = {i, n, t->key, t->column, t->exact, t->model, top, sum,
                                  !(sum > LEAST_SUM * (before + most))};
    if (b->take)
        b->take(b->arg, &found);
    else if (found.in_doubt)
        attend_exactly(row);
    else
        enter_keys(row, &found);
}

static void detect_row(const lone_row *row, const float *projection, int lane)
{
    const ha_softmax *s = row->b->s;
    float least = s->m[row->i] + log2f(s->l[row->i]) - row->recipe.depth * HA_LOG2E -
                  MARGIN * row->det->left;
    if (!row->w->finite[row->i] || !isfinite(least))
        return;
    int64_t hits = scan_row(row, projection, lane, least);
    for (float step = 1; hits == HA_PRIVATE_ROOM; step *= 2) { /* scores may be of any size */
        least += step;
        hits = scan_row(row, projection, lane, least);
    }
    int64_t n = keep_hits(row, hits);
    if (n)
        add_private(row, n);
}

/* t->score: of the bundle's rows from row i on that are scored together, by each column of the
 * era. */
static void score_columns(const lone_row *row, int64_t i, int64_t ncells)
{
    const ha_cpu_plan *plan = row->plan;
    int64_t ldk = ha_cells_ldk(plan);
    const ha_rows keys = {row->b->cells->key, ldk, NULL, 0, HYPERATTN_F32};
    const ha_scores scores = {row->t->score, row->w->q + i * ldk, ldk, keys, ncells,
                              plan->problem->head_dim, row->rows,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
}

void ha_private_keys(const ha_cpu_plan *plan, const ha_privates *privates, int thread,
                     const ha_detector *det, const ha_open_bundle *bundle)
{
    const ha_kernels *kernels = plan->kernels;
    int64_t n = bundle->at->rows, nk = bundle->at->kh->layout->nk;
    int64_t ldp = ha_round_up(HA_BASIS, kernels->f32.lanes);
    lone_row row = {plan, det, &privates->threads[thread], bundle, bundle->work,
                    ha_recipe_of(plan->params, nk, plan->problem->causal), n < 4 ? 1 : 4, 0};
    int64_t ncells = (bundle->past + row.recipe.cell - 1) / row.recipe.cell;
    float *projection = row.t->projection;
    if (!det->usable)
        return;
    kernels->project(projection, ldp, row.w->q, ha_cells_ldk(plan), det->directions[0], n,
                     plan->problem->head_dim, HA_BASIS);
    for (int64_t first = 0; first < n; first += 4) {
        /* the last rows repeat those before them, where there are fewer than four */
        int64_t from = ha_max(0, ha_min(first, n - 4));
        for (int64_t i = first; i < ha_min(n, first + 4); i++) {
            if (row.rows == 1 || i == first)
                score_columns(&row, row.rows == 1 ? i : from, ncells);
            row.i = i;
            detect_row(&row, projection + i * ldp, row.rows == 1 ? 0 : (int)(i - from));
        }
    }
}
