/* SPDX-License-Identifier: Apache-2.0
 *
 * Problems, params and inputs for tests of target_error, and hyperattn_forward_report on them.
 */
#ifndef CHOOSE_CASES_H
#define CHOOSE_CASES_H

#include "tensors.h"

hyperattn_params params_with(hyperattn_method method, float target);
hyperattn_problem causal_problem(int64_t heads, int64_t heads_kv, int64_t n, int64_t d);

/* The params of a plan's step; with a method that is none if the plan refuses. */
hyperattn_params step_of(const hyperattn_plan *plan, int step);

enum { MOST_HEADS = 12 };

typedef struct choices {
    hyperattn_choice head[MOST_HEADS];
} choices;

/* A text that stays with one of 32 topics for a while, as examples/choose.c has it; later heads are
 * harder. */
void fill_topics(tensors *t, uint64_t seed);

/* hyperattn_forward_report with a workspace of exactly the size that is named, full of NaNs. */
const char *forward_report(tensors *t, const hyperattn_params *params, int nthreads, choices *c);

#endif
