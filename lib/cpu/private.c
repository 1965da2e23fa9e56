/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/private.h"

#include <math.h>
#include <string.h>

#include "int64.h"

/* Standard deviations of what codes leave out by which a guess may be low. */
#define MARGIN 2

/* Rows that columns are scored for at a time. */
#define SCORED_ROWS 16

/* Most keys of one row that are scored at a time. */
#define ROOM 1024

/* A row's sum may lose so much to signed weights that its digits are in doubt: then the row is
 * attended exactly. */
#define LEAST_SUM 0x1p-10f

/* Keys that attend_in_place takes at a time, of a row that is attended exactly. */
#define EXACT_KEYS (1 << 20)

/* One thread's buffers. */
typedef struct ha_private_thread {
    float *projection; /* [rows of a bundle][HA_BASIS] */
    float *by_cell;    /* products with the columns of the era: [rows][sets of cells] */
    float *by_column;  /* and with those of the bundle: [rows][columns] */
    float *columns;    /* which are packed here */
    uint32_t *hit, *key, *column;
    float *exact, *model, *share;
    float *value;      /* [ldv] */
} ha_private_thread;

static int64_t scored_rows(const ha_cpu_plan *plan)
{
    return ha_round_up(SCORED_ROWS, plan->kernels->f32.mr);
}

void ha_privates_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_privates *privates)
{
    const ha_kernels *k = plan->kernels;
    int64_t ldp = ha_round_up(HA_BASIS, k->f32.lanes), rows = scored_rows(plan);
    int64_t cells = ha_round_up(ha_most_cells(plan), HA_CODE_KEYS);
    int64_t columns = ha_most_columns(plan);
    privates->threads = ha_carve(c, nthreads, sizeof *privates->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_private_thread none, *t = c->base ? &privates->threads[i] : &none;
        t->projection = ha_carve(c, ha_round_up(HA_BUNDLE_ROWS, k->f32.mr) * ldp, sizeof(float));
        t->by_cell = ha_carve(c, rows * cells, sizeof(float));
        t->by_column = ha_carve(c, rows * ha_round_up(columns, k->f32.lanes), sizeof(float));
        t->columns = ha_carve(
            c, (int64_t)ha_k_bytes(&k->f32, columns, plan->problem->head_dim), 1);
        t->hit = ha_carve(c, ROOM, sizeof *t->hit);
        t->key = ha_carve(c, ROOM, sizeof *t->key);
        t->column = ha_carve(c, ROOM, sizeof *t->column);
        t->exact = ha_carve(c, ROOM + HA_SCORES_PAD, sizeof(float));
        t->model = ha_carve(c, ROOM, sizeof(float));
        t->share = ha_carve(c, ROOM, sizeof(float));
        t->value = ha_carve(c, ha_cells_ldv(plan), sizeof(float));
    }
}

/* ---- a row ----------------------------------------------------------------------------------- */

/* One row of a bundle. */
typedef struct lone_row {
    const ha_cpu_plan *plan;
    const ha_detector *det;
    const ha_era_basis *directions;
    ha_private_thread *t;
    const ha_open_bundle *b;
    const ha_bundle_work *w; /* of b */
    ha_recipe recipe;
    int64_t nsets;
    int64_t i;
    const float *projection, *by_cell, *by_column; /* its own */
} lone_row;

/* The keys whose guess is at least `least`. */
static int64_t scan_row(const lone_row *row, float least)
{
    int8_t q[HA_CODE];
    for (int64_t c = 0; c < HA_CODE; c++)
        q[c] = (int8_t)ha_code_of(row->directions->factor[0] * row->projection[c]);
    const ha_scan scan = {
        .codes = row->det->codes, .boxes = row->det->boxes, .q = q, .score = row->by_cell,
        .scale = row->plan->problem->softmax_scale * HA_LOG2E, .least = least,
        .unit = row->directions->unit, .nsets = row->nsets,
        .blocks = ha_code_blocks(&row->recipe), .hit = row->t->hit, .room = ROOM,
    };
    return row->plan->kernels->scan_codes(&scan);
}

