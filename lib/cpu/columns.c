/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/columns.h"

#include <math.h>

#include "int64.h"

void ha_columns_pack(const ha_run *run, ha_scratch *s, const ha_unit *u, const ha_columns *c,
                     int64_t dv)
{
    const ha_arith *a = run->cpu->arith;
    int64_t padded = ha_round_up(c->n, a->nr);
    for (int64_t j = c->n; j < padded; j++)
        c->logw[j] = -INFINITY;
    ha_rows k = u->k, v = u->v;
    k.index = v.index = c->key;
    a->pack_k(s->kpack, &k, c->n, run->plan->problem->head_dim);
    if (dv)
        a->pack_v(s->vpack, padded / a->pair, 0, &v, c->n, dv);
}

void ha_columns_attend(const ha_run *run, ha_scratch *s, const ha_columns *c, int64_t rows,
                       int capped, int64_t dv)
{
    const hyperattn_problem *p = run->plan->problem;
    const ha_arith *a = run->cpu->arith;
    int64_t depth = ha_units(a, p->head_dim), ldq = ha_ldq(a, p->head_dim), n = c->n;
    int64_t wide = ha_max(p->head_dim, p->head_dim_v) * (p->dtype == HYPERATTN_F32 ? 4 : 2);
    int64_t steps = ((rows + a->br - 1) / a->br) * ((n + a->bc - 1) / a->bc), step = 0;
    for (int64_t r = 0; r < rows; r += a->br)
        for (int64_t x = 0; x < n; x += a->bc, step++) {
            int64_t ahead = s->nahead * step / steps;
            const ha_tile tile = {
                .q = (const float *)s->q + r * ldq,
                .k = (const float *)s->kpack + x * depth,
                .v = s->vpack,
                .vpanel = ha_round_up(n, a->nr) / a->pair,
                .vfirst = x / a->pair,
                .logw = c->logw + x,
                .cap = capped ? s->cap + r : NULL,
                .rows = (int)ha_min(a->br, rows - r),
                .keys = (int)ha_min(a->bc, n - x),
                .head_dim = (int)p->head_dim,
                .head_dim_v = (int)dv,
                .scale = p->softmax_scale * HA_LOG2E,
                .m = s->m + r,
                .l = s->l + r,
                .acc = s->acc + r * run->cpu->ldacc,
                .ldacc = run->cpu->ldacc,
                .scratch = s->tile,
                .ahead = s->ahead + ahead,
                .nahead = s->nahead * (step + 1) / steps - ahead,
                .ahead_bytes = wide,
            };
            a->attend(&tile);
        }
    s->nahead = 0;
}
