/* SPDX-License-Identifier: Apache-2.0
 *
 * The first half of Algorithm 1: projections and bucket ranks, then the sorted orders and the runs
 * of queries that meet each block of keys.
 */
#include "cpu/clock.h"
#include "cpu/hyper.h"
#include "cpu/lsh.h"
#include "cpu/sort.h"
#include "cpu/walk.h"
#include "int64.h"
#include "parallel.h"

/* Rows that one hashing task takes. */
#define HASH_ROWS 1024

/* Projects rows [first, end) of a tensor: f32 ones where they lie, if they make whole register
 * blocks, others from a tile. */
static void hash_rows(const ha_run *run, ha_scratch *s, const ha_unit *u, ha_rows rows,
                      int64_t first, int64_t end, float *proj)
{
    const int64_t d = run->plan->problem->head_dim, ld = run->cpu->ldproj;
    const ha_kernels *kernels = ha_run_kernels(run);
    const int r = run->plan->params->lsh_num_projs;
    if (rows.dtype == HYPERATTN_F32) {
        int64_t whole = (end - first) / kernels->f32.mr * kernels->f32.mr;
        rows.first = first;
        kernels->project(proj + first * ld, ld, ha_row_at(&rows, 0), rows.stride, u->directions,
                         whole, d, r);
        first += whole;
    }
    for (int64_t x = first; x < end; x += HA_TASK_ROWS) {
        int64_t n = ha_min(HA_TASK_ROWS, end - x);
        rows.first = x;
        kernels->f32.load_q(s->q, &rows, n, d);
        kernels->project(proj + x * ld, ld, s->q, ha_ldq(&kernels->f32, d), u->directions, n, d, r);
    }
}

/* |v_j|^2 of keys [first, end), for V-norm sampling. */
static void value_norms(const ha_run *run, ha_scratch *s, ha_unit *u, int64_t first, int64_t end)
{
    int64_t dv = run->plan->problem->head_dim_v;
    const ha_arith *a = &ha_run_kernels(run)->f32;
    int64_t ld = ha_ldq(a, dv);
    for (int64_t x = first; x < end; x += HA_TASK_ROWS) {
        ha_rows rows = u->v;
        rows.first = x;
        int64_t n = ha_min(HA_TASK_ROWS, end - x);
        a->load_q(s->q, &rows, n, dv);
        for (int64_t i = 0; i < n; i++) {
            const float *v = (const float *)s->q + i * ld;
            double sum = 0;
            for (int64_t c = 0; c < dv; c++)
                sum += (double)v[c] * (double)v[c];
            u->vnorm[x + i] = (float)sum;
        }
    }
}

/* Chunks of rows of the keys (side 0) and of each query head (side 1 + head). */
static void hash_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    ha_scratch *s = &run->scratch[thread];
    double start = ha_clock(run->plan);
    ha_unit *u = &run->units[i % run->nunits];
    i /= run->nunits;
    int64_t sides = 1 + run->cpu->group, side = i % sides, first = i / sides * HASH_ROWS;
    int64_t n = side ? u->layout->nq : u->layout->nk, end = ha_min(n, first + HASH_ROWS);
    if (side && ha_is_sorted(run->plan->params))
        hash_rows(run, s, u, u->q[side - 1], first, end,
                  u->qproj + (side - 1) * n * run->cpu->ldproj);
    else if (ha_is_sorted(run->plan->params))
        hash_rows(run, s, u, u->k, first, end, u->kproj);
    if (!side && u->vnorm)
        value_norms(run, s, u, first, end);
    ha_clock_add(run, thread, HA_STAGE_HASH, start);
}

static void make_directions(const ha_run *run, ha_scratch *s, ha_unit *u)
{
    const hyperattn_params *p = run->plan->params;
    int64_t d = run->plan->problem->head_dim;
    ha_lsh_directions(s->acc, p->lsh_num_projs, d, p->seed, u->id);
    const ha_rows rows = {.base = s->acc, .stride = d, .dtype = HYPERATTN_F32};
    ha_run_kernels(run)->f32.pack_k(u->directions, &rows, p->lsh_num_projs, d);
}

void ha_hyper_hash(ha_run *run)
{
    int64_t n = run->cpu->max.nq > run->cpu->max.nk ? run->cpu->max.nq : run->cpu->max.nk;
    if (ha_is_sorted(run->plan->params))
        for (int64_t i = 0; i < run->nunits; i++)
            make_directions(run, &run->scratch[0], &run->units[i]);
    ha_parallel_for(run->plan->device->nthreads,
                    run->nunits * (1 + run->cpu->group) * ((n + HASH_ROWS - 1) / HASH_ROWS),
                    hash_task, run);
}

