/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/sortlsh.h"

#include "cpu/clock.h"
#include "int64.h"

/* Rows that one item of hashing takes. */
#define HASH_ROWS 1024

/* One thread's buffers. */
typedef struct ha_sort_thread {
    float *rows;       /* a tile of HA_TASK_ROWS rows, as f32 */
    float *directions; /* not packed */
    uint32_t *counts;
} ha_sort_thread;

/* The arguments of a stage. */
typedef struct stage {
    ha_call *call;
    const ha_sortlsh *sort;
    int wave;
    int keys, queries; /* which sides are sorted */
} stage;

void ha_sortlsh_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_sortlsh *sort)
{
    const ha_arith *f32 = &plan->kernels->f32;
    int sorted = ha_is_sorted(plan->params);
    int64_t d = plan->problem->head_dim, nk = sorted ? plan->max.nk : 0;
    int64_t nq = sorted ? plan->group * plan->max.nq : 0;
    int64_t rows = ha_min(HA_TASK_ROWS, ha_max(plan->max.nq, plan->max.nk));
    sort->heads = ha_carve(c, plan->in_flight, sizeof *sort->heads);
    sort->threads = ha_carve(c, nthreads, sizeof *sort->threads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_sorted none = {0}, *s = c->base ? &sort->heads[i] : &none;
        *s = none;
        s->bounds = ha_carve(c, plan->group * plan->max.max_bounds, sizeof *s->bounds);
        if (!sorted)
            continue;
        s->qorder = ha_carve(c, nq, sizeof *s->qorder);
        s->korder = ha_carve(c, nk, sizeof *s->korder);
        s->directions = ha_carve(c, (int64_t)ha_k_bytes(f32, HA_MAX_PROJS, d), 1);
        s->qproj = ha_carve(c, nq * plan->ldproj, sizeof *s->qproj);
        s->kproj = ha_carve(c, nk * plan->ldproj, sizeof *s->kproj);
        s->qrank = ha_carve(c, nq, sizeof *s->qrank);
        s->krank = ha_carve(c, nk, sizeof *s->krank);
    }
    for (int i = 0; sorted && i < nthreads; i++) {
        ha_sort_thread none, *t = c->base ? &sort->threads[i] : &none;
        t->rows = ha_carve(c, ha_round_up(rows, f32->mr) * ha_ldq(f32, d), sizeof(float));
        t->directions = ha_carve(c, HA_MAX_PROJS * d, sizeof *t->directions);
        t->counts = ha_carve(c, ha_sort_counts(plan->params), sizeof *t->counts);
    }
}

/* ---- hash ------------------------------------------------------------------------------------ */

static void make_directions(void *arg, int64_t i, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    int64_t d = plan->problem->head_dim;
    int r = plan->params->lsh_num_projs;
    float *directions = st->sort->threads[thread].directions;
    ha_directions(directions, r, d, plan->params->seed, st->call->heads[i].number);
    const ha_rows rows = {.base = directions, .stride = d, .dtype = HYPERATTN_F32};
    plan->kernels->f32.pack_k(st->sort->heads[i].directions, &rows, r, d);
}

/* Projects rows [first, end): f32 ones where they lie, if they make whole register blocks, others
 * from a tile. */
static void project(const ha_cpu_plan *plan, float *tile, const float *directions, ha_rows rows,
                    int64_t first, int64_t end, float *proj)
{
    const int64_t d = plan->problem->head_dim, ld = plan->ldproj;
    const ha_kernels *kernels = plan->kernels;
    const int r = plan->params->lsh_num_projs;
    if (rows.dtype == HYPERATTN_F32) {
        int64_t whole = (end - first) / kernels->f32.mr * kernels->f32.mr;
        rows.first = first;
        kernels->project(proj + first * ld, ld, ha_row_at(&rows, 0), rows.stride, directions,
                         whole, d, r);
        first += whole;
    }
    for (int64_t x = first; x < end; x += HA_TASK_ROWS) {
        int64_t n = ha_min(HA_TASK_ROWS, end - x);
        rows.first = x;
        kernels->f32.load_q(tile, &rows, n, d);
        kernels->project(proj + x * ld, ld, tile, ha_ldq(&kernels->f32, d), directions, n, d, r);
    }
}

static int64_t chunks(int64_t n)
{
    return (n + HASH_ROWS - 1) / HASH_ROWS;
}

/* Chunks of the keys, then of each query head. */
static int64_t count_chunks(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    return chunks(l->nk) + st->call->plan->group * chunks(l->nq);
}

static void hash_chunk(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_key_head *kh = &call->heads[place];
    const ha_sorted *s = &st->sort->heads[place];
    int64_t nq = kh->layout->nq, nk = kh->layout->nk, first = item * HASH_ROWS;
    float *tile = st->sort->threads[thread].rows;
    double start = ha_clock(call);
    if (item < chunks(nk))
        project(call->plan, tile, s->directions, kh->k, first, ha_min(nk, first + HASH_ROWS),
                s->kproj);
    else {
        item -= chunks(nk);
        int64_t head = item / chunks(nq);
        first = item % chunks(nq) * HASH_ROWS;
        project(call->plan, tile, s->directions, ha_head_rows(&kh->q, head), first,
                ha_min(nq, first + HASH_ROWS), s->qproj + head * nq * call->plan->ldproj);
    }
    ha_clock_add(call, thread, HA_STAGE_HASH, start);
}

