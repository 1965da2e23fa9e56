/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_SORT_H
#define HA_SORT_H

#include <stdint.h>

/* Stable counting sort: order receives first + i for i in [0, n), by ascending bucket[i]. counts
 * has nbuckets + 1 entries; on return counts[b] is the place where bucket b ends. */
void ha_counting_sort(uint32_t *order, const uint16_t *bucket, int64_t n, int64_t first,
                      int64_t nbuckets, uint32_t *counts);

#endif
