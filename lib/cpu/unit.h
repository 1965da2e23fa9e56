/* SPDX-License-Identifier: Apache-2.0
 *
 * What the stages of one forward call share. A unit is one key head of one sequence with the query
 * heads that read it; several units are in flight at a time.
 */
#ifndef HA_UNIT_H
#define HA_UNIT_H

#include <stdatomic.h>

#include "cpu/causal.h"
#include "cpu/cpu_backend.h"
#include "plan.h"
#include "profile.h"
#include "workspace.h"

#define HA_LOG2E 1.44269504088896341f

/* Keys that a task packs at a time: a multiple of every nr, and bc at least. */
#define HA_TASK_KEYS 576

/* Most rows and keys of a block that backward packs at a time: at least HA_TASK_ROWS, and no more
 * than HA_TASK_KEYS. */
#define HA_GRAD_ROWS 576

/* The CPU backend's plan data. */
typedef struct ha_cpu_plan {
    const ha_arith *arith;
    int64_t group;         /* query heads per key head */
    int64_t units;         /* batch * nheads_kv */
    int64_t in_flight;     /* units at a time */
    int64_t ldacc, ldproj; /* row widths of states, or gradients of v; and of projections */
    int64_t ldgrad;        /* row width of gradients of q and k */
    int64_t task_columns;  /* most columns of a task */
    int64_t round, parts;  /* tasks of a round, and parts of a unit's keys: cpu/backward_tasks.c */
    int64_t row_copies;    /* of sums of gradients: cpu/backward_leaves.c */
    int64_t key_copies;
    int one_wave;          /* one wave and no leaf: each query row is in one task */
    int64_t nlayouts;      /* 1, or one per sequence of a ragged batch */
    ha_layout *layouts;
    ha_layout max;         /* the largest counts of any layout */
} ha_cpu_plan;

/* Rows of a rectangle's sorted queries [row0, row0 + rows) against its block. */
typedef struct ha_task {
    const ha_rect *rect;
    int32_t unit, head; /* place of the unit among those in flight; query head of the group */
    int64_t block;
    int64_t row0, rows;
} ha_task;

/* How far the sums of a block of rows or keys are; threads wait for each other by it. */
typedef atomic_int_least64_t ha_progress;

/* A unit's tensors and its part of the workspace. Rows are those of the sequence. */
typedef struct ha_unit {
    const ha_layout *layout;
    int64_t head0;          /* first query head, of all heads */
    uint32_t id;            /* of the key head in the batch: keys the random streams */
    ha_rows k, v;
    ha_rows *q;             /* [group] */
    ha_out_rows *out;       /* [group] */
    float **lse;            /* [group], or NULL */
    float *directions;      /* packed hash directions */
    float *qproj;           /* [group][nq][ldproj] */
    float *kproj;           /* [nk][ldproj] */
    float *vnorm;           /* [nk], with V-norm sampling */
    uint16_t *qrank;        /* [group][nq]: ranks of buckets, of the current wave */
    uint16_t *krank;        /* [nk] */
    uint32_t *qorder;       /* [group][nq]: rows of each rectangle, sorted, from its q0 on */
    uint32_t *korder;       /* [nk]: keys of each rectangle, sorted, from its k0 on */
    uint32_t *bounds;       /* [group][max_bounds]: first sorted query of each run */
    double *mass;           /* [nk]: running sums of vnorm in sorted order, per rectangle */
    float *tau;             /* [group][max_rects][tau tiles]: log2 of row sums, with kappa_cap */
    float *m, *l, *acc;     /* row states between waves: [group][nq], [group][nq][ldacc] */
    void *kpack, *vpack;    /* packed keys and values from layout->key0 on */
    uint8_t *finite;        /* [per HA_SPLIT keys of the pack]: every value is finite */

    /* backward alone */
    ha_rows *o, *dout;       /* [group]: out, and the loss's gradient */
    ha_out_rows *dq, dk, dv; /* dq: [group] */
    const float **lse_given; /* [group] */
    float *lse2, *delta;     /* [group][nq]: lse as log2; dout_i.out_i */
    float *gq;               /* sums of gradients: [row_copies][group][nq][ldgrad], */
    float *gk, *gv;          /* [key_copies][nk][ldgrad], [key_copies][nk][ldacc] */
    ha_progress *progress;   /* see cpu/backward_leaves.c */
} ha_unit;

