/* SPDX-License-Identifier: Apache-2.0
 *
 * A problem for attend: one query tile against chunks of keys, its run through a level's kernels
 * in guarded memory, and the float64 model that says what must come out.
 */
#ifndef KERN_TILE_H
#define KERN_TILE_H

#include "kern.h"

/* No level has larger tiles. */
enum { TILE_ROWS = 256, TILE_CHUNKS = 3, TILE_KEYS = TILE_CHUNKS * 512, TILE_DIM = 256 };

/* All memory of a problem; too large for the stack. */
typedef struct tile_problem {
    hyperattn_dtype dtype;
    placement at;
    int rows, head_dim, dv;
    int chunks, keys[TILE_CHUNKS];
    int has_limit, has_cap, careful;
    float scale;
    uint32_t q[TILE_ROWS * TILE_DIM]; /* in the dtype, rows packed */
    uint32_t k[TILE_KEYS * TILE_DIM];
    uint32_t v[TILE_KEYS * TILE_DIM];
    float logw[TILE_KEYS];
    int limit[TILE_ROWS]; /* of the keys of all chunks */
    float cap[TILE_ROWS];
} tile_problem;

/* A level's state after the last chunk. */
typedef struct tile_state {
    float m[TILE_ROWS], l[TILE_ROWS];
    float acc[TILE_ROWS][TILE_DIM];
} tile_state;

int tile_total(const tile_problem *p);

/* Gaussian q, k and v; no weights, limits or caps. */
void tile_fill(tile_problem *p, rng *r);

/* Limits that do not decrease, from none of the keys to more than there are; and caps. */
void tile_limit_randomly(tile_problem *p, rng *r);
void tile_cap_randomly(tile_problem *p, rng *r);

/* Runs every chunk; NULL, or what the kernels did beside their task. */
const char *tile_run(const kern_run *run, const tile_problem *p, tile_state *state);

/* NULL, or where state leaves the model by more than rounding. */
const char *tile_check(const kern_run *run, const tile_problem *p, const tile_state *state);

/* Row i has the same bits in both states. */
void tile_same_row(kern_worst *w, const tile_problem *p, const tile_state *before,
                   const tile_state *after, int i);

#endif
