/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/exact.h"

#include <math.h>

#include "cpu/clock.h"
#include "cpu/few.h"
#include "int64.h"

/* Keys that one item of packing takes. */
#define PACK_KEYS 512

/* Items of work that a thread should find in a loop. */
#define ITEMS_PER_THREAD 16

/* A key head's keys and values from its layout's leaf_key0 on. */
typedef struct ha_exact_head {
    ha_key_pack pack;
    uint8_t *finite; /* [per HA_SPLIT keys of the pack]: every value is finite */
} ha_exact_head;

/* One thread's buffers. */
typedef struct ha_exact_thread {
    ha_softmax rows;
    ha_states segment; /* rows of a later segment */
    float *logw;
    int32_t *limit;
} ha_exact_thread;

typedef struct stage {
    ha_call *call;
    const ha_exact *exact;
    const ha_states *states;
    int64_t step; /* rows of a slice */
    int sums_only;
} stage;

/* Whether the leaves of a sequence are this file's. */
static int is_served(const ha_cpu_plan *plan, const ha_layout *l)
{
    return l->nleaves && !ha_few_serves(plan, l);
}

void ha_exact_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, int with_values,
                    ha_exact *exact)
{
    const hyperattn_problem *p = plan->problem;
    const ha_arith *a = plan->arith;
    int64_t nk = 0, rows = ha_round_up(ha_rows_held(plan, HA_TASK_ROWS), plan->arith->mr);
    for (int64_t i = 0; i < plan->nlayouts; i++)
        if (is_served(plan, &plan->layouts[i]))
            nk = ha_max(nk, ha_round_up(ha_max(1, plan->layouts[i].nk), HA_SPLIT));
    exact->heads = ha_carve(c, plan->in_flight, sizeof *exact->heads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_exact_head none, *h = c->base ? &exact->heads[i] : &none;
        h->pack.k = ha_carve(c, (int64_t)ha_k_bytes(a, nk, p->head_dim), 1);
        h->pack.v = ha_carve(c, (int64_t)ha_v_bytes(a, with_values ? nk : 0, p->head_dim_v), 1);
        h->finite = ha_carve(c, nk / HA_SPLIT, 1);
    }
    exact->threads = ha_carve(c, nthreads, sizeof *exact->threads);
    for (int i = 0; nk && i < nthreads; i++) {
        ha_exact_thread none, *t = c->base ? &exact->threads[i] : &none;
        ha_softmax_carve(c, plan, &t->rows, rows);
        ha_states_carve(c, plan, &t->segment, nk > HA_SEGMENT_KEYS ? rows : 0);
        t->logw = ha_carve(c, a->bc, sizeof *t->logw);
        t->limit = ha_carve(c, ha_round_up(a->br, a->mr), sizeof *t->limit);
    }
}

/* ---- packs ----------------------------------------------------------------------------------- */

static int64_t packed_keys(const ha_layout *l)
{
    return l->nk - l->leaf_key0;
}

static int64_t count_packs(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    return is_served(st->call->plan, l) ? (packed_keys(l) + PACK_KEYS - 1) / PACK_KEYS : 0;
}

static void pack_keys(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const hyperattn_problem *p = call->plan->problem;
    const ha_arith *a = call->plan->arith;
    const ha_key_head *kh = &call->heads[place];
    ha_exact_head *h = &st->exact->heads[place];
    double start = ha_clock(call);
    int64_t n = packed_keys(kh->layout), first = item * PACK_KEYS;
    int64_t end = ha_min(n, first + PACK_KEYS);
    int64_t depth = ha_units(a, p->head_dim), vpanel = ha_round_up(n, a->nr) / a->pair;
    for (int64_t x = first; x < end; x += HA_SPLIT) {
        int64_t keys = ha_min(HA_SPLIT, end - x);
        ha_rows k = kh->k, v = kh->v;
        k.first = v.first = kh->layout->leaf_key0 + x;
        a->pack_k((float *)h->pack.k + x * depth, &k, keys, p->head_dim);
        h->finite[x / HA_SPLIT] =
            st->sums_only ||
            a->pack_v(h->pack.v, vpanel, x / a->pair, &v, keys, p->head_dim_v);
    }
    ha_clock_add(call, thread, HA_STAGE_GATHER, start);
}

