/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/columns.h"

#include <math.h>

#include "int64.h"

ha_columns ha_columns_picked(const ha_key_head *kh, const ha_picks *picks)
{
    ha_columns c = {kh->k, kh->v, picks->logw, picks->n, picks->kind};
    c.k.index = c.v.index = picks->key;
    return c;
}

void ha_picks_carve(ha_carver *c, const ha_cpu_plan *plan, ha_picks *picks)
{
    picks->room = ha_keys_held(plan, HA_BATCH_KEYS);
    picks->key = ha_carve(c, picks->room, sizeof *picks->key);
    picks->logw = ha_carve(c, ha_round_up(picks->room, plan->arith->nr), sizeof *picks->logw);
}

void ha_key_pack_carve(ha_carver *c, const ha_cpu_plan *plan, ha_key_pack *pack)
{
    const hyperattn_problem *p = plan->problem;
    int64_t keys = ha_keys_held(plan, HA_BATCH_KEYS);
    pack->keys = 0;
    pack->k = ha_carve(c, (int64_t)ha_k_bytes(plan->arith, keys, p->head_dim), 1);
    pack->v = ha_carve(c, (int64_t)ha_v_bytes(plan->arith, keys, p->head_dim_v), 1);
}

void ha_columns_pack(const ha_cpu_plan *plan, ha_key_pack *pack, const ha_columns *c,
                     int with_values)
{
    const ha_arith *a = plan->arith;
    int64_t padded = ha_round_up(c->n, a->nr);
    for (int64_t j = c->n; j < padded; j++)
        c->logw[j] = -INFINITY;
    pack->keys = c->n;
    a->pack_k(pack->k, &c->k, c->n, plan->problem->head_dim);
    if (with_values)
        a->pack_v(pack->v, padded / a->pair, 0, &c->v, c->n, plan->problem->head_dim_v);
}

void ha_columns_attend(const ha_cpu_plan *plan, const ha_softmax *s, int64_t rows,
                       const ha_key_pack *pack, const ha_columns *c, const float *cap,
                       int with_values, ha_ahead *ahead)
{
    const ha_arith *a = plan->arith;
    int64_t n = c->n, step = 0;
    int64_t steps = ((rows + a->br - 1) / a->br) * ((n + a->bc - 1) / a->bc);
    for (int64_t r = 0; r < rows; r += a->br)
        for (int64_t x = 0; x < n; x += a->bc, step++) {
            ha_tile tile = ha_tile_at(plan, s, r, ha_min(a->br, rows - r), pack, x,
                                      ha_min(a->bc, n - x));
            tile.logw = c->logw + x;
            tile.cap = cap ? cap + r : NULL;
            if (!with_values)
                tile.head_dim_v = 0;
            if (ahead) {
                int64_t first = ahead->n * step / steps;
                tile.ahead = ahead->address + first;
                tile.nahead = ahead->n * (step + 1) / steps - first;
                tile.ahead_bytes = ahead->bytes;
            }
            a->attend(&tile);
        }
    if (ahead)
        ahead->n = 0;
}

/* ---- gradients ------------------------------------------------------------------------------- */

void ha_columns_scatter(const ha_column_sums *to, const ha_column_sums *from,
                        const uint32_t *index, int64_t n, uint32_t first, uint32_t end,
                        uint32_t *found)
{
    int64_t nfound = 0;
    for (int64_t i = 0; i < n; i++) {
        found[nfound] = (uint32_t)i;
        nfound += index[i] >= first && index[i] < end;
    }
    for (int64_t x = 0; x < nfound; x++) {
        if (x + HA_ROWS_AHEAD < nfound) {
            int64_t next = found[x + HA_ROWS_AHEAD];
            ha_columns_ask_for(to, index[next]);
            ha_columns_ask_for(from, next);
        }
        ha_columns_add(to, index[found[x]], from, found[x], 1);
    }
}
