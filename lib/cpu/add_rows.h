/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of gradients, whose rows lie anywhere, take others in.
 */
#ifndef HA_ADD_ROWS_H
#define HA_ADD_ROWS_H

#include <stdint.h>

/* Rows between one in work and one asked for. */
#define HA_ROWS_AHEAD 8

static inline void ha_ask_for(const float *row, int64_t n)
{
    for (int64_t c = 0; c < n; c += 16)
        __builtin_prefetch(row + c);
}

/* sum += factor row, of n numbers: eight at a time, of which a compiler makes vectors. */
static inline void ha_add_multiple(float *restrict sum, const float *restrict row, float factor,
                                   int64_t n)
{
    int64_t c = 0;
    for (; c + 8 <= n; c += 8)
        for (int x = 0; x < 8; x++)
            sum[c + x] += factor * row[c + x];
    for (; c < n; c++)
        sum[c] += factor * row[c];
}

#endif
