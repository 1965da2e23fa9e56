/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn_measure's decisions: which rows are checked, and what is known of the error of all rows
 * from that of the checked ones.
 *
 * The rows of a head are cut into as many strips as rows are checked, of equal size up to one
 * row, and one row of each is drawn: without replacement, and from every part of the sequence.
 */
#ifndef HA_ALGO_MEASURE_H
#define HA_ALGO_MEASURE_H

#include <stdint.h>

/* First row of strip `strip` of `strips`, which cut nq rows; the first are the longer ones. */
static inline int64_t ha_strip_begin(int64_t nq, int64_t strips, int64_t strip)
{
    int64_t longer = nq % strips;
    return strip * (nq / strips) + (strip < longer ? strip : longer);
}

static inline int64_t ha_strip_rows(int64_t nq, int64_t strips, int64_t strip)
{
    return nq / strips + (strip < nq % strips);
}

/* The rows [strips], ascending, of query head `head` of all of the batch; strips <= nq. */
void ha_draw_checked_rows(uint32_t *row, uint64_t seed, uint32_t head, int64_t nq, int64_t strips);

/* Others, by which target_error chooses: so that hyperattn_measure with the same seed looks at rows
 * that no choice has looked at. */
void ha_draw_trial_rows(uint32_t *row, uint64_t seed, uint32_t head, int64_t nq, int64_t strips);

/* What is known of every row of a head that was not checked: it is a weighted mean of rows of v, so
 * it lies within `reach` of their centre. */
typedef struct ha_reach {
    double reach; /* largest |v_j - centre| */
    double norm;  /* largest |v_j| */
    double far;   /* of rows of the measured output: largest |out_i - centre| */
    double out;   /* and largest |out_i| */
} ha_reach;

/* Checked rows: of one head, or of several, one after the other. */
typedef struct ha_checked {
    const double *diff, *norm; /* [n]: |out_i - exact_i|^2, |exact_i|^2 */
    const int64_t *strip;      /* [n]: rows of its strip */
    int64_t n;
    const ha_reach *reach; /* [nreaches] */
    const int64_t *longest; /* [nreaches]: rows of the longest strip of that head */
    int64_t nreaches;
} ha_checked;

typedef struct ha_error {
    double value, low, high;
} ha_error;

/* sqrt(sum |out_i - exact_i|^2 / sum |exact_i|^2) over all rows, estimated, with limits that hold
 * it in 95 of 100 draws. NaN if one of diff or norm is. scratch: [n + 1]. */
ha_error ha_error_interval(const ha_checked *c, double *scratch);

/* P(sum_k coef_k E_k > 0) of independent exponential variables E_k of mean 1. */
double ha_exponential_tail(const double *coef, int64_t n);

#endif
