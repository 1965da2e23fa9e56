/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/softmax.h"

#include <math.h>
#include <string.h>

#include "int64.h"

/* ---- memory ---------------------------------------------------------------------------------- */

void ha_softmax_carve(ha_carver *c, const ha_cpu_plan *plan, ha_softmax *s, int64_t rows)
{
    rows = ha_round_up(rows, plan->arith->mr);
    s->q = ha_carve(c, rows * ha_ldq(plan->arith, plan->problem->head_dim), sizeof(float));
    s->m = ha_carve(c, rows, sizeof *s->m);
    s->l = ha_carve(c, rows, sizeof *s->l);
    s->acc = ha_carve(c, rows * plan->ldacc, sizeof *s->acc);
    s->inv = ha_carve(c, rows, sizeof *s->inv);
    s->scratch = ha_carve(c, ha_tile_scratch(plan->arith), sizeof *s->scratch);
}

void ha_states_carve(ha_carver *c, const ha_cpu_plan *plan, ha_states *states, int64_t rows)
{
    states->m = ha_carve(c, rows, sizeof *states->m);
    states->l = ha_carve(c, rows, sizeof *states->l);
    states->acc = ha_carve(c, rows * plan->ldacc, sizeof *states->acc);
}

ha_softmax ha_softmax_from(const ha_cpu_plan *plan, const ha_softmax *s, int64_t r)
{
    ha_softmax from = *s;
    from.q = (float *)s->q + r * ha_ldq(plan->arith, plan->problem->head_dim);
    from.m += r;
    from.l += r;
    from.acc += r * plan->ldacc;
    from.inv += r;
    return from;
}

ha_states ha_states_from(const ha_cpu_plan *plan, const ha_states *states, int64_t r)
{
    return (ha_states){states->m + r, states->l + r, states->acc + r * plan->ldacc};
}

/* ---- rows in and out ------------------------------------------------------------------------- */

/* Rows [first, end) have seen no key. */
static void clear_rows(const ha_cpu_plan *plan, ha_softmax *s, int64_t first, int64_t end)
{
    for (int64_t i = first; i < end; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    memset(s->acc + first * plan->ldacc, 0,
           (size_t)((end - first) * plan->ldacc) * sizeof *s->acc);
}

void ha_softmax_clear(const ha_cpu_plan *plan, ha_softmax *s, int64_t rows)
{
    clear_rows(plan, s, 0, ha_round_up(rows, plan->arith->mr));
}

void ha_softmax_load_q(const ha_cpu_plan *plan, ha_softmax *s, const ha_query_rows *at)
{
    const ha_rows q = ha_rows_at(&at->kh->q, at);
    plan->arith->load_q(s->q, &q, at->rows, plan->problem->head_dim);
}

void ha_softmax_load(const ha_cpu_plan *plan, ha_softmax *s, const ha_states *from,
                     const ha_query_rows *at)
{
    int64_t ld = plan->ldacc, base = at->head * at->kh->layout->nq;
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = base + ha_row_of(at, i);
        s->m[i] = from->m[row];
        s->l[i] = from->l[row];
        if (from->acc)
            memcpy(s->acc + i * ld, from->acc + row * ld, (size_t)ld * sizeof(float));
    }
    clear_rows(plan, s, at->rows, ha_round_up(at->rows, plan->arith->mr));
}

void ha_softmax_store(const ha_cpu_plan *plan, const ha_softmax *s, const ha_states *to,
                      const ha_query_rows *at)
{
    int64_t ld = plan->ldacc, base = at->head * at->kh->layout->nq;
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = base + ha_row_of(at, i);
        to->m[row] = s->m[i];
        to->l[row] = s->l[i];
        if (to->acc)
            memcpy(to->acc + row * ld, s->acc + i * ld, (size_t)ld * sizeof(float));
    }
}

void ha_softmax_finish(const ha_cpu_plan *plan, ha_softmax *s, const ha_query_rows *at)
{
    const float ln2 = 0.693147180559945309f;
    float *lse = at->kh->lse ? at->kh->lse + at->head * at->kh->lse_step : NULL;
    for (int64_t i = 0; i < at->rows; i++) {
        int none = s->l[i] == 0;
        s->inv[i] = none ? 0 : 1 / s->l[i];
        if (lse)
            lse[ha_row_of(at, i)] = none ? -INFINITY : (s->m[i] + log2f(s->l[i])) * ln2;
    }
    const ha_out_rows out = ha_out_at(&at->kh->out, at);
    plan->kernels->store_rows(&out, s->acc, plan->ldacc, s->inv, at->rows,
                              plan->problem->head_dim_v);
}

/* ---- sums of two ----------------------------------------------------------------------------- */

/* Row i of s becomes what it and row `row` of the others have seen. m is no NaN, but l and acc may
 * be, also where the maximum is -inf because no key had a comparable score. */
static void add_row(const ha_cpu_plan *plan, const ha_softmax *s, int64_t i, const ha_states *other,
                    int64_t row)
{
    int64_t ld = plan->ldacc;
    float *acc = s->acc + i * ld;
    const float *more = other->acc + row * ld;
    float top = other->m[row] > s->m[i] ? other->m[row] : s->m[i];
    float mine = top == -INFINITY ? 1 : exp2f(s->m[i] - top);
    float theirs = top == -INFINITY ? 1 : exp2f(other->m[row] - top);
    s->m[i] = top;
    s->l[i] = s->l[i] * mine + other->l[row] * theirs;
    for (int64_t c = 0; c < ld; c++)
        acc[c] = acc[c] * mine + more[c] * theirs;
}

void ha_softmax_fold(const ha_cpu_plan *plan, ha_softmax *s, const ha_states *from,
                     const ha_query_rows *at)
{
    int64_t base = at->head * at->kh->layout->nq;
    for (int64_t i = 0; i < at->rows; i++)
        add_row(plan, s, i, from, base + ha_row_of(at, i));
}

void ha_softmax_add(const ha_cpu_plan *plan, const ha_softmax *s, const ha_states *other,
                    int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        add_row(plan, s, i, other, i);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

ha_tile ha_tile_at(const ha_cpu_plan *plan, const ha_softmax *s, int64_t r, int64_t rows,
                   const ha_key_pack *pack, int64_t first, int64_t keys)
{
    const hyperattn_problem *p = plan->problem;
    const ha_arith *a = plan->arith;
    return (ha_tile){
        .q = (const float *)s->q + r * ha_ldq(a, p->head_dim),
        .k = (const float *)pack->k + first * ha_units(a, p->head_dim),
        .v = pack->v,
        .vpanel = ha_round_up(pack->keys, a->nr) / a->pair,
        .vfirst = first / a->pair,
        .rows = (int)rows,
        .keys = (int)keys,
        .head_dim = (int)p->head_dim,
        .head_dim_v = (int)p->head_dim_v,
        .scale = p->softmax_scale * HA_LOG2E,
        .m = s->m + r,
        .l = s->l + r,
        .acc = s->acc + r * plan->ldacc,
        .ldacc = plan->ldacc,
        .scratch = s->scratch,
    };
}
