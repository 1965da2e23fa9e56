/* SPDX-License-Identifier: Apache-2.0
 *
 * The columns of one query block: the exact ones, and those sampled from the rest with the weights
 * of Algorithms 2 and 3. A position is a place in the rectangle's key order.
 */
#ifndef HA_SAMPLE_H
#define HA_SAMPLE_H

#include <stdint.h>

#include "cpu/philox.h"

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
    uint32_t head, rect, block; /* the place of this random stream */
} ha_sampler;

/* Drops the blocks that lie outside the rectangle. */
ha_blocks ha_blocks_trim(ha_blocks b);

/* First position of block i and the one behind its last. */
int64_t ha_block_begin(const ha_blocks *b, int64_t i);
int64_t ha_block_end(const ha_blocks *b, int64_t i);

/* Positions in no block. */
int64_t ha_blocks_outside(const ha_blocks *b);

/* Draws [first, first + max), which sampler->draws bounds: positions and log2 weights, such that
 * the weighted sum over them is an unbiased estimate of the sum over all outside positions (V-norm:
 * over those whose value is not zero, for a key of no value is never drawn). Returns how many
 * columns these draws gave: V-norm draws that fall into an exact block give none. With draws >=
 * outside, every outside position comes once, with weight 1. */
int64_t ha_sample(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                  float *log2_weight);

/* How many draws there are. */
int64_t ha_sample_draws(const ha_sampler *s);

#endif