/* Means of n rows of projections, of what is finite. */
static void mean_of(const ha_run *run, float *mean, const float *proj, int64_t n)
{
    double sum[HA_MAX_PROJS];
    int r = run->plan->params->lsh_num_projs;
    if (!n || !ha_run_kernels(run)->column_sums(sum, proj, run->cpu->ldproj, n, r)) {
        ha_lsh_mean(mean, proj, run->cpu->ldproj, n, r);
        return;
    }
    for (int j = 0; j < r; j++)
        mean[j] = (float)(sum[j] / (double)n);
}

/* Bucket ranks of the n rows whose projections begin at proj: bit j is set where projection j
 * exceeds the mean. Rows are counted from their own mean: that balances the buckets, and keeps
 * queries and keys that lie alike in buckets alike. */
static void rank_rows(const ha_run *run, uint16_t *rank, const float *proj, int64_t n, int centre)
{
    float mean[HA_MAX_PROJS] = {0};
    if (centre)
        mean_of(run, mean, proj, n);
    ha_run_kernels(run)->above_bits(rank, proj, run->cpu->ldproj, mean, n,
                                    run->plan->params->lsh_num_projs);
    ha_gray_ranks(rank, n);
}

/* The mean is that of the rectangle's own keys, so that no later key steers it. */
static void sort_keys(const ha_run *run, ha_scratch *s, ha_unit *u, const ha_rect *rect)
{
    int64_t at = rect->k0;
    rank_rows(run, u->krank + at, u->kproj + at * run->cpu->ldproj, rect->nk, 1);
    ha_counting_sort(u->korder + at, u->krank + at, rect->nk, at,
                     (int64_t)1 << run->plan->params->lsh_num_projs, s->counts);
}

/* Running sums of the value norms in the rectangle's key order. */
static void sum_mass(const ha_run *run, ha_unit *u, const ha_rect *rect)
{
    double sum = 0;
    for (int64_t x = 0; x < rect->nk; x++)
        u->mass[rect->k0 + x] = sum += (double)u->vnorm[ha_key_at(run, u, rect, x)];
}

/* A block mask's rectangles all begin at the same key, and the last is the longest: its running
 * sums are those of the others. */
static int owns_mass(const ha_run *run, const ha_unit *u, const ha_rect *rect)
{
    const ha_layout *l = u->layout;
    return !run->plan->params->block_mask || rect == &l->rects[l->wave[run->wave + 1] - 1];
}

/* Run t of n rows cut into parts runs of step rows, or near-equal ones where step is 0. */
static int64_t run_bound(int64_t n, int64_t parts, int64_t step, int64_t t)
{
    return step ? ha_min(n, t * step) : n * t / parts;
}

/* Queries by bucket; run t of them meets block t of the keys, as in the paper. */
static void sort_queries(const ha_run *run, ha_scratch *s, ha_unit *u, const ha_rect *rect,
                         int64_t head)
{
    const hyperattn_params *p = run->plan->params;
    int64_t base = head * u->layout->nq + rect->q0;
    uint32_t *bounds = u->bounds + head * run->cpu->max.max_bounds + rect->bounds;
    int64_t step = rect->nq == rect->nk || !ha_is_sorted(run->plan->params) ? p->block_size : 0;
    if (ha_is_sorted(run->plan->params)) {
        rank_rows(run, u->qrank + base, u->qproj + base * run->cpu->ldproj, rect->nq, 1);
        ha_counting_sort(u->qorder + base, u->qrank + base, rect->nq, rect->q0,
                         (int64_t)1 << p->lsh_num_projs, s->counts);
    }
    for (int64_t t = 0; t < rect->nblocks; t++)
        bounds[t] = (uint32_t)run_bound(rect->nq, rect->nblocks, step, t);
    bounds[rect->nblocks] = (uint32_t)rect->nq;
}

/* strict_causal: a query meets the block of keys that holds the middle of its own bucket, whatever
 * the other queries are; so it is not counted from their mean either. */
