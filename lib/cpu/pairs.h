/* SPDX-License-Identifier: Apache-2.0
 *
 * The order in which the blocks of a leaf's rows and keys meet in backward: see
 * cpu/backward_exact.h. A seat is one copy of one block: seat x of the rows is copy x / rows of
 * row block x % rows, and the same of the keys. In step s of 1..steps, seat x of the rows meets
 * seat x - s of the keys, modulo steps.
 */
#ifndef HA_PAIRS_H
#define HA_PAIRS_H

#include "cpu/cpu_plan.h"

/* The blocks of one leaf. */
typedef struct ha_grid {
    int64_t step;                   /* rows and keys of a block */
    int64_t head;                   /* row blocks of one query head */
    int64_t rows, keys;             /* blocks; rows of all heads of the group */
    int64_t row_copies, key_copies; /* of their sums: copy c of rows is for key blocks c modulo the
                                     * copies, and the other way round */
    int64_t leaf_rows;
    int64_t first_limit;            /* keys of the leaf that its first row sees */
    int causal;                     /* each later row sees one more; else all see the same */
} ha_grid;

/* The largest grid of a sequence's leaves, and that of one leaf. */
ha_grid ha_largest_grid(const ha_cpu_plan *plan, const ha_layout *layout);
ha_grid ha_grid_of(const ha_cpu_plan *plan, const ha_layout *layout, const ha_leaf *leaf);

/* Seats on each side, and steps. */
static inline int64_t ha_row_seats(const ha_grid *g)
{
    return g->rows * g->row_copies;
}

static inline int64_t ha_key_seats(const ha_grid *g)
{
    return g->keys * g->key_copies;
}

static inline int64_t ha_grid_steps(const ha_grid *g)
{
    return ha_row_seats(g) > ha_key_seats(g) ? ha_row_seats(g) : ha_key_seats(g);
}

/* Pair i of step s, i below the seats of the shorter side. 0 if there is none, or nothing to see
 * in it. */
int ha_pair_at(const ha_grid *g, int64_t s, int64_t i, int64_t *x, int64_t *y);

/* The last step before s in which seat x of the rows, or y of the keys, of a pair of step s was in
 * a pair; 0 if none was. */
int64_t ha_row_step_before(const ha_grid *g, int64_t x, int64_t s);
int64_t ha_key_step_before(const ha_grid *g, int64_t y, int64_t s);

/* Rows [first, end) of the leaf, of row block x. */
void ha_block_rows(const ha_grid *g, int64_t x, int64_t *first, int64_t *end);

#endif
