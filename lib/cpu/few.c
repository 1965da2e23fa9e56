/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/few.h"

#include <math.h>

#include "cpu/clock.h"
#include "cpu/columns.h"
#include "int64.h"

/* Keys of a range. */
#define RANGE_KEYS 2048

/* Rows of a head up to which packing costs more than it saves. */
#define IN_PLACE_ROWS 4

/* Most rows of a group that are held at a time, to keep the workspace small. */
#define MOST_IN_PLACE 1024

/* Keys at a time that several steps of rows meet where they lie: they stay in a second-level
 * cache. */
#define IN_PLACE_KEYS 512

/* Keys per row from which ranges of keys are better shared out than rows. */
#define KEYS_PER_ROW 8

/* One thread's buffers. */
typedef struct ha_few_thread {
    ha_softmax rows;
    int32_t *limit;
    /* packed: */
    ha_key_pack pack;
    float *logw;
    /* in place: */
    float *q;
} ha_few_thread;

typedef struct stage {
    ha_call *call;
    const ha_few *few;
} stage;

/* Whether keys and values are read where they lie. */
static int is_in_place(const ha_layout *l)
{
    return l->nq <= IN_PLACE_ROWS;
}

/* Rows between the heads of a group in a thread's softmax, where keys are packed. */
static int64_t rows_padded(const ha_cpu_plan *plan, const ha_layout *l)
{
    return ha_round_up(l->nq, plan->arith->mr);
}

/* All rows of a thread's softmax. */
static int64_t rows_of_group(const ha_cpu_plan *plan, const ha_layout *l)
{
    return plan->group * (is_in_place(l) ? l->nq : rows_padded(plan, l));
}

int ha_few_serves(const ha_cpu_plan *plan, const ha_layout *layout)
{
    if (!ha_layout_is_exact(layout, plan->params) || !layout->nleaves || layout->nq > HA_TASK_ROWS)
        return 0;
    if (is_in_place(layout))
        return plan->group * layout->nq <= MOST_IN_PLACE;
    int64_t rows = rows_of_group(plan, layout);
    return rows <= HA_TASK_ROWS && layout->nk >= ha_max(2 * RANGE_KEYS, KEYS_PER_ROW * rows);
}

static int64_t ranges(const ha_layout *l)
{
    return ha_max(1, (l->nk + RANGE_KEYS - 1) / RANGE_KEYS);
}

void ha_few_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_few *few)
{
    const ha_arith *a = plan->arith, *f32 = &plan->kernels->f32;
    int64_t kept = 0, rows = 0, in_place = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        const ha_layout *l = &plan->layouts[i];
        if (!ha_few_serves(plan, l))
            continue;
        rows = ha_max(rows, rows_of_group(plan, l));
        in_place = is_in_place(l) ? ha_max(in_place, rows_of_group(plan, l)) : in_place;
        if (ranges(l) > 1)
            kept = ha_max(kept, ranges(l) * plan->group * l->nq);
    }
    few->heads = ha_carve(c, plan->in_flight, sizeof *few->heads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_states none;
        ha_states_carve(c, plan, c->base ? &few->heads[i] : &none, kept);
    }
    few->threads = ha_carve(c, nthreads, sizeof *few->threads);
    for (int i = 0; rows && i < nthreads; i++) {
        ha_few_thread none, *t = c->base ? &few->threads[i] : &none;
        ha_softmax_carve(c, plan, &t->rows, rows);
        ha_key_pack_carve(c, plan, &t->pack);
        t->logw = ha_carve(c, ha_round_up(ha_keys_held(plan, HA_BATCH_KEYS), a->nr),
                           sizeof *t->logw);
        t->limit = ha_carve(c, ha_round_up(ha_max(a->br, HA_IN_PLACE_ROWS), a->mr),
                            sizeof *t->limit);
        t->q = ha_carve(c, (in_place + f32->mr) * ha_ldq(f32, plan->problem->head_dim),
                        sizeof *t->q);
    }
}

/* ---- rows of a group ------------------------------------------------------------------------- */

/* All rows of the group in a thread's softmax: those of each head together where keys are packed;
 * in place, first row 0 of all heads, then row 1, so that later rows see no less. */
typedef struct group {
    const ha_cpu_plan *plan;
    const ha_key_head *kh;
    ha_few_thread *t;
    int64_t pieces; /* rows that lie together, of one head */
} group;

static group group_of(const ha_cpu_plan *plan, const ha_key_head *kh, ha_few_thread *t)
{
    int64_t pieces = plan->group * (is_in_place(kh->layout) ? kh->layout->nq : 1);
    return (group){plan, kh, t, pieces};
}

static ha_query_rows piece_rows(const group *g, int64_t piece)
{
    if (is_in_place(g->kh->layout))
        return (ha_query_rows){g->kh, piece % g->plan->group, NULL, piece / g->plan->group, 1};
    return (ha_query_rows){g->kh, piece, NULL, 0, g->kh->layout->nq};
}

static ha_softmax piece_softmax(const group *g, int64_t piece)
{
    const ha_layout *l = g->kh->layout;
    return ha_softmax_from(g->plan, &g->t->rows,
                           is_in_place(l) ? piece : piece * rows_padded(g->plan, l));
}

