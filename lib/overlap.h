/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether two tensors share memory. Tensors may lie in the gaps of each other, as the slices of one
 * packed array do, so that the ranges of their addresses are not the answer.
 */
#ifndef HA_OVERLAP_H
#define HA_OVERLAP_H

#include <stddef.h>
#include <stdint.h>

#define HA_AXES 4

/* Elements at ptr + sum_a index_a stride_a, for 0 <= index_a < size_a. Sizes are at least 1,
 * strides not negative. */
typedef struct ha_region {
    const void *ptr;
    size_t bytes;   /* from the first to behind the last element; 0: there is none */
    size_t element; /* bytes of one; 0: all bytes of the range, whatever its axes */
    int64_t size[HA_AXES], stride[HA_AXES];
} ha_region;

/* 0 if they share no byte. 1 if they do, or if telling would take too long: that takes many axes
 * whose strides differ between the two and are not multiples of each other. */
int ha_overlap(const ha_region *a, const ha_region *b);

#endif