/* ---- slices ---------------------------------------------------------------------------------- */

/* Rows of a leaf that one item takes: two tiles, or one where there would be too few items, and a
 * little less for equal shares of all threads. They are whole register blocks, so that results do
 * not depend on them. */
static int64_t slice_rows(const ha_call *call)
{
    const ha_cpu_plan *plan = call->plan;
    int64_t rows = HA_TASK_ROWS / plan->arith->br * plan->arith->br, br = plan->arith->br;
    int64_t nthreads = plan->nthreads[0], all = 0, longest = 1; /* with no rows too */
    for (int64_t i = 0; i < call->nheads; i++) {
        const ha_layout *l = call->heads[i].layout;
        all += is_served(plan, l) ? l->nleaves * plan->group * l->max_leaf_rows : 0;
        longest = ha_max(longest, l->max_leaf_rows);
    }
    while (rows > br && all / rows < ITEMS_PER_THREAD * nthreads)
        rows -= br;
    int64_t slices = (longest + rows - 1) / rows, leaves = ha_max(1, all / longest);
    while (slices * leaves % nthreads)
        slices++;
    return ha_round_up((longest + slices - 1) / slices, plan->arith->mr);
}

/* A slice of a leaf: consecutive rows of one query head. Keys are counted as the pack's. */
typedef struct slice {
    ha_query_rows at;
    const ha_exact_head *head;
    int with_values;
    int64_t begin; /* first key */
    int64_t limit; /* key behind the first row's last one */
    int64_t slope; /* 1 if each later row sees one more key, else 0 */
} slice;

/* Whether a chunk of the pack holds an Inf or NaN. */
static int is_careful(const ha_exact_head *h, int64_t first, int64_t keys)
{
    for (int64_t x = first / HA_SPLIT; x * HA_SPLIT < first + keys; x++)
        if (!h->finite[x])
            return 1;
    return 0;
}

/* Rows [r, r + br) of a slice against keys [x, x + keys) of the pack, where x is a multiple of NR
 * from the slice's first key on. */
static void attend_rows(const ha_cpu_plan *plan, const slice *sl, const ha_exact_thread *t,
                        const ha_softmax *s, int64_t r, int64_t x, int64_t keys)
{
    const ha_arith *a = plan->arith;
    int64_t rows = ha_min(a->br, sl->at.rows - r);
    /* limits of the first and last row, counted from the chunk's first key */
    int64_t low = sl->limit + sl->slope * r - x, high = low + sl->slope * (rows - 1);
    if (high <= 0)
        return;
    ha_tile tile = ha_tile_at(plan, s, r, rows, &sl->head->pack, x, ha_min(keys, high));
    tile.logw = t->logw;
    if (!sl->with_values)
        tile.head_dim_v = 0;
    if (low < keys) {
        int64_t padded = ha_round_up(rows, a->mr);
        for (int64_t i = 0; i < padded; i++)
            t->limit[i] = (int32_t)(low + sl->slope * ha_min(i, rows - 1));
        tile.limit = t->limit;
        tile.careful = is_careful(sl->head, x, keys);
    }
    a->attend(&tile);
}

/* All rows of the slice against keys [begin, end). */
static void attend_segment(const ha_cpu_plan *plan, const slice *sl, const ha_exact_thread *t,
                           const ha_softmax *s, int64_t begin, int64_t end)
{
    const ha_arith *a = plan->arith;
    for (int64_t x = begin; x < end; x += a->bc) {
        int64_t keys = ha_min(a->bc, ha_min(end, sl->head->pack.keys) - x);
        for (int64_t j = 0; j < a->bc; j++)
            t->logw[j] = j < keys ? 0 : -INFINITY;
        for (int64_t r = 0; r < sl->at.rows; r += a->br)
            attend_rows(plan, sl, t, s, r, x, keys);
    }
}