static void load_rows(const group *g)
{
    const hyperattn_problem *p = g->plan->problem;
    const ha_arith *f32 = &g->plan->kernels->f32;
    for (int64_t piece = 0; piece < g->pieces; piece++) {
        const ha_query_rows at = piece_rows(g, piece);
        const ha_rows q = ha_rows_at(&g->kh->q, &at);
        ha_softmax s = piece_softmax(g, piece);
        if (is_in_place(g->kh->layout)) /* zeros behind the row are the next row's place */
            f32->load_q(g->t->q + piece * ha_ldq(f32, p->head_dim), &q, 1, p->head_dim);
        else
            ha_softmax_load_q(g->plan, &s, &at);
    }
    ha_softmax_clear(g->plan, &g->t->rows, rows_of_group(g->plan, g->kh->layout));
}

/* ---- keys that are packed -------------------------------------------------------------------- */

/* The keys [first, first + n) that are packed, against the rows of one head. */
static void attend_head(const group *g, int64_t head, int64_t first, int64_t n, int careful)
{
    const ha_arith *a = g->plan->arith;
    const ha_layout *l = g->kh->layout;
    const ha_softmax s = piece_softmax(g, head);
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

static void attend_packed(const group *g, int64_t begin, int64_t end)
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

/* ---- keys where they lie --------------------------------------------------------------------- */

/* Rows [r, r + n) of the softmax against keys [x, end). */
static void step_in_place(const group *g, int64_t r, int64_t n, int64_t x, int64_t end)
{
    const hyperattn_problem *p = g->plan->problem;
    const ha_layout *l = g->kh->layout;
    const ha_softmax s = ha_softmax_from(g->plan, &g->t->rows, r);
    int64_t ldq = ha_ldq(&g->plan->kernels->f32, p->head_dim), low = end - x;
    ha_in_place step = {
        .q = g->t->q + r * ldq,
        .ldq = ldq,
        .k = g->kh->k,
        .v = g->kh->v,
        .rows = (int)n,
        .nkeys = (int)(end - x),
        .head_dim = (int)p->head_dim,
        .head_dim_v = (int)p->head_dim_v,
        .scale = p->softmax_scale * HA_LOG2E,
        .m = s.m,
        .l = s.l,
        .acc = s.acc,
        .ldacc = g->plan->ldacc,
    };
    step.k.first = step.v.first = x;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = (r + i) / g->plan->group;
        int64_t limit = ha_leaf_limit(l, &l->leaves[0], p->causal, row) - x;
        g->t->limit[i] = (int32_t)ha_max(0, ha_min(limit, end - x));
        low = ha_min(low, limit);
    }
    step.limit = low < end - x ? g->t->limit : NULL;
    g->plan->kernels->attend_in_place(&step);
}

static void attend_in_place(const group *g, int64_t begin, int64_t end)
{
    int64_t keys = g->pieces > HA_IN_PLACE_ROWS ? IN_PLACE_KEYS : RANGE_KEYS;
    for (int64_t x = begin; x < end; x += keys)
        for (int64_t r = 0; r < g->pieces; r += HA_IN_PLACE_ROWS)
            step_in_place(g, r, ha_min(HA_IN_PLACE_ROWS, g->pieces - r), x, ha_min(end, x + keys));
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
    const group g = group_of(plan, &call->heads[place], &st->few->threads[thread]);
    const ha_layout *l = g.kh->layout;
    const ha_states *states = &st->few->heads[place];
    int64_t begin = item * RANGE_KEYS, end = ha_min(l->nk, begin + RANGE_KEYS);
    double start = ha_clock(call);
    load_rows(&g);
    if (is_in_place(l))
        attend_in_place(&g, begin, end);
    else
        attend_packed(&g, begin, end);
    for (int64_t piece = 0; piece < g.pieces; piece++) {
        ha_softmax s = piece_softmax(&g, piece);
        const ha_query_rows at = piece_rows(&g, piece);
        const ha_states kept = ha_states_from(plan, states, item * plan->group * l->nq);
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

/* The rows of one head in range `range`. */
static ha_states kept_rows(const stage *st, int64_t place, int64_t head, int64_t range)
{
    const ha_cpu_plan *plan = st->call->plan;
    int64_t nq = st->call->heads[place].layout->nq;
    return ha_states_from(plan, &st->few->heads[place], (range * plan->group + head) * nq);
}

/* Adds up the ranges of one head: neighbours first, then their sums, and so on, so that rounding
 * errors grow with the logarithm of their number. */
static void sum_ranges(void *arg, int64_t place, int64_t head, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    const ha_key_head *kh = &call->heads[place];
    int64_t n = ranges(kh->layout), nq = kh->layout->nq;
    ha_softmax *s = &st->few->threads[thread].rows;
    const ha_query_rows at = {kh, head, NULL, 0, nq};
    const ha_states all = st->few->heads[place];
    double start = ha_clock(call);
    for (int64_t apart = 1; apart < n; apart *= 2)
        for (int64_t range = 0; range + apart < n; range += 2 * apart) {
            const ha_states to = kept_rows(st, place, head, range);
            const ha_states from = kept_rows(st, place, head, range + apart);
            const ha_softmax sum = {.m = to.m, .l = to.l, .acc = to.acc};
            ha_softmax_add(plan, &sum, &from, nq);
        }
    ha_softmax_load(plan, s, &all, &at);
    ha_softmax_finish(plan, s, &at);
    ha_clock_add(call, thread, HA_STAGE_STATE, start);
}

void ha_few_forward(ha_call *call, const ha_few *few)
{
    stage st = {call, few};
    ha_for_items(call, count_ranges, run_range, &st);
    ha_for_items(call, count_sums, sum_ranges, &st);
}
