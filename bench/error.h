/* SPDX-License-Identifier: Apache-2.0
 *
 * How far an approximate output is from the exact one.
 */
#ifndef BENCH_ERROR_H
#define BENCH_ERROR_H

#include <stdint.h>

#include "hyperattn.h"

typedef struct error_stats {
    double rel_error;     /* ||approx - exact||_F / ||exact||_F over all heads */
    double max_row_error; /* largest ||approx_i - exact_i|| / ||exact_i|| */
    int64_t worst_head, worst_row; /* where that row is; head counts through the batch */
} error_stats;

typedef struct error_shape {
    int64_t heads, rows, dim;
    int64_t head_stride; /* in elements; the rows of a head are packed */
} error_shape;

/* approx [heads, rows, dim] of type dtype against exact, f32 of the same shape; rel_of_head
 * [heads], or NULL, receives each head's own relative error. A NaN anywhere makes the figures
 * NaN; a zero row of exact counts as 0 if approx is zero too and as Inf if not. */
void error_measure(error_stats *stats, const void *approx, hyperattn_dtype dtype,
                   const float *exact, const error_shape *shape, double *rel_of_head);

#endif
