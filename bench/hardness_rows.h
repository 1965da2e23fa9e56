/* SPDX-License-Identifier: Apache-2.0
 *
 * What the theorem assumes over the length: a row for each n, median and largest over the heads,
 * and the exponent of n with which the median grows.
 */
#ifndef BENCH_HARDNESS_ROWS_H
#define BENCH_HARDNESS_ROWS_H

#include "compare.h"
#include "report.h"

enum { HARDNESS_TABLE };

extern const report_column hardness_columns[];
extern const int hardness_ncolumns;

/* Adds the row of the last run. An exit status. */
int hardness_report(const comparison *c, report *r);

#endif
