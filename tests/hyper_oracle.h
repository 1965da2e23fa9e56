/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention in float64, with the hashes and samples of a plan: what hyperattn_forward
 * computes, to rounding. Directions, the layout of Algorithm 4 and the draws of the sampler are the
 * library's own, and tested elsewhere; projections, buckets, orders, runs, exact columns, tau, cap,
 * floor and softmax are done again, in plain loops.
 */
#ifndef HYPER_ORACLE_H
#define HYPER_ORACLE_H

#include "pattern.h"

/* What each row attends to. The plan is HYPER and made for t's problem. Where counts->ambiguous is
 * not 0, the pattern is not complete. */
pattern hyper_pattern(const tensors *t, const hyperattn_plan *plan, hyper_counts *counts);

/* pattern_forward of that. */
oracle hyper_oracle(const tensors *t, const hyperattn_plan *plan, hyper_counts *counts);

#endif
