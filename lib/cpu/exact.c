/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/exact.h"

#include <math.h>

#include "cpu/clock.h"
#include "cpu/state.h"
#include "int64.h"
#include "parallel.h"

/* Keys that one packing task takes. */
#define PACK_KEYS 512

static void pack_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    const hyperattn_problem *p = run->plan->problem;
    const ha_arith *a = run->cpu->arith;
    double start = ha_clock(run->plan);
    int64_t per_unit = (run->cpu->max.nk + PACK_KEYS - 1) / PACK_KEYS;
    ha_unit *u = &run->units[i / per_unit];
    int64_t first = i % per_unit * PACK_KEYS, n = u->layout->nk - u->layout->key0;
    if (first >= n)
        return;
    int64_t depth = ha_units(a, p->head_dim), vpanel = ha_round_up(n, a->nr) / a->pair;
    int64_t end = ha_min(n, first + PACK_KEYS);
    for (int64_t x = first; x < end; x += HA_SPLIT) {
        int64_t keys = ha_min(HA_SPLIT, end - x);
        ha_rows k = u->k, v = u->v;
        k.first = v.first = u->layout->key0 + x;
        a->pack_k((float *)u->kpack + x * depth, &k, keys, p->head_dim);
        u->finite[x / HA_SPLIT] =
            (uint8_t)a->pack_v(u->vpack, vpanel, x / a->pair, &v, keys, p->head_dim_v);
    }
    ha_clock_add(run, thread, HA_STAGE_GATHER, start);
}

void ha_exact_pack(ha_run *run)
{
    int64_t per_unit = (run->cpu->max.nk + PACK_KEYS - 1) / PACK_KEYS;
    ha_parallel_for(run->plan->device->nthreads, run->nunits * per_unit, pack_task, run);
}

/* Rows of a leaf that one task takes: two tiles, or one where there would be too few tasks, and a
 * little less for equal shares of all threads. They are whole register blocks, so that results do
 * not depend on them. */
static int64_t slice_rows(const ha_run *run)
{
    const ha_arith *a = run->cpu->arith;
    int64_t rows = HA_TASK_ROWS / a->br * a->br, nthreads = run->plan->device->nthreads;
    int64_t leaf = run->cpu->max.max_leaf_rows;
    int64_t leaves = run->cpu->max.nleaves * run->cpu->group * run->nunits;
    while (rows > a->br && leaf * leaves / rows < 16 * nthreads)
        rows -= a->br;
    int64_t slices = (leaf + rows - 1) / rows;
    while (slices * leaves % nthreads)
        slices++;
    return ha_round_up((leaf + slices - 1) / slices, a->mr);
}

/* A slice of a leaf: consecutive rows of one query head. */
typedef struct slice {
    ha_unit *unit;
    int64_t head;
    int64_t row0, rows;
    int64_t key0;   /* first key */
    int64_t last;   /* key behind the first row's last one, not counting later rows' */
    int64_t slope;  /* 1 if each later row sees one more key, else 0 */
} slice;

/* Whether a chunk of the pack holds an Inf or NaN. */
static int is_careful(const ha_unit *u, int64_t first, int64_t keys)
{
    for (int64_t x = first / HA_SPLIT; x * HA_SPLIT < first + keys; x++)
        if (!u->finite[x])
            return 1;
    return 0;
}

/* Rows [r, r + br) of a slice against keys [x, x + keys) of the pack, where x is a multiple of bc
 * from the slice's first key on. */
