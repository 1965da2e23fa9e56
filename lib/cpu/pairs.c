/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/pairs.h"

#include "int64.h"

/* Blocks that the longer side of all leaves together should have, so that threads find work; larger
 * ones are packed less often. And their least size. */
#define BLOCKS 11
#define LEAST_ROWS 192

/* About as many blocks are copied. */
#define COPIED_BLOCKS 32

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Rows and keys of a block: whole tiles. */
static int64_t block_rows(const ha_cpu_plan *plan, const ha_layout *l)
{
    int64_t most = ha_max(l->max_leaf_rows, l->max_leaf_keys), tile = plan->arith->gr;
    int64_t rows = ha_max(LEAST_ROWS, (most * l->nleaves + BLOCKS - 1) / BLOCKS);
    return ha_min(ha_round_up(rows, tile), HA_GRAD_ROWS / tile * tile);
}

static int64_t blocks(int64_t n, int64_t step)
{
    return n > 0 ? (n + step - 1) / step : 0;
}

/* Copies that a side of `few` blocks needs beside one of `many`. */
static int64_t copies(int64_t few, int64_t many)
{
    return few && 4 * few <= many ? ha_max(1, ha_min(COPIED_BLOCKS / few, many)) : 1;
}

static ha_grid cut(const ha_cpu_plan *plan, const ha_layout *l, int64_t rows, int64_t keys)
{
    ha_grid g = {.step = block_rows(plan, l), .leaf_rows = rows, .row_copies = 1, .key_copies = 1};
    g.head = blocks(rows, g.step);
    g.rows = plan->group * g.head;
    g.keys = blocks(keys, g.step);
    return g;
}

ha_grid ha_largest_grid(const ha_cpu_plan *plan, const ha_layout *layout)
{
    ha_grid g = cut(plan, layout, layout->max_leaf_rows, layout->max_leaf_keys);
    g.row_copies = copies(g.rows, g.keys);
    g.key_copies = copies(g.keys, g.rows);
    return g;
}

ha_grid ha_grid_of(const ha_cpu_plan *plan, const ha_layout *layout, const ha_leaf *leaf)
{
    const ha_grid most = ha_largest_grid(plan, layout);
    int causal = plan->problem->causal;
    int64_t keys = ha_leaf_limit(layout, leaf, causal, leaf->nq - 1) - leaf->k0;
    ha_grid g = cut(plan, layout, leaf->nq, keys);
    g.row_copies = most.row_copies;
    g.key_copies = most.key_copies;
    g.first_limit = ha_leaf_limit(layout, leaf, causal, 0) - leaf->k0;
    g.causal = causal;
    return g;
}

void ha_block_rows(const ha_grid *g, int64_t x, int64_t *first, int64_t *end)
{
    *first = x % g->head * g->step;
    *end = ha_min(g->leaf_rows, *first + g->step);
}

/* Key blocks that row block x sees. */
static int64_t seen(const ha_grid *g, int64_t x)
{
    int64_t first, end;
    ha_block_rows(g, x, &first, &end);
    return ha_min(g->keys, blocks(g->first_limit + g->causal * (end - 1), g->step));
}

/* Row blocks of a head that see nothing of key block y: the first ones. */
static int64_t blind(const ha_grid *g, int64_t y)
{
    int64_t rows = y * g->step - g->first_limit + 1; /* rows before the first that sees it */
    return g->causal && rows > 0 ? rows / g->step : 0;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

/* Whether there is a pair of seats x and y, and anything to see in it. */
static int is_pair(const ha_grid *g, int64_t x, int64_t y)
{
    return x < ha_row_seats(g) && y < ha_key_seats(g) &&
           y % g->keys % g->row_copies == x / g->rows &&
           x % g->rows % g->key_copies == y / g->keys && y % g->keys < seen(g, x % g->rows);
}

int ha_pair_at(const ha_grid *g, int64_t s, int64_t i, int64_t *x, int64_t *y)
{
    int64_t rows = ha_row_seats(g), keys = ha_key_seats(g), width = ha_min(rows, keys);
    int64_t steps = ha_grid_steps(g);
    if (s > steps || i >= width)
        return 0;
    i = (i + width / 2) % width;
    *x = rows <= keys ? i : (i + s) % steps;
    *y = rows <= keys ? (i + steps - s) % steps : i;
    return is_pair(g, *x, *y);
}

/* The step in which seats x and y meet, if it is before s; else 0. */
static int64_t step_if_before(const ha_grid *g, int64_t x, int64_t y, int64_t s)
{
    int64_t steps = ha_grid_steps(g), at = (x + steps - y) % steps; /* 0 is the last step */
    return at < s ? at : 0;
}

/* One step back, x meets the seat behind y. Its pairs are those with key blocks of its own residue
 * modulo the copies, as far as it sees; before the last of them comes the first, steps earlier. */
int64_t ha_row_step_before(const ha_grid *g, int64_t x, int64_t s)
{
    int64_t steps = ha_grid_steps(g), y = (x + steps - s % steps) % steps;
    if (y % g->keys + g->row_copies < seen(g, x % g->rows))
        return ha_max(0, s - g->row_copies);
    int64_t first = y / g->keys * g->keys + x / g->rows;
    return step_if_before(g, x, first, s);
}

/* The last row block at or before x that is of x's residue and sees key block y; or negative. */
static int64_t seeing_block(const ha_grid *g, int64_t x, int64_t y)
{
    int64_t hidden = blind(g, y);
    while (x >= 0 && x % g->head < hidden) { /* on to the head before */
        int64_t back = x % g->head + 1;
        x -= (back + g->key_copies - 1) / g->key_copies * g->key_copies;
    }
    return x;
}

/* One step back, y meets the seat before x. */
int64_t ha_key_step_before(const ha_grid *g, int64_t y, int64_t s)
{
    int64_t steps = ha_grid_steps(g), x = (y + s) % steps, block = x % g->rows;
    int64_t base = x - block, before = seeing_block(g, block - g->key_copies, y % g->keys);
    if (before >= 0)
        return ha_max(0, s - (block - before));
    int64_t last = g->rows - 1 - (g->rows - 1 - y / g->keys) % g->key_copies;
    return step_if_before(g, base + seeing_block(g, last, y % g->keys), y, s);
}