/* Of the hits, those that are keys of their own right: no sinks, not selected, of the past. */
static int64_t keep_hits(const lone_row *row, int64_t hits)
{
    ha_private_thread *t = row->t;
    const ha_bundle_work *w = row->w;
    uint32_t slots = (uint32_t)ha_code_blocks(&row->recipe) * HA_CODE_KEYS;
    int64_t n = 0;
    for (int64_t h = 0; h < hits; h++) {
        uint32_t cell = t->hit[h] / slots, x = t->hit[h] % slots;
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
    ha_rows k = row->b->at->kh->k;
    k.index = t->key;
    const ha_scores exact = {t->exact, q, ldk, k, n, plan->problem->head_dim, 1, scale};
    plan->kernels->score_rows(&exact);
    for (int64_t j = 0; j < n; j++) {
        uint32_t column = t->column[j];
        t->model[j] = row->by_column[column] * scale + row->w->columns.logw[column] + t->share[j];
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

/* Adds n keys to the row with the difference of the two weights. */
static void add_private(const lone_row *row, int64_t n)
{
    const ha_cpu_plan *plan = row->plan;
    ha_private_thread *t = row->t;
    ha_softmax *s = row->b->s;
    int64_t i = row->i, dv = plan->problem->head_dim_v;
    float *acc = s->acc + i * plan->ldacc, top = s->m[i], gain = 0, most = 0;
    weigh(row, n, &top);
    float before = exp2f(s->m[i] - top);
    for (int64_t j = 0; j < n; j++) {
        most += t->exact[j];
        t->exact[j] -= t->model[j];
        gain += t->exact[j];
    }
    float sum = s->l[i] * before + gain;
    if (!(sum > LEAST_SUM * (s->l[i] * before + most))) {
        attend_exactly(row);
        return;
    }
    ha_rows v = row->b->at->kh->v;
    v.index = t->key;
    plan->kernels->sum_rows(t->value, &v, t->exact, 1, n, dv);
    for (int64_t c = 0; c < dv; c++)
        acc[c] = acc[c] * before + t->value[c];
    s->m[i] = top;
    s->l[i] = sum;
}

static void detect_row(const lone_row *row)
{
    const ha_softmax *s = row->b->s;
    float least = s->m[row->i] + log2f(s->l[row->i]) - row->recipe.depth * HA_LOG2E -
                  MARGIN * row->directions->left;
    if (!row->w->finite[row->i] || !isfinite(least))
        return;
    int64_t hits = scan_row(row, least);
    for (float step = 1; hits == ROOM; step *= 2) { /* scores may be of any size */
        least += step;
        hits = scan_row(row, least);
    }
    int64_t n = keep_hits(row, hits);
    if (n)
        add_private(row, n);
}

/* ---- a bundle -------------------------------------------------------------------------------- */

/* by_cell of n rows: where a cell has no column, or does not exist, NaN. */
static void score_cells(const lone_row *row, const float *q, int64_t n)
{
    const ha_cpu_plan *plan = row->plan;
    int64_t ld = row->nsets * HA_CODE_KEYS;
    int64_t ncells = (row->b->past + row->recipe.cell - 1) / row->recipe.cell;
    float *by_cell = row->t->by_cell;
    plan->kernels->project(by_cell, ld, q, ha_cells_ldk(plan), row->det->columns, n,
                           plan->problem->head_dim, ld);
    for (int64_t x = 0; x < ld; x++)
        for (int64_t i = 0; i < n && (x >= ncells || row->w->column[x] < 0); i++)
            by_cell[i * ld + x] = NAN;
}

void ha_private_keys(const ha_cpu_plan *plan, const ha_privates *privates, int thread,
                     const ha_detector *det, const ha_era_basis *directions,
                     const ha_open_bundle *bundle)
{
    const ha_kernels *kernels = plan->kernels;
    const ha_bundle_work *w = bundle->work;
    ha_private_thread *t = &privates->threads[thread];
    int64_t n = bundle->at->rows, d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    int64_t ldp = ha_round_up(HA_BASIS, kernels->f32.lanes), step = scored_rows(plan);
    int64_t ldc = ha_round_up(w->columns.n, kernels->f32.lanes);
    const ha_recipe recipe =
        ha_recipe_of(plan->params, bundle->at->kh->layout->nk, plan->problem->causal);
    int64_t ncells = (bundle->past + recipe.cell - 1) / recipe.cell;
    lone_row row = {.plan = plan, .det = det, .directions = directions, .t = t, .b = bundle,
                    .w = w, .recipe = recipe,
                    .nsets = (ncells + HA_CODE_KEYS - 1) / HA_CODE_KEYS};
    if (!directions->usable)
        return;
    kernels->project(t->projection, ldp, w->q, ldk, directions->packed[0], n, d, HA_BASIS);
    kernels->f32.pack_k(t->columns, &w->columns.k, w->columns.n, d);
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = ha_min(step, n - first);
        score_cells(&row, w->q + first * ldk, rows);
        kernels->project(t->by_column, ldc, w->q + first * ldk, ldk, t->columns, rows, d,
                         w->columns.n);
        for (int64_t i = 0; i < rows; i++) {
            row.i = first + i;
            row.projection = t->projection + row.i * ldp;
            row.by_cell = t->by_cell + i * row.nsets * HA_CODE_KEYS;
            row.by_column = t->by_column + i * ldc;
            detect_row(&row);
        }
    }
}
