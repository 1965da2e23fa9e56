/* SPDX-License-Identifier: Apache-2.0
 *
 * What the CPU backend makes of a plan, once: the layout of every sequence, and the sizes that the
 * stages of a call share.
 */
#ifndef HA_CPU_PLAN_H
#define HA_CPU_PLAN_H

#include "algo/causal.h"
#include "kernels.h"
#include "plan.h"

#define HA_LOG2E 1.44269504088896341f

/* Most keys or columns that are packed at a time beside the packs of whole sequences: a multiple of
 * every nr, and bc at least. */
#define HA_BATCH_KEYS 576

/* Most rows and keys of a block that backward packs at a time: at least HA_TASK_ROWS, and no more
 * than HA_BATCH_KEYS. */
#define HA_GRAD_ROWS 576

typedef struct ha_cpu_plan {
    const hyperattn_problem *problem;
    const hyperattn_params *params;
    const ha_kernels *kernels;
    const ha_arith *arith;
    int nthreads[2];       /* of a forward and a backward call: not more than the work is worth */
    int64_t group;         /* query heads per key head in work: those that read it, or 1 */
    int64_t nkey_heads;    /* batch * nheads / group */
    int64_t in_flight;     /* key heads at a time */
    int64_t ldacc, ldproj; /* row widths of accumulators, or gradients of v; and of projections */
    int64_t ldgrad;        /* row width of gradients of q and k */
    int64_t tail;          /* 0, or the plan is of the last so many rows of every sequence */
    int64_t nlayouts;      /* 1, or one per sequence of a ragged batch */
    ha_layout *layouts;
    ha_layout max;         /* the largest counts of any layout */
    ha_plan *steps;        /* NULL, or plans of the ladder's steps, */
    ha_plan *alone;        /* and of the same with group 1: for query heads on their own; */
    ha_plan *probe;        /* of the last rows, at the ladder's step for that; or NULL */
} ha_cpu_plan;

/* The layout of a sequence of the batch. */
static inline const ha_layout *ha_layout_of(const ha_cpu_plan *plan, int64_t sequence)
{
    return &plan->layouts[plan->nlayouts > 1 ? sequence : 0];
}

/* Sequence b of the batch: the rows of it that the plan is of. */
ha_sequence ha_cpu_sequence(const ha_cpu_plan *plan, const ha_plan *whole, int64_t b);

/* Rows and keys that a thread may have to hold: no more than there are. */
static inline int64_t ha_rows_held(const ha_cpu_plan *plan, int64_t most)
{
    return plan->max.nq < most ? plan->max.nq : most;
}

static inline int64_t ha_keys_held(const ha_cpu_plan *plan, int64_t most)
{
    return plan->max.nk < most ? plan->max.nk : most;
}

/* Sets plan->data and the sizes of the workspaces. */
hyperattn_status ha_cpu_plan_create(ha_plan *plan);
void ha_cpu_plan_destroy(ha_plan *plan);

#endif
