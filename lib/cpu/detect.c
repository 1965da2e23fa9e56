/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/detect.h"

#include <math.h>
#include <string.h>

#include "int64.h"

/* Rows and keys from which an era's directions are found. */
#define SAMPLES 512

/* Standard deviations of the strongest direction that a code spans. */
#define SPAN 4

/* Largest number of a code, and the largest product of two codes. */
#define LARGEST 31
#define LARGEST_PRODUCT (LARGEST * LARGEST * HA_CODE)

/* Standard deviations of what codes leave out by which a guess may be low. */
#define MARGIN 2

/* Most keys of one row that are scored at a time. */
#define ROOM 1024

/* A row's sum may lose so much to signed weights that its digits are in doubt: then the row is
 * attended exactly. */
#define LEAST_SUM 0x1p-10f

struct ha_detect_thread {
    float *rows;       /* [SAMPLES][ldk] */
    float *c, *m, *scratch;
    ha_basis basis;
    float *projection; /* [rows of a bundle or keys of a cell][HA_BASIS] */
    float *centre;     /* of a column */
    float *score;      /* [cells][4] */
    int16_t *threshold;
    uint32_t *hit, *key, *column;
    float *exact, *model, *share;
    float *value;      /* [ldv] */
    float *acc;        /* of a row that is attended exactly */
};

typedef struct ha_detect_thread detect_thread;

/* Blocks of codes that a cell has. */
static int blocks_of(const ha_recipe *r)
{
    return (int)((r->cell + HA_CODE_KEYS - 1) / HA_CODE_KEYS);
}

int ha_detects(const ha_cpu_plan *plan)
{
    return ha_recipe_of(plan->params, plan->max.nk, plan->problem->causal).depth > 0 &&
           plan->problem->head_dim <= HA_BASIS_DIM;
}

ha_detect_thread *ha_detect_thread_at(const ha_detectors *d, int thread)
{
    return &d->threads[thread];
}

static void carve_thread(ha_carver *c, const ha_cpu_plan *plan, detect_thread *t)
{
    const ha_kernels *k = plan->kernels;
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan), cells = ha_most_cells(plan);
    int64_t rows = ha_round_up(ha_max(HA_BUNDLE_ROWS, HA_SHORT_STRETCH), k->f32.mr);
    int64_t ldp = ha_round_up(HA_BASIS, k->f32.lanes);
    t->rows = ha_carve(c, (SAMPLES + k->f32.mr) * ldk, sizeof(float)); /* load_q fills its last MR */
    t->c = ha_carve(c, d * ldk, sizeof(float));
    t->m = ha_carve(c, d * ldk, sizeof(float));
    t->scratch = ha_carve(c, ha_basis_scratch(d), sizeof(float));
    t->basis.query = ha_carve(c, d * HA_BASIS, sizeof(float));
    t->basis.key = ha_carve(c, d * HA_BASIS, sizeof(float));
    t->projection = ha_carve(c, rows * ldp, sizeof(float));
    t->centre = ha_carve(c, k->f32.mr * (ldp + ldk), sizeof(float));
    t->score = ha_carve(c, 4 * cells + HA_SCORES_PAD, sizeof(float));
    t->threshold = ha_carve(c, cells, sizeof *t->threshold);
    t->hit = ha_carve(c, ROOM, sizeof *t->hit);
    t->key = ha_carve(c, ROOM, sizeof *t->key);
    t->column = ha_carve(c, ROOM, sizeof *t->column);
    t->exact = ha_carve(c, ROOM + HA_SCORES_PAD, sizeof(float));
    t->model = ha_carve(c, ROOM + HA_SCORES_PAD, sizeof(float));
    t->share = ha_carve(c, ROOM, sizeof(float));
    t->value = ha_carve(c, ha_cells_ldv(plan), sizeof(float));
    t->acc = ha_carve(c, plan->ldacc, sizeof(float));
}

void ha_detectors_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_detectors *d)
{
    const ha_recipe r = ha_recipe_of(plan->params, plan->max.nk, plan->problem->causal);
    int64_t heads = ha_detects(plan) ? plan->in_flight * plan->group : 0, dim = plan->problem->head_dim;
    int64_t codes = ha_most_cells(plan) * blocks_of(&r) * HA_CODE * HA_CODE_KEYS;
    d->heads = ha_carve(c, heads, sizeof *d->heads);
    for (int64_t i = 0; i < heads; i++) {
        ha_detector none, *det = c->base ? &d->heads[i] : &none;
        for (int side = 0; side < 2; side++)
            det->directions[side] =
                ha_carve(c, (int64_t)ha_k_bytes(&plan->kernels->f32, HA_BASIS, dim), 1);
        det->codes = ha_carve(c, codes, 1);
    }
    d->threads = ha_carve(c, nthreads, sizeof *d->threads);
    for (int i = 0; heads && i < nthreads; i++) {
        detect_thread none, *t = c->base ? &d->threads[i] : &none;
        carve_thread(c, plan, t);
    }
}