static void attend_rows(const ha_run *run, const slice *sl, ha_scratch *s, int64_t r, int64_t x,
                        int64_t keys)
{
    const hyperattn_problem *p = run->plan->problem;
    const ha_arith *a = run->cpu->arith;
    const ha_unit *u = sl->unit;
    int64_t rows = ha_min(a->br, sl->rows - r), pad = ha_round_up(rows, a->mr);
    int64_t depth = ha_units(a, p->head_dim), packed = u->layout->nk - u->layout->key0;
    /* limits of the first and last row, counted from the chunk's first key */
    int64_t low = sl->last + sl->slope * r - u->layout->key0 - x;
    int64_t high = low + sl->slope * (rows - 1);
    if (high <= 0)
        return;
    ha_tile tile = {
        .q = (const float *)s->q + r * ha_ldq(a, p->head_dim),
        .k = (const float *)u->kpack + x * depth,
        .v = u->vpack,
        .vpanel = ha_round_up(packed, a->nr) / a->pair,
        .vfirst = x / a->pair,
        .logw = s->columns[0].logw,
        .rows = (int)rows,
        .keys = (int)ha_min(keys, high),
        .head_dim = (int)p->head_dim,
        .head_dim_v = (int)p->head_dim_v,
        .scale = p->softmax_scale * HA_LOG2E,
        .m = s->m + r,
        .l = s->l + r,
        .acc = s->acc + r * run->cpu->ldacc,
        .ldacc = run->cpu->ldacc,
        .scratch = s->tile,
    };
    if (low < keys) {
        for (int64_t i = 0; i < pad; i++)
            s->limit[i] = (int32_t)(low + sl->slope * ha_min(i, rows - 1));
        tile.limit = s->limit;
        tile.careful = is_careful(u, x, keys);
    }
    a->attend(&tile);
}

static void attend_slice(const ha_run *run, const slice *sl, ha_scratch *s)
{
    const ha_arith *a = run->cpu->arith;
    int64_t begin = sl->key0 - sl->unit->layout->key0;
    int64_t end = sl->last + sl->slope * (sl->rows - 1) - sl->unit->layout->key0;
    for (int64_t x = begin; x < end; x += a->bc) {
        int64_t keys = ha_min(a->bc, sl->unit->layout->nk - sl->unit->layout->key0 - x);
        for (int64_t j = 0; j < a->bc; j++)
            s->columns[0].logw[j] = j < keys ? 0 : -INFINITY;
        for (int64_t r = 0; r < sl->rows; r += a->br)
            attend_rows(run, sl, s, r, x, keys);
    }
}

static void leaf_slice(ha_run *run, const ha_leaf *leaf, const slice *sl, int thread)
{
    ha_scratch *s = &run->scratch[thread];
    ha_rows q = sl->unit->q[sl->head];
    q.first = sl->row0;
    const ha_state_rows at = {sl->unit, sl->head, NULL, sl->row0, sl->rows};
    double start = ha_clock(run->plan);
    run->cpu->arith->load_q(s->q, &q, sl->rows, run->plan->problem->head_dim);
    start = ha_clock_add(run, thread, HA_STAGE_GATHER, start);
    if (leaf->first)
        ha_state_clear(run, s, sl->rows);
    else
        ha_state_load(run, s, &at);
    start = ha_clock_add(run, thread, HA_STAGE_STATE, start);
    attend_slice(run, sl, s);
    start = ha_clock_add(run, thread, HA_STAGE_LEAF, start);
    ha_state_finish(run, s, &at);
    ha_clock_add(run, thread, HA_STAGE_STATE, start);
}

/* Tasks count slices from the last one of each leaf backwards, so that under a causal mask the
 * longest start first; the leaves, heads and units of one slice number follow each other. */
static void leaf_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    int64_t step = slice_rows(run);
    ha_unit *u = &run->units[i % run->nunits];
    i /= run->nunits;
    int64_t head = i % run->cpu->group;
    i /= run->cpu->group;
    int64_t nleaves = run->cpu->max.nleaves, back = i / nleaves, number = i % nleaves;
    if (number >= u->layout->nleaves)
        return;
    const ha_leaf *leaf = &u->layout->leaves[number];
    int64_t row = ((leaf->nq + step - 1) / step - 1 - back) * step;
    if (row < 0)
        return;
    int causal = run->plan->problem->causal;
    const slice sl = {
        .unit = u,
        .head = head,
        .row0 = leaf->q0 + row,
        .rows = ha_min(step, leaf->nq - row),
        .key0 = leaf->k0,
        .last = causal ? leaf->q0 + row + u->layout->nk - u->layout->nq + 1 : u->layout->nk,
        .slope = causal,
    };
    leaf_slice(run, leaf, &sl, thread);
}

void ha_exact_leaves(ha_run *run)
{
    int64_t step = slice_rows(run);
    int64_t slices = (run->cpu->max.max_leaf_rows + step - 1) / step;
    ha_parallel_for(run->plan->device->nthreads,
                    slices * run->cpu->max.nleaves * run->cpu->group * run->nunits, leaf_task, run);
}
