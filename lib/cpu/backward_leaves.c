/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of exact attention: of a causal sequence's leaves, or of the whole.
 *
 * A leaf's rows (of all query heads of a key head, one after the other) and its keys are cut into
 * blocks. A pair of a row block and a key block is one task: it recomputes its weights and adds to
 * the sums of both blocks, with five matrix products, the fewest there can be. In step s, row block
 * x meets key block x - s modulo the number of blocks, so that the pairs of one step share no
 * block. A pair waits until its blocks' earlier ones are done: each sum takes its terms in one
 * order, and no two threads touch it at a time. The diagonal, whose causal pairs are half the work,
 * is the last step, and in each step the middle blocks come first, which wait least.
 *
 * Where one side has few blocks and the other many, there would be few pairs at a time. Then there
 * are several copies of the sums of the short side, each for its share of the long one.
 */
#include <math.h>

#include "cpu/backward.h"
#include "cpu/clock.h"
#include "cpu/grad.h"
#include "int64.h"
#include "parallel.h"

/* Blocks that the longer side of all leaves together should have, so that threads find work; larger
 * ones are packed less often. And their least size. */
#define BLOCKS 11
#define LEAST_ROWS 192

/* About as many blocks are copied. */
#define COPIED_BLOCKS 32

/* Rows and keys of a block: whole tiles. */
static int64_t block_rows(const ha_cpu_plan *cpu)
{
    int64_t most = ha_max(cpu->max.max_leaf_rows, cpu->max.max_leaf_keys), tile = cpu->arith->gr;
    int64_t rows = ha_max(LEAST_ROWS, (most * cpu->max.nleaves + BLOCKS - 1) / BLOCKS);
    return ha_min(ha_round_up(rows, tile), HA_GRAD_ROWS / tile * tile);
}

static int64_t blocks(int64_t n, int64_t step)
{
    return n > 0 ? (n + step - 1) / step : 0;
}

/* The blocks of one leaf, or the most of any. */
typedef struct grid {
    int64_t step;                   /* rows and keys of a block */
    int64_t head;                   /* row blocks of one head */
    int64_t rows, keys;             /* blocks, rows of all heads */
    int64_t row_copies, key_copies; /* of their sums: copy c of rows is for key blocks c modulo the
                                     * copies, and the other way round */
} grid;

/* Copies that a side of `few` blocks needs beside one of `many`. */
static int64_t copies(int64_t few, int64_t many)
{
    return few && 4 * few <= many ? ha_max(1, ha_min(COPIED_BLOCKS / few, many)) : 1;
}

static grid grid_of(const ha_cpu_plan *cpu, int64_t rows, int64_t keys)
{
    int64_t step = block_rows(cpu), head = blocks(rows, step);
    return (grid){.step = step, .head = head, .rows = cpu->group * head, .keys = blocks(keys, step),
                  .row_copies = cpu->row_copies, .key_copies = cpu->key_copies};
}

static grid largest_grid(const ha_cpu_plan *cpu)
{
    return grid_of(cpu, cpu->max.max_leaf_rows, cpu->max.max_leaf_keys);
}

void ha_backward_plan_leaves(ha_cpu_plan *cpu)
{
    const grid most = largest_grid(cpu);
    cpu->row_copies = copies(most.rows, most.keys);
    cpu->key_copies = copies(most.keys, most.rows);
}

/* Places on a side of the grid: each copy of its blocks. */
static int64_t row_places(const grid *g)
{
    return g->rows * g->row_copies;
}

static int64_t key_places(const grid *g)
{
    return g->keys * g->key_copies;
}

int64_t ha_backward_progress(const ha_cpu_plan *cpu)
{
    const grid most = largest_grid(cpu);
    return cpu->max.nleaves * (row_places(&most) + key_places(&most));
}

/* A leaf in work. */
typedef struct field {
    const ha_run *run;
    const ha_unit *unit;
    const ha_leaf *leaf;
    grid grid;
    ha_progress *row_done, *key_done; /* the last step that is done, per place */
} field;

static field field_of(const ha_run *run, const ha_unit *u, int64_t number)
{
    const ha_cpu_plan *cpu = run->cpu;
    const grid most = largest_grid(cpu);
    const ha_leaf *leaf = &u->layout->leaves[number];
    int causal = run->plan->problem->causal;
    int64_t keys = ha_leaf_limit(u->layout, leaf, causal, leaf->nq - 1) - leaf->k0;
    ha_progress *done = u->progress + number * (row_places(&most) + key_places(&most));
    return (field){run, u, leaf, grid_of(cpu, leaf->nq, keys), done, done + row_places(&most)};
}

/* Rows [first, end) of the leaf, of row block x. */
static void row_range(const field *f, int64_t x, int64_t *first, int64_t *end)
{
    *first = x % f->grid.head * f->grid.step;
    *end = ha_min(f->leaf->nq, *first + f->grid.step);
}

