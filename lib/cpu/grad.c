/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/grad.h"

#include <math.h>

#include "int64.h"

void ha_grad_carve(ha_carver *c, const ha_cpu_plan *plan, ha_grad *g)
{
    const ha_arith *a = plan->arith;
    int64_t d = plan->problem->head_dim, d_v = plan->problem->head_dim_v;
    int64_t rows = ha_round_up(ha_rows_held(plan, HA_GRAD_ROWS), a->mr);
    int64_t keys = ha_keys_held(plan, HA_BATCH_KEYS);
    g->q = ha_carve(c, rows * ha_ldq(a, d), sizeof(float));
    g->dout = ha_carve(c, rows * ha_ldq(a, d_v), sizeof(float));
    g->q_sum = ha_carve(c, (int64_t)ha_v_bytes(a, rows, d), 1);
    g->dout_sum = ha_carve(c, (int64_t)ha_v_bytes(a, rows, d_v), 1);
    g->k = ha_carve(c, (int64_t)ha_k_bytes(a, keys, d), 1);
    g->v = ha_carve(c, (int64_t)ha_k_bytes(a, keys, d_v), 1);
    g->k_sum = ha_carve(c, (int64_t)ha_v_bytes(a, keys, d), 1);
    g->lse = ha_carve(c, rows, sizeof *g->lse);
    g->delta = ha_carve(c, rows, sizeof *g->delta);
    g->capped = ha_carve(c, rows, sizeof *g->capped);
    g->scratch = ha_carve(c, a->grad_scratch, sizeof *g->scratch);
    g->limit = ha_carve(c, a->gr, sizeof *g->limit);
}

int ha_grad_pack_rows(const ha_cpu_plan *plan, ha_grad *g, const ha_query_rows *at)
{
    const hyperattn_problem *p = plan->problem;
    const ha_arith *a = plan->arith;
    const ha_rows q = ha_rows_at(&at->kh->q, at), dout = ha_rows_at(&at->kh->dout, at);
    int64_t panel = ha_round_up(at->rows, a->nr) / a->pair;
    a->load_q(g->q, &q, at->rows, p->head_dim);
    a->load_q(g->dout, &dout, at->rows, p->head_dim_v);
    return a->pack_v(g->q_sum, panel, 0, &q, at->rows, p->head_dim) &
           a->pack_v(g->dout_sum, panel, 0, &dout, at->rows, p->head_dim_v);
}

int ha_grad_pack_keys(const ha_cpu_plan *plan, ha_grad *g, const ha_rows *k, const ha_rows *v,
                      int64_t keys)
{
    const hyperattn_problem *p = plan->problem;
    const ha_arith *a = plan->arith;
    a->pack_k(g->k, k, keys, p->head_dim);
    a->pack_k(g->v, v, keys, p->head_dim_v);
    return a->pack_v(g->k_sum, ha_round_up(keys, a->nr) / a->pair, 0, k, keys, p->head_dim);
}

void ha_grad_load_rows(const ha_cpu_plan *plan, ha_grad *g, const ha_sums *s,
                       const ha_query_rows *at)
{
    int64_t base = at->head * at->kh->layout->nq, padded = ha_round_up(at->rows, plan->arith->mr);
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = base + ha_row_of(at, i);
        g->lse[i] = s->lse_log2[row];
        g->delta[i] = s->delta[row];
    }
    for (int64_t i = at->rows; i < padded; i++) {
        g->lse[i] = INFINITY;
        g->delta[i] = 0;
    }
}

/* The tile at row r and key x of a block. */
static void run_tile(const ha_cpu_plan *plan, const ha_grad *g, const ha_grad_block *b, int64_t r,
                     int64_t x)
{
    const hyperattn_problem *p = plan->problem;
    const ha_arith *a = plan->arith;
    int64_t rows = ha_min(a->gr, b->rows - r), keys = ha_min(a->gc, b->keys - x);
    int64_t low = b->limit + b->slope * r - x, high = low + b->slope * (rows - 1);
    if (b->slope && high <= 0)
        return;
    ha_grad_tile tile = {
        .q = (const float *)g->q + r * ha_ldq(a, p->head_dim),
        .dout = (const float *)g->dout + r * ha_ldq(a, p->head_dim_v),
        .q_sum = g->q_sum,
        .dout_sum = g->dout_sum,
        .rpanel = ha_round_up(b->rows, a->nr) / a->pair,
        .rfirst = r / a->pair,
        .k = (const float *)g->k + x * ha_units(a, p->head_dim),
        .v = (const float *)g->v + x * ha_units(a, p->head_dim_v),
        .k_sum = g->k_sum,
        .kpanel = ha_round_up(b->keys, a->nr) / a->pair,
        .kfirst = x / a->pair,
        .logw = b->logw + x,
        .cap = b->cap ? b->cap + r : NULL,
        .lse = g->lse + r,
        .delta = g->delta + r,
        .rows = (int)rows,
        .keys = (int)(b->slope ? ha_min(keys, high) : keys),
        .head_dim = (int)p->head_dim,
        .head_dim_v = (int)p->head_dim_v,
        .scale = p->softmax_scale * HA_LOG2E,
        .dq = b->dq + r * plan->ldgrad,
        .dk = b->dk + x * plan->ldgrad,
        .dv = b->dv + x * plan->ldacc,
        .lddq = plan->ldgrad,
        .lddk = plan->ldgrad,
        .lddv = plan->ldacc,
        .capped = g->capped + r,
        .scratch = g->scratch,
    };
    if (b->slope && low < tile.keys) {
        int64_t padded = ha_round_up(rows, a->mr);
        for (int64_t i = 0; i < padded; i++)
            g->limit[i] = (int32_t)(low + ha_min(i, rows - 1));
        tile.limit = g->limit;
    }
    a->backward(&tile);
}

void ha_grad_tiles(const ha_cpu_plan *plan, const ha_grad *g, const ha_grad_block *block)
{
    const ha_arith *a = plan->arith;
    for (int64_t x = 0; x < block->keys; x += a->gc)
        for (int64_t r = 0; r < block->rows; r += a->gr)
            run_tile(plan, g, block, r, x);
}
