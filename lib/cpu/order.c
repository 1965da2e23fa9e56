/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/order.h"

#include <math.h>
#include <string.h>

#include "algo/select.h"
#include "cpu/clock.h"
#include "int64.h"

/* Steps of the power method: the halves need no more, from the row that is farthest away. */
#define POWER_STEPS 1

/* One thread's buffers, for up to HA_LONG_STRETCH rows. */
typedef struct ha_order_thread {
    float *x;         /* the stretch's rows as f32, [rows][ld] */
    float *y;         /* along the leading direction */
    float *norm;      /* |x_i|^2 */
    uint32_t *rank, *scratch;
    float *mean, *direction, *sum;
    /* of the bundles of a leaf that is sorted by content: */
    float *centre;    /* means of their rows, [bundles][ld] */
    float *middle;    /* their |x|^2 */
} ha_order_thread;

/* Bundles of a leaf. */
#define MOST_BUNDLES (HA_LONG_STRETCH / HA_BUNDLE_ROWS)

typedef struct stage {
    ha_call *call;
    const ha_orders *orders;
} stage;

static int64_t row_width(const ha_cpu_plan *plan)
{
    return ha_ldq(&plan->kernels->f32, plan->problem->head_dim);
}

void ha_orders_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_orders *orders)
{
    int64_t ld = row_width(plan), most = ha_max(plan->max.nq, plan->max.nk);
    int64_t rows = ha_round_up(ha_min(HA_LONG_STRETCH, most), plan->kernels->f32.mr);
    orders->heads = ha_carve(c, plan->in_flight, sizeof *orders->heads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_order none, *o = c->base ? &orders->heads[i] : &none;
        o->old = ha_carve(c, plan->max.nk, sizeof *o->old);
        o->young = ha_carve(c, plan->problem->causal ? plan->max.nk : 0, sizeof *o->young);
        o->rows = ha_carve(c, plan->group * plan->max.nq, sizeof *o->rows);
        if (plan->params->strict_causal)
            o->steering = ha_carve(c, plan->group * plan->max.nq, sizeof *o->steering);
    }
    orders->threads = ha_carve(c, nthreads, sizeof *orders->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_order_thread none, *t = c->base ? &orders->threads[i] : &none;
        t->x = ha_carve(c, rows * ld, sizeof *t->x);
        t->y = ha_carve(c, rows + HA_SCORES_PAD, sizeof *t->y);
        t->norm = ha_carve(c, rows, sizeof *t->norm);
        t->rank = ha_carve(c, rows, sizeof *t->rank);
        t->scratch = ha_carve(c, rows, sizeof *t->scratch);
        t->mean = ha_carve(c, ld, sizeof *t->mean);
        t->direction = ha_carve(c, ld, sizeof *t->direction);
        t->sum = ha_carve(c, ld, sizeof *t->sum);
        if (plan->params->strict_causal) {
            t->centre = ha_carve(c, MOST_BUNDLES * ld, sizeof *t->centre);
            t->middle = ha_carve(c, MOST_BUNDLES, sizeof *t->middle);
        }
    }
}

/* ---- halves ---------------------------------------------------------------------------------- */

/* Rows of x by index. */
static ha_rows rows_of(const ha_cpu_plan *plan, const ha_order_thread *t, const uint32_t *index)
{
    return (ha_rows){t->x, row_width(plan), index, 0, HYPERATTN_F32};
}

/* y_i = (x_i - mean).u */
static void project_rows(const ha_cpu_plan *plan, ha_order_thread *t, const ha_rows *x, int64_t n)
{
    const ha_scores scores = {t->y, t->direction, row_width(plan), *x, n,
                              plan->problem->head_dim, 1, 1};
    float shift = 0;
    for (int64_t c = 0; c < plan->problem->head_dim; c++)
        shift += t->direction[c] * t->mean[c];
    plan->kernels->score_rows(&scores);
    for (int64_t i = 0; i < n; i++)
        t->y[i] -= shift;
}

/* direction becomes sum_i y_i (x_i - mean), of length 1. Returns 0 if it has none. */
static int power_step(const ha_cpu_plan *plan, ha_order_thread *t, const ha_rows *x, int64_t n)
{
    int64_t d = plan->problem->head_dim;
    float total = 0, length = 0;
    plan->kernels->sum_rows(t->sum, x, t->y, 1, n, d);
    for (int64_t i = 0; i < n; i++)
        total += t->y[i];
    for (int64_t c = 0; c < d; c++) {
        t->sum[c] -= total * t->mean[c];
        length += t->sum[c] * t->sum[c];
    }
    if (!(length > 0) || isinf(length))
        return 0;
    for (int64_t c = 0; c < d; c++)
        t->direction[c] = t->sum[c] / sqrtf(length);
    return 1;
}

