/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/sort.h"

#include <string.h>

void ha_counting_sort(uint32_t *order, const uint16_t *bucket, int64_t n, int64_t first,
                      int64_t nbuckets, uint32_t *counts)
{
    memset(counts, 0, (size_t)(nbuckets + 1) * sizeof *counts);
    for (int64_t i = 0; i < n; i++)
        counts[bucket[i] + 1]++;
    for (int64_t b = 0; b < nbuckets; b++)
        counts[b + 1] += counts[b];
    for (int64_t i = 0; i < n; i++)
        order[counts[bucket[i]]++] = (uint32_t)(first + i);
}