void ha_sortlsh_hash(ha_call *call, const ha_sortlsh *sort)
{
    stage st = {.call = call, .sort = sort};
    if (!ha_is_sorted(call->plan->params))
        return;
    ha_parallel_for(call->team, call->nheads, make_directions, &st);
    ha_for_items(call, count_chunks, hash_chunk, &st);
}

/* ---- sort ------------------------------------------------------------------------------------ */

/* Bucket ranks of the n rows whose projections begin at proj: bit j is set where projection j
 * exceeds the mean. Rows are counted from their own mean: that balances the buckets, and keeps
 * queries and keys that lie alike in buckets alike. */
static void rank_rows(const ha_cpu_plan *plan, uint16_t *rank, const float *proj, int64_t n,
                      int centre)
{
    const ha_kernels *kernels = plan->kernels;
    int r = plan->params->lsh_num_projs;
    float mean[HA_MAX_PROJS] = {0};
    double sum[HA_MAX_PROJS];
    if (centre && (!n || !kernels->column_sums(sum, proj, plan->ldproj, n, r)))
        ha_finite_means(mean, proj, plan->ldproj, n, r);
    else
        for (int j = 0; centre && j < r; j++)
            mean[j] = (float)(sum[j] / (double)n);
    kernels->above_bits(rank, proj, plan->ldproj, mean, n, r);
    ha_gray_ranks(rank, n);
}

/* The mean is that of the rectangle's own keys, so that no later key steers it. */
static void sort_keys(const ha_cpu_plan *plan, const ha_sorted *s, const ha_rect *rect,
                      uint32_t *counts)
{
    int64_t at = rect->k0;
    rank_rows(plan, s->krank + at, s->kproj + at * plan->ldproj, rect->nk, 1);
    ha_counting_sort(s->korder + at, s->krank + at, rect->nk, at,
                     (int64_t)1 << plan->params->lsh_num_projs, counts);
}

/* Under strict_causal, a query does not look at the others, and is not counted from their mean. */
static void sort_queries(const ha_cpu_plan *plan, const ha_key_head *kh, const ha_sorted *s,
                         const ha_rect *rect, int64_t head, uint32_t *counts)
{
    const hyperattn_params *p = plan->params;
    uint32_t *bounds = ha_bounds_of(plan, s, rect, head);
    if (!ha_is_sorted(p)) {
        ha_run_bounds(bounds, rect, p);
        return;
    }
    int64_t base = head * kh->layout->nq + rect->q0;
    uint16_t *rank = s->qrank + base;
    uint32_t *order = s->qorder + base;
    rank_rows(plan, rank, s->qproj + base * plan->ldproj, rect->nq, !p->strict_causal);
    if (p->strict_causal) {
        ha_strict_runs(order, bounds, rect, p, rank, s->krank + rect->k0, counts);
        return;
    }
    ha_counting_sort(order, rank, rect->nq, rect->q0, (int64_t)1 << p->lsh_num_projs, counts);
    ha_run_bounds(bounds, rect, p);
}

/* Items are the sides of each rectangle of the wave: its keys, and its queries of each head. */
static int64_t sides_of(const stage *st)
{
    return st->keys + (st->queries ? st->call->plan->group : 0);
}

static int64_t count_sides(const void *arg, int64_t place)
{
    const stage *st = arg;
    int64_t nrects;
    ha_wave_rects(st->call->heads[place].layout, st->wave, &nrects);
    return nrects * sides_of(st);
}

static void sort_side(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_key_head *kh = &call->heads[place];
    const ha_sorted *s = &st->sort->heads[place];
    uint32_t *counts = st->sort->threads[thread].counts;
    int64_t nrects, sides = sides_of(st), side = item % sides;
    const ha_rect *rect = ha_wave_rects(kh->layout, st->wave, &nrects) + item / sides;
    double start = ha_clock(call);
    if (st->keys && side == 0)
        sort_keys(call->plan, s, rect, counts);
    else
        sort_queries(call->plan, kh, s, rect, side - st->keys, counts);
    ha_clock_add(call, thread, HA_STAGE_SORT, start);
}

void ha_sortlsh_sort(ha_call *call, const ha_sortlsh *sort, int wave)
{
    int sorted = ha_is_sorted(call->plan->params);
    stage st = {.call = call, .sort = sort, .wave = wave, .keys = sorted, .queries = 1};
    if (sorted && call->plan->params->strict_causal) { /* runs of queries need the keys' ranks */
        st.queries = 0;
        ha_for_items(call, count_sides, sort_side, &st);
        st.keys = 0;
        st.queries = 1;
    }
    ha_for_items(call, count_sides, sort_side, &st);
}
