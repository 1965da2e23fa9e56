/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PLAN_H
#define HA_PLAN_H

#include "algo/ladder.h"
#include "context.h"

struct hyperattn_plan {
    hyperattn_ctx *ctx;
    ha_plan view; /* what the backend sees: points to the fields below */
    hyperattn_problem problem; /* cu_seqlens_* point to the copies below */
    hyperattn_method method;   /* as asked for */
    hyperattn_params params;   /* block_mask points to mask or is NULL */
    ha_ladder ladder;          /* the choice of each head; with one step, params is that one */
    hyperattn_block_mask mask;
    int64_t *cu_seqlens; /* owned: q's batch + 1 sums, then k's */
    int64_t *mask_rows;  /* owned: row_start, then key_blocks */
};

/* One sequence of the batch: its rows in the tensors. */
typedef struct ha_sequence {
    int64_t nq, nk;
    int64_t q, k, v, out; /* offset of head 0, row 0, in elements */
    int64_t lse, lse_head; /* the same of lse, and its head stride */
} ha_sequence;

ha_sequence ha_plan_sequence(const ha_plan *plan, int64_t b);

#endif
