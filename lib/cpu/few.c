/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/few.h"

#include <math.h>

#include "cpu/clock.h"
#include "cpu/columns.h"
#include "int64.h"

/* Keys of a range. */
#define RANGE_KEYS 4096

/* One thread's buffers. Each head of the group has whole register blocks of rows. */
typedef struct ha_few_thread {
    ha_softmax rows;
    ha_key_pack pack;
    float *logw;
    int32_t *limit;
} ha_few_thread;

typedef struct stage {
    ha_call *call;
    const ha_few *few;
} stage;

/* Rows between the heads of a group in a thread's softmax. */
static int64_t rows_padded(const ha_cpu_plan *plan, const ha_layout *l)
{
    return ha_round_up(l->nq, plan->arith->mr);
}

int ha_few_serves(const ha_cpu_plan *plan, const ha_layout *layout)
{
    return plan->params->method == HYPERATTN_EXACT && layout->nleaves &&
           layout->nq <= HA_TASK_ROWS && plan->group * rows_padded(plan, layout) <= HA_TASK_ROWS;
}

static int64_t ranges(const ha_layout *l)
{
    return ha_max(1, (l->nk + RANGE_KEYS - 1) / RANGE_KEYS);
}

void ha_few_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_few *few)
{
    int64_t kept = 0, served = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        const ha_layout *l = &plan->layouts[i];
        int serves = ha_few_serves(plan, l);
        served += serves;
        if (serves && ranges(l) > 1)
            kept = ha_max(kept, ranges(l) * plan->group * l->nq);
    }
    few->heads = ha_carve(c, plan->in_flight, sizeof *few->heads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_states none;
        ha_states_carve(c, plan, c->base ? &few->heads[i] : &none, kept);
    }
    few->threads = ha_carve(c, nthreads, sizeof *few->threads);
    for (int i = 0; served && i < nthreads; i++) {
        ha_few_thread none, *t = c->base ? &few->threads[i] : &none;
        ha_softmax_carve(c, plan, &t->rows, HA_TASK_ROWS);
        ha_key_pack_carve(c, plan, &t->pack);
        t->logw = ha_carve(c, HA_BATCH_KEYS, sizeof *t->logw);
        t->limit = ha_carve(c, ha_round_up(plan->arith->br, plan->arith->mr), sizeof *t->limit);
    }
}

/* ---- a range of keys ------------------------------------------------------------------------- */

/* All rows of the group in a thread's softmax; of each head those from its first on. */
typedef struct group {
    const ha_cpu_plan *plan;
    const ha_key_head *kh;
    ha_few_thread *t;
} group;

static ha_query_rows head_rows(const group *g, int64_t head)
{
    return (ha_query_rows){g->kh, head, NULL, 0, g->kh->layout->nq};
}

static ha_softmax head_softmax(const group *g, int64_t head)
{
    return ha_softmax_from(g->plan, &g->t->rows, head * rows_padded(g->plan, g->kh->layout));
}

/* The keys [first, first + n) that are packed, against the rows of one head. */
static void attend_head(const group *g, int64_t head, int64_t first, int64_t n, int careful)
{
    const ha_arith *a = g->plan->arith;
    const ha_layout *l = g->kh->layout;
    const ha_softmax s = head_softmax(g, head);
    int causal = g->plan->problem->causal;
    for (int64_t x = 0; x < n; x += a->bc)
        for (int64_t r = 0; r < l->nq; r += a->br) {
            int64_t keys = ha_min(a->bc, n - x), rows = ha_min(a->br, l->nq - r);
            int64_t low = ha_leaf_limit(l, &l->leaves[0], causal, r) - first - x;
            int64_t high = low + causal * (rows - 1);
            if (high <= 0)
                continue;
            ha_tile tile = ha_tile_at(g->plan, &s, r, rows, &g->t->pack, x, ha_min(keys, high));
            tile.logw = g->t->logw + x;
            if (low < keys) {
                for (int64_t i = 0; i < ha_round_up(rows, a->mr); i++)
                    g->t->limit[i] = (int32_t)(low + causal * ha_min(i, rows - 1));
                tile.limit = g->t->limit;
                tile.careful = careful;
            }
            a->attend(&tile);
        }
}

static void attend_range(const group *g, int64_t begin, int64_t end)
{
    const hyperattn_problem *p = g->plan->problem;
    const ha_arith *a = g->plan->arith;
    for (int64_t x = begin; x < end; x += HA_BATCH_KEYS) {
        int64_t n = ha_min(HA_BATCH_KEYS, end - x), padded = ha_round_up(n, a->nr);
        ha_rows k = g->kh->k, v = g->kh->v;
        k.first = v.first = x;
        for (int64_t j = 0; j < padded; j++)
            g->t->logw[j] = j < n ? 0 : -INFINITY;
        g->t->pack.keys = n;
        a->pack_k(g->t->pack.k, &k, n, p->head_dim);
        int finite = a->pack_v(g->t->pack.v, padded / a->pair, 0, &v, n, p->head_dim_v);
        for (int64_t head = 0; head < g->plan->group; head++)
            attend_head(g, head, x, n, !finite);
    }
}

/* ---- the stage ------------------------------------------------------------------------------- */

static int64_t count_ranges(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    return ha_few_serves(st->call->plan, l) ? ranges(l) : 0;
}

/* Of one range, the states are final. */
static void run_range(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    const group g = {plan, &call->heads[place], &st->few->threads[thread]};
    const ha_layout *l = g.kh->layout;
    int64_t end = ha_min(l->nk, (item + 1) * RANGE_KEYS);
    double start = ha_clock(call);
    for (int64_t head = 0; head < plan->group; head++) {
        ha_softmax s = head_softmax(&g, head);
        const ha_query_rows at = head_rows(&g, head);
        ha_softmax_load_q(plan, &s, &at);
        ha_softmax_clear(plan, &s, l->nq);
    }
    attend_range(&g, item * RANGE_KEYS, end);
    for (int64_t head = 0; head < plan->group; head++) {
        ha_softmax s = head_softmax(&g, head);
        const ha_query_rows at = head_rows(&g, head);
        const ha_states kept =
            ha_states_from(plan, &st->few->heads[place], item * plan->group * l->nq);
        if (ranges(l) == 1)
            ha_softmax_finish(plan, &s, &at);
        else
            ha_softmax_store(plan, &s, &kept, &at);
    }
    ha_clock_add(call, thread, HA_STAGE_LEAF, start);
}

static int64_t count_sums(const void *arg, int64_t place)
{
    const stage *st = arg;
    return count_ranges(arg, place) > 1 ? st->call->plan->group : 0;
}

/* Adds up the ranges of one head, in order. */
static void sum_ranges(void *arg, int64_t place, int64_t head, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    const group g = {plan, &call->heads[place], &st->few->threads[thread]};
    const ha_layout *l = g.kh->layout;
    const ha_query_rows at = head_rows(&g, head);
    double start = ha_clock(call);
    ha_softmax_clear(plan, &g.t->rows, l->nq);
    for (int64_t range = 0; range < ranges(l); range++) {
        const ha_states kept =
            ha_states_from(plan, &st->few->heads[place], range * plan->group * l->nq);
        ha_softmax_fold(plan, &g.t->rows, &kept, &at);
    }
    ha_softmax_finish(plan, &g.t->rows, &at);
    ha_clock_add(call, thread, HA_STAGE_STATE, start);
}

void ha_few_forward(ha_call *call, const ha_few *few)
{
    stage st = {call, few};
    ha_for_items(call, count_ranges, run_range, &st);
    ha_for_items(call, count_sums, sum_ranges, &st);
}
