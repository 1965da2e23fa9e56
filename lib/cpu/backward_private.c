/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/backward_private.h"

#include <math.h>

#include "int64.h"

void ha_private_grad_carve(ha_carver *c, const ha_cpu_plan *plan, ha_private_grad *g)
{
    int64_t held = ha_rows_held(plan, HA_BUNDLE_ROWS);
    int64_t keys = ha_min(plan->max.nk, HA_PRIVATE_ROOM);
    g->terms = ha_carve(c, held * keys, sizeof *g->terms);
    g->exact = ha_carve(c, held, sizeof *g->exact);
    g->dout = ha_carve(c, ha_round_up(held, plan->kernels->f32.mr) * ha_cells_ldv(plan),
                       sizeof *g->dout);
    g->slope = ha_carve(c, keys + HA_SCORES_PAD, sizeof *g->slope);
    for (int x = 0; x < 2; x++)
        g->weight[x] = ha_carve(c, keys, sizeof *g->weight[x]);
    g->sum = ha_carve(c, ha_cells_ldk(plan), sizeof *g->sum);
}

void ha_private_grad_begin(const ha_private_taker *taker)
{
    const ha_cpu_plan *plan = taker->plan;
    const ha_rows dout = ha_rows_at(&taker->at->kh->dout, taker->at);
    taker->g->nterms = taker->g->nexact = 0;
    plan->kernels->f32.load_q(taker->g->dout, &dout, taker->at->rows, plan->problem->head_dim_v);
}

/* sum += factor row */
static void add_multiple(float *restrict sum, const float *restrict row, float factor, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        sum[c] += factor * row[c];
}

/* dq_i += sum_j w_j x_j */
static void add_to_query(const ha_private_taker *taker, const ha_private_row *found, ha_rows x,
                         const uint32_t *index, const float *w)
{
    const ha_cpu_plan *plan = taker->plan;
    int64_t d = plan->problem->head_dim;
    x.index = index;
    plan->kernels->sum_rows(taker->g->sum, &x, w, 1, found->n, d);
    add_multiple(taker->dq + found->i * plan->ldgrad, taker->g->sum, 1, d);
}

void ha_private_grad_take(void *arg, const ha_private_row *found)
{
    const ha_private_taker *taker = arg;
    const ha_cpu_plan *plan = taker->plan;
    ha_private_grad *g = taker->g;
    int64_t d = plan->problem->head_dim, dv = plan->problem->head_dim_v, i = found->i;
    if (found->in_doubt) {
        g->exact[g->nexact++] = (uint32_t)i;
        taker->lse[i] = INFINITY;
        return;
    }
    float part = exp2f(found->top - taker->lse[i]);
    ha_rows v = taker->at->kh->v;
    v.index = found->key;
    const ha_scores slopes = {g->slope, g->dout + i * ha_cells_ldv(plan), ha_cells_ldv(plan), v,
                              found->n, dv, 1, 1};
    plan->kernels->score_rows(&slopes);
    for (int64_t j = 0; j < found->n; j++) {
        float e = found->exact[j] * part, m = found->model[j] * part;
        float slope = g->slope[j] - taker->delta[i];
        g->weight[0][j] = e * slope;
        g->weight[1][j] = -m * slope;
        g->terms[g->nterms++] = (ha_private_term){found->key[j], (int32_t)i, e * slope, e - m};
        add_multiple(taker->columns.dk + found->column[j] * taker->columns.ldk,
                     taker->work->q + i * ha_cells_ldk(plan), -m * slope, d);
    }
    add_to_query(taker, found, taker->at->kh->k, found->key, g->weight[0]);
    add_to_query(taker, found, taker->work->columns.k, found->column, g->weight[1]);
}

void ha_private_grad_add(const ha_private_taker *taker, const ha_sums *sums)
{
    const ha_cpu_plan *plan = taker->plan;
    const ha_private_grad *g = taker->g;
    int64_t ldk = ha_cells_ldk(plan), ldv = ha_cells_ldv(plan);
    for (int64_t x = 0; x < g->nterms; x++) {
        const ha_private_term *term = &g->terms[x];
        add_multiple(ha_sum_k(plan, taker->at->kh, sums, 0, term->key),
                     taker->work->q + term->row * ldk, term->k, plan->problem->head_dim);
        add_multiple(ha_sum_v(plan, taker->at->kh, sums, 0, term->key),
                     g->dout + term->row * ldv, term->v, plan->problem->head_dim_v);
    }
}
