/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of exact attention: of a causal sequence's leaves, or of the whole.
 *
 * A leaf's rows (of all query heads of a key head, one after the other) and its keys are cut into
 * blocks. A pair of a row block and a key block is one task: it recomputes its weights and adds to
 * the sums of both blocks, with five matrix products, the fewest there can be. In step s, row block
 * x meets key block x - s modulo the number of blocks, so that the pairs of one step share no block.
 * A pair waits until its blocks' earlier ones are done: each sum takes its terms in one order, and
 * no two threads touch it at a time. The diagonal, whose causal pairs are half the work, is the last
 * step, and in each step the middle blocks come first, which wait least.
 */
#include <math.h>

#include "cpu/backward.h"
#include "cpu/clock.h"
#include "cpu/grad.h"
#include "int64.h"
#include "parallel.h"

/* Blocks that a leaf's longer side should have at least, that threads find work. */
#define BLOCKS 11

/* Rows and keys of a block: whole tiles. */
static int64_t block_rows(const ha_cpu_plan *cpu)
{
    int64_t most = ha_max(cpu->max.max_leaf_rows, cpu->max.max_leaf_keys), tile = cpu->arith->gr;
    int64_t rows = ha_max(HA_TASK_ROWS, (most + BLOCKS - 1) / BLOCKS);
    return ha_min(ha_round_up(rows, tile), HA_GRAD_ROWS / tile * tile);
}

static int64_t blocks(int64_t n, int64_t step)
{
    return n > 0 ? (n + step - 1) / step : 0;
}

/* The blocks of one leaf, or the most of any. */
typedef struct grid {
    int64_t step;       /* rows and keys of a block */
    int64_t rows, keys; /* blocks; rows: of all heads, `head` of each */
    int64_t head;
} grid;

static grid grid_of(const ha_cpu_plan *cpu, int64_t rows, int64_t keys)
{
    int64_t step = block_rows(cpu), head = blocks(rows, step);
    return (grid){step, cpu->group * head, blocks(keys, step), head};
}

int64_t ha_backward_progress(const ha_cpu_plan *cpu)
{
    const grid most = grid_of(cpu, cpu->max.max_leaf_rows, cpu->max.max_leaf_keys);
    return cpu->max.nleaves * (most.rows + most.keys);
}

/* A leaf in work. */
typedef struct field {
    const ha_run *run;
    const ha_unit *unit;
    const ha_leaf *leaf;
    grid grid;
    ha_progress *row_done, *key_done; /* the last step that is done, per block */
} field;

static field field_of(const ha_run *run, const ha_unit *u, int64_t number)
{
    const ha_cpu_plan *cpu = run->cpu;
    const grid most = grid_of(cpu, cpu->max.max_leaf_rows, cpu->max.max_leaf_keys);
    const ha_leaf *leaf = &u->layout->leaves[number];
    int causal = run->plan->problem.causal;
    int64_t keys = ha_leaf_limit(u->layout, leaf, causal, leaf->nq - 1) - leaf->k0;
    ha_progress *done = u->progress + number * (most.rows + most.keys);
    return (field){run, u, leaf, grid_of(cpu, leaf->nq, keys), done, done + most.rows};
}

/* Rows [first, end) of the leaf, of row block x. */
static void row_range(const field *f, int64_t x, int64_t *first, int64_t *end)
{
    *first = x % f->grid.head * f->grid.step;
    *end = ha_min(f->leaf->nq, *first + f->grid.step);
}

/* Whether there is a pair of row block x and key block y, and anything to see in it. */
static int is_pair(const field *f, int64_t x, int64_t y)
{
    int64_t first, end;
    if (x >= f->grid.rows || y >= f->grid.keys)
        return 0;
    row_range(f, x, &first, &end);
    return ha_leaf_limit(f->unit->layout, f->leaf, f->run->plan->problem.causal, end - 1) >
           f->leaf->k0 + y * f->grid.step;
}

/* The last step before s in which row block x, or key block y, was in a pair; 0 if none was. */
static int64_t row_step_before(const field *f, int64_t x, int64_t s, int64_t steps)
{
    while (--s > 0 && !is_pair(f, x, (x + steps - s) % steps))
        continue;
    return s;
}

static int64_t key_step_before(const field *f, int64_t y, int64_t s, int64_t steps)
{
    while (--s > 0 && !is_pair(f, (y + s) % steps, y))
        continue;
    return s;
}

/* ---- a pair ---------------------------------------------------------------------------------- */

/* Rows [first, end) of the leaf, of one head, against keys [key, key_end) of the sequence. */
typedef struct pair {
    int64_t head, first, end;
    int64_t key, key_end;
} pair;

/* Packs and runs part of a pair. Returns 0 if it must be cut into rows: a NaN or Inf that a row does
 * not see would reach it, as 0 * NaN, through the sums over rows or keys. */
