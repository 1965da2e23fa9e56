/* SPDX-License-Identifier: Apache-2.0
 *
 * Inputs of known difficulty for hyperattn_measure, and how often its interval holds the truth.
 */
#ifndef MEASURE_CASES_H
#define MEASURE_CASES_H

#include "algo/measure.h"
#include "tensors.h"

/* One head, f32, fills t's q, k and v:
 *   gauss      all N: nearly uniform softmax
 *   clustered  q, k and v around 64 shared centres
 *   needles    each query has one key that takes most of its weight, anywhere in its past
 *   rare       the same of one query in 1000; all others see all their keys alike
 *   norms      gauss with log-normal norms of q, k and v, sigma 1
 *   local      a slow walk: neighbours resemble each other; key 0 is a sink without value */
typedef enum family {
    FAMILY_GAUSS,
    FAMILY_CLUSTERED,
    FAMILY_NEEDLES,
    FAMILY_RARE,
    FAMILY_NORMS,
    FAMILY_LOCAL,
    FAMILIES
} family;

const char *family_name(family f);
void family_fill(tensors *t, family f, uint64_t seed);

/* Errors of all rows of the heads of one sequence, and what hyperattn_measure may know of them. */
typedef struct row_errors {
    int64_t heads, rows;
    double *diff, *norm; /* [heads][rows] */
    ha_reach *reach;     /* [heads] */
    double truth;        /* the relative error */
} row_errors;

/* Of t's out against exact, of the same shape and order: [heads][rows][dv]. */
row_errors row_errors_of(const tensors *t, const float *exact);
void row_errors_free(row_errors *e);

/* How `draws` draws of m rows of each head did. */
typedef struct coverage {
    double held;              /* share of intervals that hold the truth */
    double above, below;      /* and of those that lie above or below it */
    double value, low, high;  /* medians */
} coverage;

coverage coverage_of(const row_errors *e, int64_t m, int draws);

#endif
