/* SPDX-License-Identifier: Apache-2.0
 *
 * What the theorem about HyperAttention assumes of a head, over all of its rows: O(n^2 d).
 */
#ifndef BENCH_HARDNESS_H
#define BENCH_HARDNESS_H

#include <stdint.h>

#include "hyperattn.h"

typedef struct hardness {
    /* Keys times the largest squared column norm of the softmax matrix; and the same of the columns
     * beside the sinks, NaN without any. */
    double alpha, alpha_beside;
    /* Largest over smallest of what the row sums keep when the exact columns of HyperAttention are
     * taken out, among the rows that keep at least HARDNESS_SHARE; NaN if none does. */
    double kappa;
    int64_t kappa_rows; /* how many those are */
} hardness;

/* A row sum in f32 cannot tell a smaller part from rounding; times |lse| / 100 where that is above
 * 1. */
#define HARDNESS_SHARE 1e-4

/* head: see softmax_problem. params: those of HyperAttention, for its exact columns and its sinks.
 * An exit status. */
int hardness_measure(hardness *h, hyperattn_ctx *ctx, const hyperattn_problem *head,
                     const hyperattn_params *params, const float *q, const float *k);

#endif