/* The rows' places along their leading direction, from the row that is farthest from the mean. */
static void lead(const ha_cpu_plan *plan, ha_order_thread *t, const uint32_t *index, int64_t n)
{
    const ha_rows x = rows_of(plan, t, index);
    const float share = 1 / (float)n;
    int64_t d = plan->problem->head_dim, ld = row_width(plan), far = 0;
    plan->kernels->sum_rows(t->mean, &x, &share, 0, n, d);
    const ha_scores scores = {t->y, t->mean, ld, x, n, d, 1, -2};
    plan->kernels->score_rows(&scores);
    for (int64_t i = 0; i < n; i++) {
        t->y[i] += t->norm[index[i]];
        if (t->y[i] > t->y[far])
            far = i;
    }
    for (int64_t c = 0; c < ld; c++)
        t->direction[c] = c < d ? t->x[index[far] * ld + c] - t->mean[c] : 0;
    for (int step = 0; step < POWER_STEPS; step++) {
        project_rows(plan, t, &x, n);
        if (!power_step(plan, t, &x, n))
            break;
    }
    project_rows(plan, t, &x, n);
}

/* Runs of `run` rows that resemble each other, in ascending order each. */
static void halve(const ha_cpu_plan *plan, ha_order_thread *t, uint32_t *index, int64_t n,
                  int64_t run)
{
    if (n <= run)
        return;
    int64_t half = (n + run - 1) / run / 2 * run;
    lead(plan, t, index, n);
    for (int64_t i = 0; i < n; i++)
        t->rank[i] = ha_rank_of(t->y[i]);
    ha_divide(index, t->rank, n, half, t->scratch);
    halve(plan, t, index, half, run);
    halve(plan, t, index + half, n - half, run);
}

/* Rows that are not finite become 0: with them there would be no direction, and no order at all. */
static void load_rows(const ha_cpu_plan *plan, ha_order_thread *t, const ha_rows *rows, int64_t n)
{
    int64_t d = plan->problem->head_dim;
    const ha_rows x = rows_of(plan, t, NULL);
    plan->kernels->f32.load_q(t->x, rows, n, d);
    plan->kernels->dot_rows(t->norm, &x, &x, n, d);
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(t->norm[i]))
            continue;
        memset(t->x + i * x.stride, 0, (size_t)d * sizeof *t->x);
        t->norm[i] = 0;
    }
}

