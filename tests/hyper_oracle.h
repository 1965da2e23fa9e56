/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention in float64, with the hashes and samples of a plan: what hyperattn_forward
 * computes, to rounding. Directions, the layout of Algorithm 4 and the draws of the sampler are the
 * library's own, and tested elsewhere; projections, buckets, orders, runs, exact columns, cap,
 * floor and softmax are done again, in plain loops.
 */
#ifndef HYPER_ORACLE_H
#define HYPER_ORACLE_H

#include "oracle.h"

/* What the computation met, so that a test can tell that it tested something. */
typedef struct hyper_counts {
    int64_t leaf;      /* pairs of row and key in causal leaves */
    int64_t exact;     /* pairs in blocks, sinks and windows of rectangles */
    int64_t weighted;  /* sampled pairs with a weight other than 1 */
    int64_t capped;    /* sampled pairs that the cap lowered */
    int64_t floored;   /* row sums of samples that the floor raised */
    int64_t ambiguous; /* projections whose sign f32 rounding could turn: nothing is known then */
} hyper_counts;

/* To be compared by oracle_compare: nkeys is the square root of a row's terms, whose roundings are
 * independent, so that f32 must agree to about 1e-5. The plan is HYPER and made for t's problem. */
oracle hyper_oracle(const tensors *t, const hyperattn_plan *plan, hyper_counts *counts);

#endif
