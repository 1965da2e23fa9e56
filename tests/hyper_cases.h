/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention of every kind in small: what forward and backward are compared with the float64
 * oracles on.
 */
#ifndef HYPER_CASES_H
#define HYPER_CASES_H

#include "hyper_oracle.h"

typedef struct hyper_case {
    const char *name;
    int64_t nq, nk, heads, heads_kv, d, dv;
    int causal, strict, sinks, window;
    int projs, block, sample, leaf; /* 0: 5, 16, 24 and 64; sample -1: none */
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    float kappa;
    int64_t query_block, key_block; /* with a block mask */
    int per_head, sparse_mask;      /* sparse: some rows list no block */
    hyperattn_dtype dtype;
} hyper_case;

typedef struct hyper_cases {
    const hyper_case *cases;
    int n;
} hyper_cases;

extern const hyper_cases cases_unmasked, cases_causal, cases_masked, cases_capped, cases_halves;

/* What the library gets; params.block_mask, if any, points into the struct. */
typedef struct hyper_subject {
    hyperattn_problem problem;
    hyperattn_params params;
    hyperattn_block_mask mask;
    int64_t row_start[256], key_blocks[8192];
} hyper_subject;

void hyper_subject_init(hyper_subject *s, const hyper_case *c);

/* Fills t so that no projection is too near to its threshold for f32: about one fill in ten is. *p
 * is then what the rows attend to, *o the result; both are the caller's to free. Says if no fill
 * was good. */
const char *hyper_fill_clearly(tensors *t, const hyperattn_plan *plan, pattern *p, oracle *o,
                               hyper_counts *counts);

/* Each case must have met what it is about, or it would prove nothing. */
const char *hyper_check_counts(const hyper_case *c, const hyper_counts *counts);

#endif
