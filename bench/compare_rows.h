/* SPDX-License-Identifier: Apache-2.0
 *
 * The results of a comparison on one input: a row for each length and method.
 */
#ifndef BENCH_COMPARE_ROWS_H
#define BENCH_COMPARE_ROWS_H

#include "bound.h"
#include "compare.h"
#include "report.h"

enum { MAIN_TABLE, STAGE_TABLE, MEASURED_TABLE, BACKWARD_TABLE, SPECTRAL_TABLE };

/* Rows of each head that hyperattn_measure computes. */
enum { COMPARE_CHECKED_ROWS = 128 };

extern const report_column compare_columns[];
extern const int compare_ncolumns;

/* Hides the columns that have nothing to say for this input. */
void compare_show_columns(const comparison *c, report *r);

/* Adds the rows of the last run; norms (see bound.h) NULL: without those of errors. An exit
 * status. */
int compare_report(const comparison *c, const head_norms *norms, report *r);

/* The figures of a contestant that have nothing to do with its error: name, budget, seconds,
 * speed-up over exact attention by the seconds of that, workspace. Of the report's last row. */
void compare_report_method(report *r, const entry *e, double seconds, double exact_seconds);

#endif
