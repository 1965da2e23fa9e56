/* SPDX-License-Identifier: Apache-2.0
 *
 * The hash of Algorithm 1 (sortLSH): sign bits of projections, ranked in the Gray sequence.
 */
#ifndef HA_LSH_H
#define HA_LSH_H

#include <stdint.h>

/* r Gaussian directions of head_dim values, [r][head_dim]. */
void ha_lsh_directions(float *directions, int r, int64_t head_dim, uint64_t seed, uint32_t unit);

/* Bit patterns become their ranks in the Gray sequence (the inverse Gray code, a prefix XOR):
 * neighbouring ranks differ in one bit, which is what makes sorting by it a sort by Hamming
 * distance. */
void ha_gray_ranks(uint16_t *bits, int64_t n);

/* Means of the finite projections of n rows. */
void ha_lsh_mean(float *mean, const float *proj, int64_t ld, int64_t n, int r);

#endif
