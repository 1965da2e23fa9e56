/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn_measure on the processor. A check is one key head under measurement, with the checked
 * rows of its group; several are in flight. All is computed in f32 arithmetic, whatever the type of
 * the tensors, so that the rounding of 16-bit weights counts as an error of what is measured.
 */
#ifndef HA_MEASURE_H
#define HA_MEASURE_H

#include "algo/measure.h"
#include "cpu/key_head.h"
#include "cpu/softmax.h"
#include "parallel.h"

/* Parts of the keys, and of the rows of out, that are items of the loops over a check: fixed, so
 * that sums over them do not depend on the threads. */
#define HA_CHECK_PARTS 16

/* Query rows whose scores with a chunk of keys are formed at once: a panel of projections. */
#define HA_CHECK_PANEL HA_MAX_PROJS

typedef struct ha_check {
    ha_key_head kh;
    int64_t rows;  /* checked rows of each query head */
    uint32_t *row; /* [group][most]: those rows, ascending */
    float *exact;  /* NULL, or [group][most][head_dim_v]: a trial's exact rows, which are kept in
                    * place of all below but states */
    /* the exact rows (cpu/checked.h) */
    ha_states states; /* [ranges][slices][group][step up to a multiple of MR] */
    float *lse_log2;  /* [group][panels * HA_CHECK_PANEL]; inf: no such row, or it sees no key */
    float *panel;     /* [group][panels]: the checked query rows, packed as directions */
    double *diff, *norm;      /* [group][most] */
    /* alpha and kappa (cpu/hardness.h), by part of the keys */
    double *light;  /* [parts][group][panels * HA_CHECK_PANEL]: shares without the large ones */
    double *column; /* [parts][group]: largest squared column norm */
    /* what bounds the other rows (cpu/reach.h), by part */
    double *sum;    /* [parts][head_dim_v]: of v's rows */
    float *centre;  /* [head_dim_v]: their mean */
    ha_reach *v;    /* [parts]: reach and norm */
    ha_reach *out;  /* [parts][group]: far and out */
} ha_check;

/* One thread's buffers. */
typedef struct ha_check_thread {
    ha_softmax rows; /* of a slice: [group][step up to a multiple of MR] */
    ha_key_pack pack;
    float *logw;
    int32_t *limit;
    float *x;      /* rows of keys, or of v and out, as f32 */
    float *scores; /* [keys][HA_CHECK_PANEL], and at least head_dim_v */
    float *column; /* [keys] */
} ha_check_thread;

typedef struct ha_measure {
    ha_cpu_plan plan; /* the plan's, in f32 arithmetic */
    const ha_plan *whole;
    int64_t most;   /* checked rows of a query head, of any sequence */
    int64_t step;   /* of them in a slice */
    int64_t slices, ranges; /* parts of the rows and of the keys that are an item */
    int64_t panels; /* of HA_CHECK_PANEL rows, for each query head */
    int64_t in_flight, nchecks;
    ha_team *team;
    ha_check *checks;
    ha_check_thread *threads;
} ha_measure;

/* Chooses the sizes of a measurement of `rows` rows of each head, or of a trial. */
void ha_measure_open(ha_measure *m, const ha_plan *whole, int64_t rows);

/* Threads, and checks in flight, without their arrays. */
void ha_measure_carve(ha_carver *c, ha_measure *m);

/* Row states of a check. */
void ha_check_carve_states(ha_carver *c, const ha_measure *m, ha_check *check);

/* Rows of v and out, or keys, that a thread converts at a time. */
#define HA_CHECK_KEYS 256

/* Rows of state of one slice. */
static inline int64_t ha_slice_padded(const ha_measure *m)
{
    return ha_round_up(m->step, m->plan.arith->mr);
}

/* Part `part` of n rows or keys. */
static inline int64_t ha_part_begin(int64_t n, int64_t part, int64_t parts)
{
    int64_t length = ha_round_up((n + parts - 1) / parts, HA_CHECK_KEYS);
    return part * length < n ? part * length : n;
}

/* a or b, where NaN is larger than anything. */
static inline double ha_larger(double a, double b)
{
    return a != a || a > b ? a : b;
}

hyperattn_status ha_cpu_measure(const ha_plan *whole, const ha_measured *t, int64_t rows,
                                hyperattn_report *total, hyperattn_report *per_head);

#endif
