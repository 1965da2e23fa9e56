/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing some of many numbers by size: equal ones by the lower index, a NaN as the largest. The
 * numbers are compared as integers, so that every choice is a total order's.
 */
#ifndef HA_ALGO_SELECT_H
#define HA_ALGO_SELECT_H

#include <stdint.h>
#include <string.h>

/* An integer that is ordered as x; zeros of both signs are one. */
static inline uint32_t ha_rank_of(float x)
{
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return UINT32_MAX;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* The number of rank k, from 0, among n > k; *below is how many are smaller. */
uint32_t ha_kth(const uint32_t *rank, int64_t n, int64_t k, int64_t *below);

/* Writes the indices of the k largest of n ranks, ascending, and returns how many: all n if there
 * are no more. Ranks of 0 are never taken. */
int64_t ha_largest(const uint32_t *rank, int64_t n, int64_t k, uint32_t *index);

/* Divides index[0, n), whose element i has rank[i], into the `half` smallest and the others, which
 * keep the order that they had. scratch has room for n. */
void ha_divide(uint32_t *index, const uint32_t *rank, int64_t n, int64_t half, uint32_t *scratch);

#endif