/* ---- directions ------------------------------------------------------------------------------ */

/* sum[i][j] = sum over n rows of x_i x_j. */
static void moments(const ha_cpu_plan *plan, const detect_thread *t, float *sum, int64_t n)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    const ha_rows rows = {t->rows, ldk, NULL, 0, HYPERATTN_F32};
    for (int64_t i = 0; i < d; i++) {
        plan->kernels->sum_rows(t->scratch, &rows, t->rows + i, ldk, n, d);
        for (int64_t j = 0; j < d; j++)
            sum[i * d + j] = t->scratch[j] / (float)n;
    }
}

/* The era's queries, those that are finite. */
static int64_t sample_queries(const ha_cpu_plan *plan, const detect_thread *t,
                              const ha_key_head *kh, int64_t head, const ha_era *era)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan), found = 0;
    int64_t step = (era->nq + SAMPLES - 1) / SAMPLES;
    ha_rows q = ha_head_rows(&kh->q, head);
    for (int64_t i = 0; i < era->nq; i += step) {
        float *row = t->rows + found * ldk, odd = 0;
        q.first = era->q0 + i;
        plan->kernels->f32.load_q(row, &q, 1, d);
        for (int64_t c = 0; c < d; c++)
            odd += row[c] * 0;
        found += odd == 0;
    }
    return found;
}

/* Deviations of keys from the mean of their cell, of cells that all rows of the era see. */
static int64_t sample_keys(const ha_cpu_plan *plan, const detect_thread *t, const ha_key_head *kh,
                           const ha_order *order, const ha_era *era, const ha_recipe *r)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan), found = 0;
    int64_t cells = era->seen / r->cell, step = ha_max(1, cells * r->cell / SAMPLES);
    ha_rows k = kh->k;
    for (int64_t x = 0; x < cells && found + r->cell <= SAMPLES; x += step) {
        const uint32_t *keys = ha_past_keys(order, era, x * r->cell);
        float *row = t->rows + found * ldk;
        int64_t sinks = 0;
        for (int64_t j = 0; j < r->cell; j++)
            sinks += (int64_t)keys[j] < r->sinks;
        if (sinks)
            continue;
        k.index = keys;
        plan->kernels->f32.load_q(row, &k, r->cell, d);
        for (int64_t c = 0; c < d; c++) {
            float mean = 0;
            for (int64_t j = 0; j < r->cell; j++)
                mean += row[j * ldk + c];
            mean /= (float)r->cell;
            for (int64_t j = 0; j < r->cell; j++)
                row[j * ldk + c] -= mean;
        }
        found += r->cell;
    }
    return found;
}

/* Packs the directions, one a row. */
static void pack_directions(const ha_cpu_plan *plan, const detect_thread *t, float *packed,
                            const float *basis)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    for (int64_t j = 0; j < HA_BASIS; j++)
        for (int64_t c = 0; c < d; c++)
            t->rows[j * ldk + c] = basis[c * HA_BASIS + j];
    const ha_rows rows = {t->rows, ldk, NULL, 0, HYPERATTN_F32};
    plan->kernels->f32.pack_k(packed, &rows, HA_BASIS, d);
}