static void attend_slice(const ha_cpu_plan *plan, const slice *sl, ha_exact_thread *t)
{
    int64_t end = sl->limit + sl->slope * (sl->at.rows - 1);
    for (int64_t x = sl->begin; x < end; x += HA_SEGMENT_KEYS) {
        int64_t segment_end = ha_min(end, x + HA_SEGMENT_KEYS);
        if (x == sl->begin) {
            attend_segment(plan, sl, t, &t->rows, x, segment_end);
            continue;
        }
        ha_softmax s = t->rows;
        s.m = t->segment.m;
        s.l = t->segment.l;
        s.acc = t->segment.acc;
        ha_softmax_clear(plan, &s, sl->at.rows);
        attend_segment(plan, sl, t, &s, x, segment_end);
        ha_softmax_add(plan, &t->rows, &t->segment, sl->at.rows);
    }
}

/* ---- leaves ---------------------------------------------------------------------------------- */

static int64_t slices_of(const stage *st, int64_t rows)
{
    return (rows + st->step - 1) / st->step;
}

static int64_t count_slices(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_layout *l = st->call->heads[place].layout;
    return is_served(plan, l) ? slices_of(st, l->max_leaf_rows) * l->nleaves * plan->group : 0;
}

/* Items count slices from the last one of each leaf backwards, so that under a causal mask the
 * longest start first; the leaves and heads of one slice number follow each other. */
static void leaf_slice(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    const ha_key_head *kh = &call->heads[place];
    const ha_layout *l = kh->layout;
    int64_t head = item % plan->group, number = item / plan->group % l->nleaves;
    const ha_leaf *leaf = &l->leaves[number];
    int64_t back = item / plan->group / l->nleaves;
    int64_t row = (slices_of(st, leaf->nq) - 1 - back) * st->step;
    if (row < 0 || (st->sums_only && !leaf->partial))
        return;
    int causal = plan->problem->causal;
    const slice sl = {
        .at = {kh, head, NULL, leaf->q0 + row, ha_min(st->step, leaf->nq - row)},
        .head = &st->exact->heads[place],
        .with_values = !st->sums_only,
        .begin = leaf->k0 - l->leaf_key0,
        .limit = ha_leaf_limit(l, leaf, causal, row) - l->leaf_key0,
        .slope = causal,
    };
    ha_exact_thread *t = &st->exact->threads[thread];
    double start = ha_clock(call);
    ha_softmax_load_q(plan, &t->rows, &sl.at);
    start = ha_clock_add(call, thread, HA_STAGE_GATHER, start);
    if (leaf->fresh)
        ha_softmax_clear(plan, &t->rows, sl.at.rows);
    else
        ha_softmax_load(plan, &t->rows, &st->states[place], &sl.at);
    start = ha_clock_add(call, thread, HA_STAGE_STATE, start);
    attend_slice(plan, &sl, t);
    start = ha_clock_add(call, thread, HA_STAGE_LEAF, start);
    if (leaf->partial)
        ha_softmax_store(plan, &t->rows, &st->states[place], &sl.at);
    else
        ha_softmax_finish(plan, &t->rows, &sl.at);
    ha_clock_add(call, thread, HA_STAGE_STATE, start);
}

static void run(ha_call *call, const ha_exact *exact, const ha_states *states, int sums_only)
{
    stage st = {call, exact, states, slice_rows(call), sums_only};
    for (int64_t i = 0; i < call->nheads; i++)
        exact->heads[i].pack.keys = packed_keys(call->heads[i].layout);
    ha_for_items(call, count_packs, pack_keys, &st);
    ha_for_items(call, count_slices, leaf_slice, &st);
}

void ha_exact_forward(ha_call *call, const ha_exact *exact, const ha_states *states)
{
    run(call, exact, states, 0);
}

void ha_exact_sums(ha_call *call, const ha_exact *exact, const ha_states *states)
{
    run(call, exact, states, 1);
}
