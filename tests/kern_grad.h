/* SPDX-License-Identifier: Apache-2.0
 *
 * A problem for backward: tiles of rows against chunks of keys, its run through a level's kernels
 * in guarded memory, and the float64 model that says what must come out.
 */
#ifndef KERN_GRAD_H
#define KERN_GRAD_H

#include "kern.h"

/* No level has larger tiles. */
enum {
    GRAD_TILES = 2,
    GRAD_ROWS = GRAD_TILES * 128,
    GRAD_CHUNKS = 2,
    GRAD_KEYS = GRAD_CHUNKS * 288,
    GRAD_DIM = 256
};

/* Arrays of rows in the dtype. The kernel reads q, k and dout from two places each, as it
 * multiplies and as it sums; here these are different numbers, so that a mix-up shows. Those of dv
 * columns come last. */
typedef enum grad_array {
    GRAD_Q,
    GRAD_Q_SUM,
    GRAD_K,
    GRAD_K_SUM,
    GRAD_V,
    GRAD_DOUT,
    GRAD_DOUT_SUM,
    GRAD_ARRAYS
} grad_array;

/* All memory of a problem; too large for the stack. */
typedef struct grad_problem {
    hyperattn_dtype dtype;
    placement at;
    int tiles, rows[GRAD_TILES];
    int chunks, keys[GRAD_CHUNKS];
    int head_dim, dv;
    int has_limit, has_cap;
    float scale;
    uint32_t data[GRAD_ARRAYS][GRAD_KEYS * GRAD_DIM];
    float logw[GRAD_KEYS];
    int limit[GRAD_ROWS]; /* of the keys of all chunks; not decreasing within a tile */
    float cap[GRAD_ROWS], lse[GRAD_ROWS], delta[GRAD_ROWS];
} grad_problem;

/* The sums, which start anywhere. */
typedef struct grad_state {
    float dq[GRAD_ROWS][GRAD_DIM], dk[GRAD_KEYS][GRAD_DIM], dv[GRAD_KEYS][GRAD_DIM];
    float capped[GRAD_ROWS];
} grad_state;

int grad_rows(const grad_problem *p);
int grad_keys(const grad_problem *p);

/* Whether array's rows are keys and not query rows, and its columns. */
int grad_of_keys(grad_array array);
int grad_columns(const grad_problem *p, grad_array array);

/* Gaussian numbers, weights and delta; no limits or caps. lse is to follow. */
void grad_fill(grad_problem *p, rng *r);

/* lse over the keys that a row sees, and up to 3 more, as if it saw others elsewhere; Inf where it
 * sees none. */
void grad_fill_lse(grad_problem *p, rng *r);

/* Runs every tile against every chunk; NULL, or what the kernels did beside their task. */
const char *grad_run(const kern_run *run, const grad_problem *p, grad_state *state);

/* NULL, or where state leaves the model, which starts from `from`, by more than rounding. */
const char *grad_check(const kern_run *run, const grad_problem *p, const grad_state *from,
                       const grad_state *state);

#endif