/* index[0, n) becomes the content order of the n rows, whose first one is `first`. */
static void sort_rows(const ha_cpu_plan *plan, ha_order_thread *t, const ha_rows *rows, int64_t n,
                      int64_t run, uint32_t *index)
{
    load_rows(plan, t, rows, n);
    for (int64_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    halve(plan, t, index, n, run);
    for (int64_t i = 0; i < n; i++)
        index[i] += (uint32_t)rows->first;
}

/* ---- keys ------------------------------------------------------------------------------------ */

static int64_t count_stretches(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    return l->estimated ? (l->nk + HA_LONG_STRETCH - 1) / HA_LONG_STRETCH : 0;
}

/* A long stretch, and the short ones in it, where a row's past has them. */
static void sort_keys(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_order *order = &st->orders->heads[place];
    ha_order_thread *t = &st->orders->threads[thread];
    double start = ha_clock(st->call);
    int causal = plan->problem->causal;
    const ha_recipe recipe = ha_recipe_for(plan, kh->layout);
    int64_t first = item * HA_LONG_STRETCH, end = ha_min(kh->layout->nk, first + HA_LONG_STRETCH);
    const ha_era era = ha_era_at(kh->layout, &recipe, causal, item);
    ha_rows k = kh->k;
    k.first = first;
    if (!causal || end <= ha_near_key(&recipe, kh->layout->nk - 1))
        sort_rows(plan, t, &k, end - first, recipe.cell, order->old + first);
    for (; causal && era.nq && k.first < era.end; k.first += HA_SHORT_STRETCH)
        sort_rows(plan, t, &k, ha_min(HA_SHORT_STRETCH, era.end - k.first), recipe.cell,
                  order->young + k.first);
    ha_clock_add(st->call, thread, HA_STAGE_SORT, start);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Rows of a leaf, or of a long stretch. */
static int64_t row_steps(const ha_cpu_plan *plan, const ha_layout *l)
{
    return plan->problem->causal ? l->nleaves : (l->nq + HA_LONG_STRETCH - 1) / HA_LONG_STRETCH;
}

static int64_t count_row_steps(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    return l->estimated ? row_steps(st->call->plan, l) * st->call->plan->group : 0;
}

/* Where later rows steer none, a leaf without a past steers the one behind it. */
static void sort_queries(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_layout *l = kh->layout;
    int64_t step = item / plan->group, head = item % plan->group;
    int64_t first = step * HA_LONG_STRETCH, rows = ha_min(HA_LONG_STRETCH, l->nq - first);
    if (plan->problem->causal) {
        first = l->leaves[step].q0;
        rows = l->leaves[step].nq;
        if (!l->leaves[step].partial && !plan->params->strict_causal)
            return;
    }
    double start = ha_clock(st->call);
    const ha_order *order = &st->orders->heads[place];
    uint32_t *index = plan->params->strict_causal ? order->steering : order->rows;
    ha_rows q = ha_head_rows(&kh->q, head);
    q.first = first;
    sort_rows(plan, &st->orders->threads[thread], &q, rows, HA_BUNDLE_ROWS,
              index + head * l->nq + first);
    ha_clock_add(st->call, thread, HA_STAGE_SORT, start);
}

/* ---- rows that later ones do not steer ------------------------------------------------------- */

/* Centres of the bundles of the leaf of rows [first, first + n), by its content order. */
static void find_centres(const ha_cpu_plan *plan, ha_order_thread *t, ha_rows q, int64_t first,
                         int64_t n, const uint32_t *order)
{
    const float share = 1.0f / HA_BUNDLE_ROWS;
    int64_t d = plan->problem->head_dim, ld = row_width(plan), bundles = n / HA_BUNDLE_ROWS;
    const ha_rows centres = {t->centre, ld, NULL, 0, HYPERATTN_F32};
    q.first = first;
    q.index = NULL;
    load_rows(plan, t, &q, n);
    for (int64_t i = 0; i < n; i++)
        t->rank[i] = order[i] - (uint32_t)first;
    for (int64_t b = 0; b < bundles; b++) {
        const ha_rows x = rows_of(plan, t, t->rank + b * HA_BUNDLE_ROWS);
        memset(t->centre + b * ld, 0, (size_t)ld * sizeof *t->centre);
        plan->kernels->sum_rows(t->centre + b * ld, &x, &share, 0, HA_BUNDLE_ROWS, d);
    }
    plan->kernels->dot_rows(t->middle, &centres, &centres, bundles, d);
}

/* Each of n rows, in its turn, joins the bundle with the nearest centre that has a place left. */
static void join_bundles(const ha_cpu_plan *plan, ha_order_thread *t, ha_rows q, int64_t first,
                         int64_t n, uint32_t *order)
{
    int64_t ld = row_width(plan), bundles = (n + HA_BUNDLE_ROWS - 1) / HA_BUNDLE_ROWS;
    int64_t taken[MOST_BUNDLES] = {0};
    const ha_rows centres = {t->centre, ld, NULL, 0, HYPERATTN_F32};
    q.first = first;
    q.index = NULL;
    load_rows(plan, t, &q, n);
    for (int64_t i = 0; i < n; i++) {
        const ha_scores scores = {t->y, t->x + i * ld, ld, centres, bundles,
                                  plan->problem->head_dim, 1, -2};
        int64_t nearest = -1;
        plan->kernels->score_rows(&scores);
        for (int64_t b = 0; b < bundles; b++) {
            int64_t room = ha_min(HA_BUNDLE_ROWS, n - b * HA_BUNDLE_ROWS);
            t->y[b] += t->middle[b];
            if (taken[b] < room && (nearest < 0 || t->y[b] < t->y[nearest]))
                nearest = b;
        }
        order[nearest * HA_BUNDLE_ROWS + taken[nearest]++] = (uint32_t)(first + i);
    }
}

static void join_leaf(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_order *order = &st->orders->heads[place];
    ha_order_thread *t = &st->orders->threads[thread];
    int64_t head = item % plan->group, own = head * kh->layout->nq;
    const ha_leaf *leaf = &kh->layout->leaves[item / plan->group];
    if (!leaf->partial)
        return;
    double start = ha_clock(st->call);
    const ha_rows q = ha_head_rows(&kh->q, head);
    find_centres(plan, t, q, leaf[-1].q0, leaf[-1].nq, order->steering + own + leaf[-1].q0);
    join_bundles(plan, t, q, leaf->q0, leaf->nq, order->rows + own + leaf->q0);
    ha_clock_add(st->call, thread, HA_STAGE_SORT, start);
}

void ha_orders_sort(ha_call *call, const ha_orders *orders)
{
    stage st = {call, orders};
    ha_for_items(call, count_stretches, sort_keys, &st);
    ha_for_items(call, count_row_steps, sort_queries, &st);
    if (call->plan->params->strict_causal)
        ha_for_items(call, count_row_steps, join_leaf, &st);
}
