/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/backward_private.h"

#include <math.h>

#include "int64.h"

static ha_private_terms carve_terms(ha_carver *c, int64_t n)
{
    ha_private_terms t = {.n = 0};
    t.key = ha_carve(c, n, sizeof *t.key);
    t.row = ha_carve(c, n, sizeof *t.row);
    t.k = ha_carve(c, n, sizeof *t.k);
    t.v = ha_carve(c, n, sizeof *t.v);
    return t;
}

void ha_private_grad_carve(ha_carver *c, const ha_cpu_plan *plan, ha_private_grad *g)
{
    int64_t rows = ha_rows_held(plan, HA_BUNDLE_ROWS), ldk = ha_cells_ldk(plan);
    int64_t keys = ha_min(plan->max.nk, HA_MOST_HITS), ldv = ha_cells_ldv(plan);
    g->found = carve_terms(c, rows * keys);
    g->sorted = carve_terms(c, rows * keys);
    g->keys = ha_carve(c, ha_min(plan->max.nk, rows * keys), sizeof *g->keys);
    g->end = ha_carve(c, plan->max.nk, sizeof *g->end);
    g->exact = ha_carve(c, rows, sizeof *g->exact);
    g->dout = ha_carve(c, ha_round_up(rows, plan->kernels->f32.mr) * ldv, sizeof *g->dout);
    g->sum = ha_carve(c, ha_max(ldk, ldv), sizeof *g->sum);
    g->slope = ha_carve(c, keys + HA_SCORES_PAD, sizeof *g->slope);
    g->column = ha_carve(c, keys, sizeof *g->column);
    g->weight = ha_carve(c, keys, sizeof *g->weight);
}

/* ---- rows ------------------------------------------------------------------------------------ */

void ha_private_grad_begin(const ha_private_taker *taker)
{
    const ha_cpu_plan *plan = taker->plan;
    const ha_rows dout = ha_rows_at(&taker->at->kh->dout, taker->at);
    taker->g->found.n = taker->g->nexact = 0;
    plan->kernels->f32.load_q(taker->g->dout, &dout, taker->at->rows, plan->problem->head_dim_v);
}

/* dq_i += sum of n rows of x, weighted. */
static void add_to_query(const ha_private_taker *taker, int64_t i, ha_rows x,
                         const uint32_t *index, const float *w, int64_t n)
{
    const ha_cpu_plan *plan = taker->plan;
    int64_t d = plan->problem->head_dim;
    x.index = index;
    plan->kernels->sum_rows(taker->g->sum, &x, w, 1, n, d);
    ha_add_multiple(taker->dq + i * plan->ldgrad, taker->g->sum, 1, d);
}

/* dout.v of each key. */
static void score_values(const ha_private_taker *taker, const ha_private_row *found)
{
    int64_t ldv = ha_cells_ldv(taker->plan);
    ha_rows v = taker->at->kh->v;
    v.index = found->key;
    const ha_scores scores = {taker->g->slope, taker->g->dout + found->i * ldv, ldv, v, found->n,
                              taker->plan->problem->head_dim_v, 1, 1};
    taker->plan->kernels->score_rows(&scores);
}

/* The row's keys: what they give to themselves becomes terms, to their columns, a weight for each
 * run of keys with the same one. Returns the number of runs. */
static int64_t weigh(const ha_private_taker *taker, const ha_private_row *found)
{
    ha_private_grad *g = taker->g;
    ha_private_terms *to = &g->found;
    float part = exp2f(found->top - taker->lse[found->i]);
    int64_t runs = 0;
    for (int64_t j = 0; j < found->n; j++, to->n++) {
        float e = found->exact[j] * part, m = found->model[j] * part;
        float slope = g->slope[j] - taker->delta[found->i];
        to->key[to->n] = found->key[j];
        to->row[to->n] = (uint32_t)found->i;
        to->k[to->n] = e * slope;
        to->v[to->n] = e - m;
        if (found->column[j] < 0)
            continue;
        if (runs == 0 || g->column[runs - 1] != (uint32_t)found->column[j]) {
            g->column[runs] = (uint32_t)found->column[j];
            g->weight[runs++] = 0;
        }
        g->weight[runs - 1] -= m * slope;
    }
    return runs;
}

void ha_private_grad_take(void *arg, const ha_private_row *found)
{
    const ha_private_taker *taker = arg;
    const ha_cpu_plan *plan = taker->plan;
    ha_private_grad *g = taker->g;
    int64_t i = found->i, first = g->found.n;
    if (found->in_doubt) {
        g->exact[g->nexact++] = (uint32_t)i;
        taker->lse[i] = INFINITY;
        return;
    }
    score_values(taker, found);
    int64_t runs = weigh(taker, found);
    for (int64_t x = 0; x < runs; x++)
        ha_add_multiple(taker->columns.dk + g->column[x] * taker->columns.ldk,
                        taker->work->q + i * ha_cells_ldk(plan), g->weight[x],
                        plan->problem->head_dim);
    add_to_query(taker, i, taker->at->kh->k, found->key, g->found.k + first, found->n);
    add_to_query(taker, i, taker->work->columns.k, g->column, g->weight, runs);
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* A counting sort that touches no other keys. */
void ha_private_grad_end(const ha_private_taker *taker)
{
    ha_private_grad *g = taker->g;
    const ha_private_terms *from = &g->found, *to = &g->sorted;
    uint32_t begin = 0;
    g->nkeys = 0;
    for (int64_t x = 0; x < from->n; x++)
        g->end[from->key[x]] = 0;
    for (int64_t x = 0; x < from->n; x++)
        if (g->end[from->key[x]]++ == 0)
            g->keys[g->nkeys++] = from->key[x];
    for (int64_t x = 0; x < g->nkeys; x++) {
        uint32_t count = g->end[g->keys[x]];
        g->end[g->keys[x]] = begin;
        begin += count;
    }
    for (int64_t x = 0; x < from->n; x++) {
        uint32_t at = g->end[from->key[x]]++;
        to->row[at] = from->row[x];
        to->k[at] = from->k[x];
        to->v[at] = from->v[x];
    }
}

void ha_private_grad_add(const ha_private_taker *taker, const ha_sums *sums)
{
    const ha_cpu_plan *plan = taker->plan;
    const ha_private_grad *g = taker->g;
    int64_t d = plan->problem->head_dim, dv = plan->problem->head_dim_v, first = 0, end;
    ha_rows q = {taker->work->q, ha_cells_ldk(plan), NULL, 0, HYPERATTN_F32};
    ha_rows dout = {g->dout, ha_cells_ldv(plan), NULL, 0, HYPERATTN_F32};
    for (int64_t x = 0; x < g->nkeys; x++, first = end) {
        int64_t key = g->keys[x], next = g->keys[ha_min(x + HA_ROWS_AHEAD, g->nkeys - 1)];
        ha_ask_for(ha_sum_k(plan, taker->at->kh, sums, 0, next), d);
        ha_ask_for(ha_sum_v(plan, taker->at->kh, sums, 0, next), dv);
        end = g->end[key];
        q.index = dout.index = g->sorted.row + first;
        plan->kernels->sum_rows(g->sum, &q, g->sorted.k + first, 1, end - first, d);
        ha_add_multiple(ha_sum_k(plan, taker->at->kh, sums, 0, key), g->sum, 1, d);
        plan->kernels->sum_rows(g->sum, &dout, g->sorted.v + first, 1, end - first, dv);
        ha_add_multiple(ha_sum_v(plan, taker->at->kh, sums, 0, key), g->sum, 1, dv);
    }
}
