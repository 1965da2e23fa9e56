/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 1 (sortLSH): sign bits of projections, ranked in the Gray sequence; a stable sort by
 * rank; and which run of the sorted queries meets which block of the sorted keys. The projections
 * themselves are a matrix product, and the backend's.
 */
#ifndef HA_SORTLSH_H
#define HA_SORTLSH_H

#include <stdint.h>

#include "algo/causal.h"
#include "ha_limits.h"

/* r Gaussian directions of head_dim values, [r][head_dim], of a key head of the batch. */
void ha_directions(float *directions, int r, int64_t head_dim, uint64_t seed, uint32_t key_head);

/* Means of the finite projections of n rows, ld apart. */
void ha_finite_means(float *mean, const float *proj, int64_t ld, int64_t n, int r);

/* Bit patterns become their ranks in the Gray sequence (the inverse Gray code, a prefix XOR):
 * neighbouring ranks differ in one bit, which is what makes sorting by it a sort by Hamming
 * distance. */
void ha_gray_ranks(uint16_t *bits, int64_t n);

/* Stable counting sort: order receives first + i for i in [0, n), by ascending bucket[i]. counts
 * has nbuckets + 1 entries; on return counts[b] is the place where bucket b ends. */
void ha_counting_sort(uint32_t *order, const uint16_t *bucket, int64_t n, int64_t first,
                      int64_t nbuckets, uint32_t *counts);

/* Bounds of a rectangle's runs, [nruns + 1]: run t of the sorted queries meets block t of the
 * sorted keys, as in the paper. Where rows keep their own order, a run is a block of rows. */
void ha_run_bounds(uint32_t *bounds, const ha_rect *rect, const hyperattn_params *params);

/* strict_causal: a query meets the block of keys that holds the middle of its own bucket, whatever
 * the other queries are. rank and key_rank are those of the rectangle's rows and keys; counts has
 * ha_sort_counts() entries. Fills order with the rows run by run, and the bounds. */
void ha_strict_runs(uint32_t *order, uint32_t *bounds, const ha_rect *rect,
                    const hyperattn_params *params, const uint16_t *rank, const uint16_t *key_rank,
                    uint32_t *counts);

/* Entries of counts that the sorts need. */
int64_t ha_sort_counts(const hyperattn_params *params);

/* Whether the rectangles' rows and keys are in sorted order rather than their own. */
static inline int ha_is_sorted(const hyperattn_params *params)
{
    return params->method == HYPERATTN_HYPER && !params->block_mask &&
           params->heavy == HYPERATTN_HEAVY_SORTLSH;
}

#endif