void ha_detector_begin(const ha_cpu_plan *plan, ha_detector *det, ha_detect_thread *t,
                       const ha_key_head *kh, int64_t head, const ha_order *order,
                       const ha_era *era)
{
    const hyperattn_problem *p = plan->problem;
    const ha_recipe r = ha_recipe_of(plan->params, kh->layout->nk, p->causal);
    float scale = p->softmax_scale * HA_LOG2E;
    det->usable = 0;
    int64_t n = sample_queries(plan, t, kh, head, era);
    if (!n)
        return;
    moments(plan, t, t->c, n);
    n = sample_keys(plan, t, kh, order, era, &r);
    if (!n)
        return;
    moments(plan, t, t->m, n);
    if (!ha_basis_find(&t->basis, t->c, t->m, p->head_dim, t->scratch))
        return;
    pack_directions(plan, t, det->directions[0], t->basis.query);
    pack_directions(plan, t, det->directions[1], t->basis.key);
    float factor = LARGEST / (SPAN * sqrtf(t->basis.strongest));
    det->factor[0] = scale < 0 ? -factor : factor;
    det->factor[1] = factor;
    det->unit = fabsf(scale) / (factor * factor);
    det->left = fabsf(scale) * sqrtf(t->basis.left);
    det->usable = det->unit > 0 && isfinite(det->unit) && isfinite(det->left);
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* The nearest number of a code; 0 for a NaN. */
static int code_of(float x)
{
    return x >= LARGEST ? LARGEST : x <= -LARGEST ? -LARGEST : x == x ? (int)lrintf(x) : 0;
}

void ha_detector_encode(const ha_cpu_plan *plan, const ha_detector *det, ha_detect_thread *t,
                        const ha_key_head *kh, const ha_cells *cells, int64_t number,
                        const uint32_t *keys, int64_t n)
{
    const ha_kernels *kernels = plan->kernels;
    const ha_recipe r = ha_recipe_of(plan->params, kh->layout->nk, plan->problem->causal);
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    int64_t ldp = ha_round_up(HA_BASIS, kernels->f32.lanes);
    float *column = t->centre + kernels->f32.mr * ldp;
    uint8_t *code = det->codes + number * blocks_of(&r) * HA_CODE * HA_CODE_KEYS;
    ha_rows k = kh->k;
    k.index = keys;
    kernels->f32.load_q(t->rows, &k, n, d);
    memcpy(column, cells->key + number * ldk, (size_t)ldk * sizeof *column);
    kernels->project(t->projection, ldp, t->rows, ldk, det->directions[1], n, d, HA_BASIS);
    kernels->project(t->centre, ldp, column, ldk, det->directions[1], 1, d, HA_BASIS);
    memset(code, 0, (size_t)(blocks_of(&r) * HA_CODE * HA_CODE_KEYS));
    for (int64_t j = 0; j < n; j++) {
        uint8_t *block = code + j / HA_CODE_KEYS * HA_CODE * HA_CODE_KEYS;
        for (int64_t i = 0; i < HA_CODE; i++)
            block[(i / 2 * HA_CODE_KEYS + j % HA_CODE_KEYS) * 2 + i % 2] =
                (uint8_t)(LARGEST + 1 + code_of(det->factor[1] * (t->projection[j * ldp + i] -
                                                                  t->centre[i])));
    }
}

/* ---- private keys ---------------------------------------------------------------------------- */

/* One row of a bundle. */
typedef struct lone_row {
    const ha_cpu_plan *plan;
    const ha_detector *det;
    ha_detect_thread *t;
    const ha_query_rows *at;
    const ha_bundle_work *w;
    const ha_cells *cells;
    const ha_order *order;
    const ha_era *era;
    ha_recipe recipe;
    int64_t past, i;
    ha_softmax *s;
    int rows; /* that are scored together */
} lone_row;

/* The keys whose guess is at least `least`; column scores are t->score[x * rows + lane]. */
static int64_t scan_row(const lone_row *row, const float *projection, int lane, float least)
{
    ha_detect_thread *t = row->t;
    int8_t q[HA_CODE];
    int64_t ncells = (row->past + row->recipe.cell - 1) / row->recipe.cell;
    float per_unit = 1 / row->det->unit;
    int shift = 0;
    for (int64_t c = 0; c < HA_CODE; c++) {
        q[c] = (int8_t)code_of(row->det->factor[0] * projection[c]);
        shift += (LARGEST + 1) * q[c];
    }
    for (int64_t x = 0; x < ncells; x++) {
        /* the products are integers above need when they are above the integer below it */
        float need = (least - t->score[x * row->rows + lane]) * per_unit;
        int none = !(need <= LARGEST_PRODUCT) || row->w->column[x] < 0; /* also for a NaN */
        need = need > -LARGEST_PRODUCT ? need : -LARGEST_PRODUCT;
        t->threshold[x] = none ? INT16_MAX : (int16_t)((int)need - 1 + shift);
    }
    const ha_scan scan = {row->det->codes, q, t->threshold, ncells, blocks_of(&row->recipe),
                          t->hit, ROOM};
    return row->plan->kernels->scan_codes(&scan);
}

/* Of the hits, those that are keys of their own right: no sinks, not selected, of the past. */
static int64_t keep_hits(const lone_row *row, int64_t hits)
{
    ha_detect_thread *t = row->t;
    const ha_bundle_work *w = row->w;
    int64_t slots = blocks_of(&row->recipe) * HA_CODE_KEYS, n = 0;
    for (int64_t h = 0; h < hits; h++) {
        int64_t cell = t->hit[h] / slots, x = t->hit[h] % slots;
        int64_t position = cell * row->recipe.cell + x;
        if (x >= row->recipe.cell || position >= row->past)
            continue;
        uint32_t key = *ha_past_keys(row->order, row->era, position);
        if ((int64_t)key < row->recipe.sinks || (w->place[cell] >= 0 && w->gone[w->place[cell] + x]))
            continue;
        t->key[n] = key;
        t->column[n] = (uint32_t)w->column[cell];
        t->share[n] = w->place[cell] >= 0
                          ? w->key_score[w->place[cell] + x] - w->column_mass[w->column[cell]]
                          : row->cells->share[position] + w->share[cell];
        n++;
    }
    return n;
}

/* exact[j] and model[j]: what key j weighs, and what its column says that it does. */
static void weigh(const lone_row *row, int64_t n, float *top)
{
    const ha_cpu_plan *plan = row->plan;
    ha_detect_thread *t = row->t;
    int64_t ldk = ha_cells_ldk(plan);
    const float *q = row->w->q + row->i * ldk;
    float scale = plan->problem->softmax_scale * HA_LOG2E;
    ha_rows k = row->at->kh->k, columns = row->w->columns.k;
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
    const ha_layout *l = row->at->kh->layout;
    int64_t limit = p->causal ? ha_row_of(row->at, row->i) + 1 + l->nk - l->nq : l->nk;
    ha_softmax *s = row->s;
    float *acc = s->acc + row->i * plan->ldacc;
    s->m[row->i] = -INFINITY;
    s->l[row->i] = 0;
    memset(acc, 0, (size_t)plan->ldacc * sizeof *acc);
    for (int64_t first = 0; first < limit; first += 1 << 20) {
        ha_in_place step = {
            .q = row->w->q + row->i * ha_cells_ldk(plan), .ldq = ha_cells_ldk(plan),
            .k = row->at->kh->k, .v = row->at->kh->v, .rows = 1,
            .nkeys = (int)ha_min(1 << 20, limit - first), .head_dim = (int)p->head_dim,
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
    ha_detect_thread *t = row->t;
    ha_softmax *s = row->s;
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
    ha_rows v = row->at->kh->v;
    v.index = t->key;
    plan->kernels->sum_rows(t->value, &v, t->exact, 1, n, dv);
    for (int64_t c = 0; c < dv; c++)
        acc[c] = acc[c] * before + t->value[c];
    s->m[i] = top;
    s->l[i] = sum;
}

static void detect_row(const lone_row *row, const float *projection, int lane)
{
    const ha_softmax *s = row->s;
    float least = s->m[row->i] + log2f(s->l[row->i]) - row->recipe.depth * HA_LOG2E -
                  MARGIN * row->det->left;
    if (!row->w->finite[row->i] || !isfinite(least))
        return;
    int64_t hits = scan_row(row, projection, lane, least);
    for (float step = 1; hits == ROOM; step *= 2) { /* scores may be of any size */
        least += step;
        hits = scan_row(row, projection, lane, least);
    }
    int64_t n = keep_hits(row, hits);
    if (n)
        add_private(row, n);
}

/* t->score: of `rows` rows from the bundle's row i on, by each column of the era. */
static void score_columns(const ha_cpu_plan *plan, const ha_detect_thread *t,
                          const ha_bundle_work *w, const ha_cells *cells, int64_t i, int rows,
                          int64_t ncells)
{
    int64_t ldk = ha_cells_ldk(plan);
    const ha_rows keys = {cells->key, ldk, NULL, 0, HYPERATTN_F32};
    const ha_scores scores = {t->score, w->q + i * ldk, ldk, keys, ncells,
                              plan->problem->head_dim, rows,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
}

void ha_detect(const ha_cpu_plan *plan, const ha_detector *det, ha_detect_thread *t,
               const ha_query_rows *at, const ha_bundle_work *w, const ha_cells *cells,
               const ha_order *order, const ha_era *era, int64_t past, ha_softmax *s)
{
    const ha_kernels *kernels = plan->kernels;
    lone_row row = {plan, det, t, at, w, cells, order, era,
                    ha_recipe_of(plan->params, at->kh->layout->nk, plan->problem->causal), past, 0,
                    s, at->rows < 4 ? 1 : 4};
    int64_t ldp = ha_round_up(HA_BASIS, kernels->f32.lanes), d = plan->problem->head_dim;
    int64_t ncells = (past + row.recipe.cell - 1) / row.recipe.cell;
    if (!det->usable)
        return;
    kernels->project(t->projection, ldp, w->q, ha_cells_ldk(plan), det->directions[0], at->rows, d,
                     HA_BASIS);
    for (int64_t first = 0; first < at->rows; first += 4) {
        /* the last rows repeat those before them, where there are fewer than four */
        int64_t from = ha_max(0, ha_min(first, at->rows - 4));
        for (int64_t i = first; i < ha_min(at->rows, first + 4); i++) {
            if (row.rows == 1 || i == first)
                score_columns(plan, t, w, cells, row.rows == 1 ? i : from, row.rows, ncells);
            row.i = i;
            detect_row(&row, t->projection + i * ldp, row.rows == 1 ? 0 : (int)(i - from));
        }
    }
}
