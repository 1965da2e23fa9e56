/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/columns.h"

#include <math.h>

void ha_columns_pack(const ha_run *run, ha_scratch *s, const ha_unit *u, int64_t n, int64_t dv)
{
    const ha_arith *a = run->cpu->arith;
    int64_t padded = ha_round_up(n, a->nr);
    for (int64_t j = n; j < padded; j++)
        s->logw[j] = -INFINITY;
    ha_rows k = u->k, v = u->v;
    k.index = v.index = s->index;
    a->pack_k(s->kpack, &k, n, run->plan->problem.head_dim);
    if (dv)
        a->pack_v(s->vpack, padded / a->pair, 0, &v, n, dv);
}

void ha_columns_attend(const ha_run *run, ha_scratch *s, int64_t rows, int64_t n, int capped,
                       int64_t dv)
{
    const hyperattn_problem *p = &run->plan->problem;
    const ha_arith *a = run->cpu->arith;
    int64_t depth = ha_units(a, p->head_dim), ldq = ha_ldq(a, p->head_dim);
    for (int64_t r = 0; r < rows; r += a->br)
        for (int64_t x = 0; x < n; x += a->bc) {
            const ha_tile tile = {
                .q = (const float *)s->q + r * ldq,
                .k = (const float *)s->kpack + x * depth,
                .v = s->vpack,
                .vpanel = ha_round_up(n, a->nr) / a->pair,
                .vfirst = x / a->pair,
                .logw = s->logw + x,
                .cap = capped ? s->cap + r : NULL,
                .rows = (int)(rows - r < a->br ? rows - r : a->br),
                .keys = (int)(n - x < a->bc ? n - x : a->bc),
                .head_dim = (int)p->head_dim,
                .dv = (int)dv,
                .scale = p->softmax_scale * HA_LOG2E,
                .m = s->m + r,
                .l = s->l + r,
                .acc = s->acc + r * run->cpu->ldacc,
                .ldacc = run->cpu->ldacc,
                .scratch = s->tile,
            };
            a->attend(&tile);
        }
}