static void sort_queries_strictly(const ha_run *run, ha_scratch *s, ha_unit *u, const ha_rect *rect,
                                  int64_t head)
{
    const hyperattn_params *p = run->plan->params;
    int64_t base = head * u->layout->nq + rect->q0, nbuckets = (int64_t)1 << p->lsh_num_projs;
    uint32_t *bounds = u->bounds + head * run->cpu->max.max_bounds + rect->bounds;
    uint32_t *block = s->counts + nbuckets + 1; /* of each bucket */
    rank_rows(run, u->qrank + base, u->qproj + base * run->cpu->ldproj, rect->nq, 0);
    for (int64_t b = 0; b <= nbuckets; b++)
        s->counts[b] = 0;
    for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++)
        s->counts[u->krank[j] + 1]++;
    for (int64_t b = 0, begin = 0; b < nbuckets; b++) {
        int64_t end = begin + s->counts[b + 1];
        block[b] = (uint32_t)ha_min((begin + end) / 2 / p->block_size, rect->nblocks - 1);
        begin = end;
    }
    for (int64_t t = 0; t <= rect->nblocks; t++)
        bounds[t] = 0;
    for (int64_t i = 0; i < rect->nq; i++)
        bounds[block[u->qrank[base + i]]]++;
    uint32_t place = 0;
    for (int64_t t = 0; t <= rect->nblocks; t++) {
        uint32_t count = bounds[t];
        bounds[t] = place;
        place += count;
    }
    /* bounds[t] moves to the end of run t while run t is filled, which is where run t + 1 begins */
    for (int64_t i = 0; i < rect->nq; i++)
        u->qorder[base + bounds[block[u->qrank[base + i]]]++] = (uint32_t)(rect->q0 + i);
    for (int64_t t = rect->nblocks; t > 0; t--)
        bounds[t] = bounds[t - 1];
    bounds[0] = 0;
}

static const ha_rect *wave_rect(const ha_run *run, const ha_unit *u, int64_t i)
{
    const ha_layout *l = u->layout;
    if (run->wave >= l->nwaves || l->wave[run->wave] + i >= l->wave[run->wave + 1])
        return NULL;
    return &l->rects[l->wave[run->wave] + i];
}

/* Sides [first, first + sides) of each rectangle of the wave: its keys (side 0) and its queries of
 * each head (side 1 + head). */
static void sort_side(ha_run *run, int64_t i, int64_t first, int64_t sides, int thread)
{
    double start = ha_clock(run->plan);
    ha_unit *u = &run->units[i % run->nunits];
    ha_scratch *s = &run->scratch[thread];
    i /= run->nunits;
    int64_t side = first + i % sides;
    const ha_rect *rect = wave_rect(run, u, i / sides);
    int sorted = ha_is_sorted(run->plan->params);
    if (rect && !side && sorted)
        sort_keys(run, s, u, rect);
    if (rect && !side && u->mass && owns_mass(run, u, rect))
        sum_mass(run, u, rect);
    if (rect && side && sorted && run->plan->params->strict_causal)
        sort_queries_strictly(run, s, u, rect, side - 1);
    else if (rect && side)
        sort_queries(run, s, u, rect, side - 1);
    ha_clock_add(run, thread, HA_STAGE_SORT, start);
}

static void sort_all_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    sort_side(run, i, 0, 1 + run->cpu->group, thread);
}

static void sort_keys_task(void *arg, int64_t i, int thread)
{
    sort_side(arg, i, 0, 1, thread);
}

static void sort_queries_task(void *arg, int64_t i, int thread)
{
    ha_run *run = arg;
    sort_side(run, i, 1, run->cpu->group, thread);
}

/* Runs longer than a task holds become several tasks with the same columns. */
static void list_tasks(ha_run *run)
{
    run->ntasks = 0;
    for (int64_t unit = 0; unit < run->nunits; unit++) {
        const ha_unit *u = &run->units[unit];
        const ha_rect *rect;
        for (int64_t n = 0; (rect = wave_rect(run, u, n)); n++)
            for (int64_t head = 0; head < run->cpu->group; head++) {
                const uint32_t *bounds =
                    u->bounds + head * run->cpu->max.max_bounds + rect->bounds;
                for (int64_t t = 0; t < rect->nblocks; t++)
                    for (int64_t row = bounds[t]; row < bounds[t + 1]; row += HA_TASK_ROWS)
                        run->tasks[run->ntasks++] = (ha_task){
                            .rect = rect, .unit = (int32_t)unit, .head = (int32_t)head, .block = t,
                            .row0 = row, .rows = ha_min(HA_TASK_ROWS, bounds[t + 1] - row),
                        };
            }
    }
}

void ha_hyper_sort(ha_run *run)
{
    int nthreads = run->plan->device->nthreads;
    int64_t n = run->cpu->max.max_rects * run->nunits;
    if (run->plan->params->strict_causal) { /* query runs need the keys' ranks */
        ha_parallel_for(nthreads, n, sort_keys_task, run);
        ha_parallel_for(nthreads, n * run->cpu->group, sort_queries_task, run);
    } else
        ha_parallel_for(nthreads, n * (1 + run->cpu->group), sort_all_task, run);
    list_tasks(run);
}