static int run_pair(const field *f, ha_scratch *s, const pair *p, int cut)
{
    const ha_run *run = f->run;
    const ha_unit *u = f->unit;
    const ha_cpu_plan *cpu = run->cpu;
    int causal = run->plan->problem.causal;
    int64_t row = f->leaf->q0 + p->first;
    int64_t limit = ha_leaf_limit(u->layout, f->leaf, causal, p->first) - p->key;
    int64_t keys = ha_min(p->key_end, p->key + limit + causal * (p->end - 1 - p->first)) - p->key;
    if (keys <= 0)
        return 1;
    ha_rows q = u->q[p->head], dout = u->dout[p->head], k = u->k, v = u->v;
    q.first = dout.first = row;
    k.first = v.first = p->key;
    int finite = ha_grad_pack_rows(run, s, &q, &dout, p->end - p->first);
    finite &= ha_grad_pack_keys(run, s, &k, &v, keys);
    if (!finite && !cut && limit < keys)
        return 0;
    ha_grad_load_rows(run, s, u, p->head, NULL, row, p->end - p->first);
    int64_t padded = ha_round_up(keys, cpu->arith->nr);
    for (int64_t j = 0; j < padded; j++)
        s->logw[j] = j < keys ? 0 : -INFINITY;
    const ha_grad_block block = {
        .rows = p->end - p->first,
        .keys = keys,
        .limit = limit,
        .slope = limit < keys,
        .logw = s->logw,
        .dq = u->gq + (p->head * u->layout->nq + row) * cpu->ldgrad,
        .dk = u->gk + p->key * cpu->ldgrad,
        .dv = u->gv + p->key * cpu->ldacc,
    };
    ha_grad_tiles(run, s, &block);
    return 1;
}

static void work_pair(const field *f, ha_scratch *s, int64_t x, int64_t y)
{
    pair p = {.head = x / f->grid.head, .key = f->leaf->k0 + y * f->grid.step};
    row_range(f, x, &p.first, &p.end);
    p.key_end = ha_min(p.key + f->grid.step, f->unit->layout->nk);
    if (run_pair(f, s, &p, 0))
        return;
    for (pair row = p; row.first < p.end; row.first++) {
        row.end = row.first + 1;
        run_pair(f, s, &row, 1);
    }
}

/* ---- all pairs ------------------------------------------------------------------------------- */

/* Leaves of one class, which share no keys. */
typedef struct sweep {
    ha_run *run;
    int64_t class, leaves; /* and how many there are */
    int64_t steps;         /* of the largest leaf */
} sweep;

/* Tasks go through the steps; in each, through the row blocks; of each, through leaves and units. */
static void pair_task(void *arg, int64_t i, int thread)
{
    const sweep *w = arg;
    ha_run *run = w->run;
    const ha_unit *u = &run->units[i % run->nunits];
    i /= run->nunits;
    int64_t number = w->class + i % w->leaves * run->cpu->max.leaf_classes;
    i /= w->leaves;
    if (number >= u->layout->nleaves)
        return;
    const field f = field_of(run, u, number);
    int64_t steps = ha_max(f.grid.rows, f.grid.keys), s = i / w->steps + 1, x = i % w->steps;
    if (s > steps || x >= steps)
        return;
    x = (x + steps / 2) % steps;
    int64_t y = (x + steps - s) % steps;
    if (!is_pair(&f, x, y))
        return;
    double start = ha_clock(run->plan);
    ha_await(&f.row_done[x], row_step_before(&f, x, s, steps));
    ha_await(&f.key_done[y], key_step_before(&f, y, s, steps));
    start = ha_clock_add(run, thread, HA_STAGE_STATE, start);
    work_pair(&f, &run->scratch[thread], x, y);
    atomic_store_explicit(&f.row_done[x], s, memory_order_release);
    atomic_store_explicit(&f.key_done[y], s, memory_order_release);
    ha_clock_add(run, thread, HA_STAGE_LEAF, start);
}

void ha_backward_leaves(ha_run *run)
{
    const ha_cpu_plan *cpu = run->cpu;
    const grid most = grid_of(cpu, cpu->max.max_leaf_rows, cpu->max.max_leaf_keys);
    int64_t classes = cpu->max.leaf_classes, steps = ha_max(most.rows, most.keys);
    for (int64_t i = 0; i < run->nunits; i++)
        for (int64_t n = 0; n < ha_backward_progress(cpu); n++)
            atomic_init(&run->units[i].progress[n], 0);
    for (int64_t class = 0; class < classes && class < cpu->max.nleaves; class++) {
        sweep w = {run, class, (cpu->max.nleaves - class + classes - 1) / classes, steps};
        ha_parallel_ordered(run->plan->ctx->nthreads, steps * steps * w.leaves * run->nunits,
                            pair_task, &w);
    }
}