/* Columns of a unit: keys and their log2 weights. */
typedef struct ha_columns {
    uint32_t *key; /* [HA_TASK_KEYS] */
    float *logw;   /* [HA_TASK_KEYS] */
    int64_t n;
    int sampled;   /* else exact */
} ha_columns;

/* Most rows that a task names ahead of need: K and V of one batch of columns, and its rows of q,
 * out and state. */
#define HA_TASK_AHEAD (2 * HA_TASK_KEYS + 3 * HA_TASK_ROWS)

/* One thread's part of the workspace. */
typedef struct ha_scratch {
    void *q;           /* query tiles of a task; f32 tile while hashing */
    float *m, *l, *acc;
    float *cap, *block_sum;
    float *inv;
    void *kpack, *vpack;
    ha_columns columns[3]; /* at work, next, and of the task behind this one */
    const void **ahead;    /* [HA_TASK_AHEAD] */
    int64_t nahead;
    int32_t *limit;
    float *tile;       /* the kernels' scratch */
    uint32_t *counts;  /* counting sort */
    double seconds[HA_STAGES];

    /* backward alone: rows and columns packed for each place in the products, see ha_grad_tile */
    void *rows_q, *rows_dout, *rows_q_sum, *rows_dout_sum; /* [HA_GRAD_ROWS] */
    void *keys_k, *keys_v, *keys_k_sum;                    /* [HA_TASK_KEYS] */
    float *logw;               /* [HA_TASK_KEYS] */
    float *lse, *delta;        /* [HA_GRAD_ROWS] */
    float *capped;             /* [HA_TASK_ROWS] */
    float *dq;                 /* [HA_TASK_ROWS][ldgrad] */
    float *grad_tile;          /* the kernels' scratch */
    int32_t *grad_limit;       /* [gr] */
    uint32_t *found;           /* [task_columns + 1] */
} ha_scratch;

/* Gradients of the columns of a few rounds of tasks, until they are summed per key: see
 * cpu/backward_tasks.c. */
typedef struct ha_slots {
    uint32_t *key;                /* [tasks kept][task_columns] */
    int64_t *used;                /* [tasks kept]: columns */
    float *dk, *dv;               /* [tasks kept][task_columns][ldgrad], [ldacc] */
    ha_progress *done, *summed;   /* tasks of each round; rounds of each part of the keys */
} ha_slots;

/* A forward or backward call. */
typedef struct ha_run {
    const ha_plan *plan;
    const ha_cpu_plan *cpu;
    int64_t nunits;      /* in flight */
    ha_unit *units;
    ha_scratch *scratch; /* [nthreads] */
    ha_task *tasks;
    int64_t ntasks;
    int wave;
    ha_slots slots; /* backward alone */
} ha_run;

/* A row's sums of gradients. */
static inline float *ha_sum_q(const ha_run *run, const ha_unit *u, int64_t copy, int64_t head,
                              int64_t row)
{
    return u->gq + ((copy * run->cpu->group + head) * u->layout->nq + row) * run->cpu->ldgrad;
}

static inline float *ha_sum_k(const ha_run *run, const ha_unit *u, int64_t copy, int64_t key)
{
    return u->gk + (copy * u->layout->nk + key) * run->cpu->ldgrad;
}

static inline float *ha_sum_v(const ha_run *run, const ha_unit *u, int64_t copy, int64_t key)
{
    return u->gv + (copy * u->layout->nk + key) * run->cpu->ldacc;
}

static inline const ha_kernels *ha_run_kernels(const ha_run *run)
{
    return ha_cpu_kernels(run->plan);
}

/* Rows of a task in whole register blocks. */
static inline int64_t ha_task_rows_padded(const ha_arith *a)
{
    return ha_round_up(HA_TASK_ROWS, a->mr);
}

#endif
