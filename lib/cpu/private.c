/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/private.h"

#include <math.h>
#include <string.h>

#include "int64.h"

/* A row's sum may lose so much to signed weights that its digits are in doubt: then the row is
 * attended exactly. */
#define LEAST_SUM 0x1p-10f

/* Keys that attend_in_place takes at a time, of a row that is attended exactly. */
#define EXACT_KEYS (1 << 20)

/* One thread's buffers. */
typedef struct ha_private_thread {
    float *by_column; /* products with the bundle's columns: [rows][columns] */
    float *columns;   /* which are packed here */
    uint32_t *key;
    int32_t *column;
    float *exact, *model, *share;
    float *value;     /* [ldv] */
} ha_private_thread;

void ha_privates_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_privates *privates)
{
    const ha_kernels *k = plan->kernels;
    int64_t columns = ha_largest_bundle(plan).columns, ld = ha_round_up(columns, k->f32.lanes);
    int64_t pack = (int64_t)ha_k_bytes(&k->f32, columns, plan->problem->head_dim);
    privates->threads = ha_carve(c, nthreads, sizeof *privates->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_private_thread none, *t = c->base ? &privates->threads[i] : &none;
        t->by_column = ha_carve(c, ha_rows_scored(plan) * ld, sizeof(float));
        t->columns = ha_carve(c, pack, 1);
        t->key = ha_carve(c, HA_MOST_HITS, sizeof *t->key);
        t->column = ha_carve(c, HA_MOST_HITS, sizeof *t->column);
        t->exact = ha_carve(c, HA_MOST_HITS + HA_SCORES_PAD, sizeof(float));
        t->model = ha_carve(c, HA_MOST_HITS, sizeof(float));
        t->share = ha_carve(c, HA_MOST_HITS, sizeof(float));
        t->value = ha_carve(c, ha_cells_ldv(plan), sizeof(float));
    }
}

/* ---- a row ----------------------------------------------------------------------------------- */

/* One row of a bundle. */
typedef struct lone_row {
    const ha_cpu_plan *plan;
    ha_private_thread *t;
    const ha_open_bundle *b;
    const ha_bundle_work *w; /* of b */
    const ha_recipe *recipe;
    int64_t i;
    const float *by_column;  /* its own */
} lone_row;

/* Lists the row's private keys. */
static int64_t list_private(const lone_row *row)
{
    ha_private_thread *t = row->t;
    const ha_bundle_work *w = row->w;
    const uint32_t *position = row->b->hits->position + row->b->hits->begin[row->i];
    int64_t n = row->b->hits->begin[row->i + 1] - row->b->hits->begin[row->i];
    for (int64_t j = 0; j < n; j++) {
        int64_t cell = position[j] >> row->recipe->cell_bits;
        int64_t first = cell << row->recipe->cell_bits;
        int32_t place = w->place[cell];
        t->key[j] = *ha_past_keys(row->b->order, row->b->era, position[j]);
        t->column[j] = w->column[cell];
        t->share[j] = w->column[cell] < 0 ? -INFINITY
                      : place < 0         ? row->b->cells->share[position[j]] + w->share[cell]
                                          : w->key_score[place + position[j] - first] -
                                                w->column_mass[w->column[cell]];
    }
    return n;
}

static void expect_row(const ha_rows *rows, uint32_t row, int64_t n)
{
    int64_t size = rows->dtype == HYPERATTN_F32 ? 4 : 2;
    const char *at = (const char *)rows->base + row * rows->stride * size;
    for (int64_t byte = 0; byte < n * size; byte += 64)
        __builtin_prefetch(at + byte);
}

/* The private keys of the next row, and their values, come into the caches meanwhile. */
static void expect_private(const lone_row *row)
{
    const ha_hits *hits = row->b->hits;
    const ha_key_head *kh = row->b->at->kh;
    if (row->i + 1 >= row->b->at->rows)
        return;
    for (int64_t h = hits->begin[row->i + 1]; h < hits->begin[row->i + 2]; h++) {
        uint32_t key = *ha_past_keys(row->b->order, row->b->era, hits->position[h]);
        expect_row(&kh->k, key, row->plan->problem->head_dim);
        expect_row(&kh->v, key, row->plan->problem->head_dim_v);
    }
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
        int32_t column = t->column[j];
        t->model[j] = column < 0 ? -INFINITY
                                 : row->by_column[column] * scale +
                                       row->w->columns.logw[column] + t->share[j];
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

/* ---- a bundle -------------------------------------------------------------------------------- */

void ha_private_keys(const ha_cpu_plan *plan, const ha_privates *privates, int thread,
                     const ha_open_bundle *bundle)
{
    const ha_kernels *kernels = plan->kernels;
    const ha_bundle_work *w = bundle->work;
    ha_private_thread *t = &privates->threads[thread];
    int64_t n = bundle->at->rows, d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    int64_t ldc = ha_round_up(w->columns.n, kernels->f32.lanes), step = ha_rows_scored(plan);
    const ha_recipe recipe = ha_recipe_for(plan, bundle->at->kh->layout);
    lone_row row = {plan, t, bundle, w, &recipe, 0, NULL};
    kernels->f32.pack_k(t->columns, &w->columns.k, w->columns.n, d);
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = ha_min(step, n - first);
        kernels->project(t->by_column, ldc, w->q + first * ldk, ldk, t->columns, rows, d,
                         w->columns.n);
        for (row.i = first; row.i < first + rows; row.i++) {
            int64_t keys = list_private(&row);
            expect_private(&row);
            row.by_column = t->by_column + (row.i - first) * ldc;
            if (keys)
                add_private(&row, keys);
        }
    }
}
