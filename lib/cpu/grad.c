/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/grad.h"

#include <math.h>

#include "int64.h"

int ha_grad_pack_rows(const ha_run *run, ha_scratch *s, const ha_rows *q, const ha_rows *dout,
                      int64_t rows)
{
    const hyperattn_problem *p = run->plan->problem;
    const ha_arith *a = run->cpu->arith;
    int64_t panel = ha_round_up(rows, a->nr) / a->pair;
    a->load_q(s->rows_q, q, rows, p->head_dim);
    a->load_q(s->rows_dout, dout, rows, p->head_dim_v);
    return a->pack_v(s->rows_q_sum, panel, 0, q, rows, p->head_dim) &
           a->pack_v(s->rows_dout_sum, panel, 0, dout, rows, p->head_dim_v);
}

int ha_grad_pack_keys(const ha_run *run, ha_scratch *s, const ha_rows *k, const ha_rows *v,
                      int64_t keys)
{
    const hyperattn_problem *p = run->plan->problem;
    const ha_arith *a = run->cpu->arith;
    a->pack_k(s->keys_k, k, keys, p->head_dim);
    a->pack_k(s->keys_v, v, keys, p->head_dim_v);
    return a->pack_v(s->keys_k_sum, ha_round_up(keys, a->nr) / a->pair, 0, k, keys, p->head_dim);
}

void ha_grad_load_rows(const ha_run *run, ha_scratch *s, const ha_unit *u, int64_t head,
                       const uint32_t *index, int64_t first, int64_t rows)
{
    int64_t base = head * u->layout->nq, padded = ha_round_up(rows, run->cpu->arith->mr);
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = base + (index ? (int64_t)index[i] : first + i);
        s->lse[i] = u->lse2[row];
        s->delta[i] = u->delta[row];
    }
    for (int64_t i = rows; i < padded; i++) {
        s->lse[i] = INFINITY;
        s->delta[i] = 0;
    }
}

/* The tile at row r and key x of a block. */
static void run_tile(const ha_run *run, ha_scratch *s, const ha_grad_block *b, int64_t r, int64_t x)
{
    const hyperattn_problem *p = run->plan->problem;
    const ha_cpu_plan *cpu = run->cpu;
    const ha_arith *a = cpu->arith;
    int64_t rows = ha_min(a->gr, b->rows - r), keys = ha_min(a->gc, b->keys - x);
    int64_t low = b->limit + b->slope * r - x, high = low + b->slope * (rows - 1);
    if (b->slope && high <= 0)
        return;
    ha_grad_tile tile = {
        .q = (const float *)s->rows_q + r * ha_ldq(a, p->head_dim),
        .dout = (const float *)s->rows_dout + r * ha_ldq(a, p->head_dim_v),
        .q_sum = s->rows_q_sum,
        .dout_sum = s->rows_dout_sum,
        .rpanel = ha_round_up(b->rows, a->nr) / a->pair,
        .rfirst = r / a->pair,
        .k = (const float *)s->keys_k + x * ha_units(a, p->head_dim),
        .v = (const float *)s->keys_v + x * ha_units(a, p->head_dim_v),
        .k_sum = s->keys_k_sum,
        .kpanel = ha_round_up(b->keys, a->nr) / a->pair,
        .kfirst = x / a->pair,
        .logw = b->logw + x,
        .cap = b->capped ? s->cap + r : NULL,
        .lse = s->lse + r,
        .delta = s->delta + r,
        .rows = (int)rows,
        .keys = (int)(b->slope ? ha_min(keys, high) : keys),
        .head_dim = (int)p->head_dim,
        .head_dim_v = (int)p->head_dim_v,
        .scale = p->softmax_scale * HA_LOG2E,
        .dq = b->dq + r * cpu->ldgrad,
        .dk = b->dk + x * cpu->ldgrad,
        .dv = b->dv + x * cpu->ldacc,
        .lddq = cpu->ldgrad,
        .lddk = cpu->ldgrad,
        .lddv = cpu->ldacc,
        .capped = s->capped + r,
        .scratch = s->grad_tile,
    };
    if (b->slope && low < tile.keys) {
        int64_t padded = ha_round_up(rows, a->mr);
        for (int64_t i = 0; i < padded; i++)
            s->grad_limit[i] = (int32_t)(low + ha_min(i, rows - 1));
        tile.limit = s->grad_limit;
    }
    a->backward(&tile);
}

void ha_grad_tiles(const ha_run *run, ha_scratch *s, const ha_grad_block *block)
{
    const ha_arith *a = run->cpu->arith;
    for (int64_t x = 0; x < block->keys; x += a->gc)
        for (int64_t r = 0; r < block->rows; r += a->gr)
            run_tile(run, s, block, r, x);
}
