/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithms 2 (ApproxD) and 3: the exact blocks of one run of queries, the columns sampled from
 * the rest with their weights, and the row-wise cap of sampled entries. A position is a place in
 * the rectangle's key order.
 */
#ifndef HA_APPROXD_H
#define HA_APPROXD_H

#include <stdint.h>

#include "algo/causal.h"
#include "algo/philox.h"

/* ---- samples --------------------------------------------------------------------------------- */

/* The exact positions: blocks of width keys, clipped to the rectangle's total keys. */
typedef struct ha_blocks {
    const int64_t *block; /* ascending */
    int64_t n;
    int64_t width;
    int64_t origin; /* key at position 0, counted as the blocks are */
    int64_t total;
} ha_blocks;

typedef struct ha_sampler {
    ha_blocks exact;
    int64_t outside;    /* positions in no exact block */
    int64_t draws;      /* at most this many columns */
    const double *mass; /* V-norm: running sums of |v|^2 over positions; NULL: uniform */
    uint64_t seed;
    uint32_t head, rect, run; /* the place of this random stream */
} ha_sampler;

/* Drops the blocks that lie outside the rectangle. */
ha_blocks ha_blocks_trim(ha_blocks b);

/* First position of block i and the one behind its last. */
int64_t ha_block_begin(const ha_blocks *b, int64_t i);
int64_t ha_block_end(const ha_blocks *b, int64_t i);

/* Positions in no block. */
int64_t ha_blocks_outside(const ha_blocks *b);

/* The sampler of run *run of a rectangle; it keeps the pointer. head is the number of the query
 * head among those of all sequences; mass: of the rectangle, or NULL. */
ha_sampler ha_run_sampler(const hyperattn_problem *problem, const hyperattn_params *params,
                          const ha_layout *layout, const ha_rect *rect, int64_t head,
                          const int64_t *run, const double *mass);

/* Draws [first, first + max), which sampler->draws bounds: positions and log2 weights, such that
 * the weighted sum over them is an unbiased estimate of the sum over all outside positions (V-norm:
 * over those whose value is not zero, for a key of no value is never drawn). Returns how many
 * columns these draws gave: V-norm draws that fall into an exact block give none. With draws >=
 * outside, every outside position comes once, with weight 1. */
int64_t ha_sample(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                  float *log2_weight);

/* How many draws there are. */
int64_t ha_sample_draws(const ha_sampler *s);

/* ---- tau, cap and floor ---------------------------------------------------------------------- */

/* Rows of a tile of tau, which are neighbours in sorted order and share their exact block. Part of
 * the algorithm: tau, and so the cap, must not depend on what a kernel likes to compute at once. */
#define HA_TAU_ROWS 64

/* Tiles of rows that estimate a rectangle's tau: min(sample_size, nq) rows. */
int64_t ha_tau_tiles(const hyperattn_params *params, int64_t nq);

/* A random run of a rectangle, and up to HA_TAU_ROWS of its rows from a random place on. */
typedef struct ha_tau_rows {
    int64_t run, row0, rows;
} ha_tau_rows;

ha_tau_rows ha_draw_tau_rows(const hyperattn_params *params, const ha_layout *layout,
                             const ha_rect *rect, int64_t head, int64_t tile,
                             const uint32_t *bounds);

/* log2(tau / kappa) from the tiles' log2 of their largest row sums. */
double ha_log2_floor(const hyperattn_params *params, const float *tau, int64_t tiles);

/* Line 5: log2 of (exact sum + tau / kappa) / ln n, which no sampled entry, with its weight, may
 * exceed. The paper's Theta(eps^2) is taken as 1. */
float ha_log2_cap(double log2_exact, double log2_floor, int64_t nk);

/* What the cap is divided by. */
double ha_cap_divisor(int64_t nk);

#endif