/* Whether there is a pair of places x and y, and anything to see in it. */
static int is_pair(const field *f, int64_t x, int64_t y)
{
    const grid *g = &f->grid;
    int64_t first, end;
    if (x >= row_places(g) || y >= key_places(g) || y % g->keys % g->row_copies != x / g->rows ||
        x % g->rows % g->key_copies != y / g->keys)
        return 0;
    row_range(f, x % g->rows, &first, &end);
    return ha_leaf_limit(f->unit->layout, f->leaf, f->run->plan->problem->causal, end - 1) >
           f->leaf->k0 + y % g->keys * g->step;
}

/* The last step before s in which place x of the rows, or y of the keys, was in a pair; 0 if none
 * was. */
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
    int64_t row_copy, key_copy;
} pair;

/* Packs and runs part of a pair. Returns 0 if it must be cut into rows: a NaN or Inf that a row
 * does not see would reach it, as 0 * NaN, through the sums over rows or keys. */
static int run_pair(const field *f, ha_scratch *s, const pair *p, int cut)
{
    const ha_run *run = f->run;
    const ha_unit *u = f->unit;
    int causal = run->plan->problem->causal;
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
    int64_t padded = ha_round_up(keys, run->cpu->arith->nr);
    for (int64_t j = 0; j < padded; j++)
        s->logw[j] = j < keys ? 0 : -INFINITY;
    const ha_grad_block block = {
        .rows = p->end - p->first,
        .keys = keys,
        .limit = limit,
        .slope = limit < keys,
        .logw = s->logw,
        .dq = ha_sum_q(run, u, p->row_copy, p->head, row),
        .dk = ha_sum_k(run, u, p->key_copy, p->key),
        .dv = ha_sum_v(run, u, p->key_copy, p->key),
    };
    ha_grad_tiles(run, s, &block);
    return 1;
}

static void work_pair(const field *f, ha_scratch *s, int64_t x, int64_t y)
{
    const grid *g = &f->grid;
    pair p = {.head = x % g->rows / g->head, .key = f->leaf->k0 + y % g->keys * g->step,
              .row_copy = x / g->rows, .key_copy = y / g->keys};
    row_range(f, x % g->rows, &p.first, &p.end);
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
    int64_t width;         /* places on the shorter side of the largest leaf */
} sweep;

/* The pair i of step s, places x and y; 0 if there is none. */
static int pair_at(const field *f, int64_t s, int64_t i, int64_t steps, int64_t *x, int64_t *y)
{
    int64_t rows = row_places(&f->grid), keys = key_places(&f->grid), width = ha_min(rows, keys);
    if (s > steps || i >= width)
        return 0;
    i = (i + width / 2) % width;
    *x = rows <= keys ? i : (i + s) % steps;
    *y = rows <= keys ? (i + steps - s) % steps : i;
    return is_pair(f, *x, *y);
}

/* Tasks go through the steps; in each, through the pairs; of each, through leaves and units. */
static void pair_task(void *arg, int64_t i, int thread)
{
    const sweep *w = arg;
    ha_run *run = w->run;
    const ha_unit *u = &run->units[i % run->nunits];
    i /= run->nunits;
    int64_t number = w->class + i % w->leaves * run->cpu->max.leaf_classes, x, y;
    i /= w->leaves;
    if (number >= u->layout->nleaves)
        return;
    const field f = field_of(run, u, number);
    int64_t steps = ha_max(row_places(&f.grid), key_places(&f.grid)), s = i / w->width + 1;
    if (!pair_at(&f, s, i % w->width, steps, &x, &y))
        return;
    double start = ha_clock(run->plan);
    ha_await(&f.row_done[x], row_step_before(&f, x, s, steps));
    ha_await(&f.key_done[y], key_step_before(&f, y, s, steps));
    work_pair(&f, &run->scratch[thread], x, y);
    atomic_store_explicit(&f.row_done[x], s, memory_order_release);
    atomic_store_explicit(&f.key_done[y], s, memory_order_release);
    ha_clock_add(run, thread, HA_STAGE_LEAF, start);
}

void ha_backward_leaves(ha_run *run)
{
    const ha_cpu_plan *cpu = run->cpu;
    const grid most = largest_grid(cpu);
    int64_t rows = row_places(&most), keys = key_places(&most), classes = cpu->max.leaf_classes;
    for (int64_t i = 0; i < run->nunits; i++)
        for (int64_t n = 0; n < ha_backward_progress(cpu); n++)
            atomic_init(&run->units[i].progress[n], 0);
    for (int64_t class = 0; class < classes && class < cpu->max.nleaves; class++) {
        sweep w = {run, class, (cpu->max.nleaves - class + classes - 1) / classes,
                   ha_min(rows, keys)};
        ha_parallel_ordered(run->plan->device->nthreads,
                            ha_max(rows, keys) * w.width * w.leaves * run->nunits, pair_task, &w);
    }
}
