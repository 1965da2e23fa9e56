/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantiles of a list.
 */
#ifndef BENCH_QUANTILE_H
#define BENCH_QUANTILE_H

#include <stdint.h>

/* Puts the values in ascending order, NaNs last; returns how many are no NaN. */
int64_t quantile_sort(double *values, int64_t n);

/* The smallest of n >= 1 sorted values that at least the fraction p of them do not exceed; of
 * p = 0.5 and an even n, the mean of the two in the middle. */
double quantile(const double *sorted, int64_t n, double p);

#endif
