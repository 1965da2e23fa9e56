/* SPDX-License-Identifier: Apache-2.0
 *
 * A comparison over many captured heads: the folders of one directory, one input each, and what
 * their heads say together. One row of results is a length and a method.
 */
#ifndef BENCH_HEADS_H
#define BENCH_HEADS_H

#include "measure.h"
#include "methods.h"
#include "report.h"

/* What is known of one length and entry over all heads so far. */
typedef struct tally {
    int64_t n, heads, room;
    double seconds;       /* sum over the folders */
    double *errors;       /* [heads]; none of exact attention in f32 */
    double max_row_error; /* largest of all rows */
} tally;

typedef struct heads {
    measurement *m;
    const entry_list *entries;
    tally *tallies; /* [lengths][entries] */
    report *detail; /* a row for each folder, head, length and entry with an error */
    int folders;    /* that were measured */
} heads;

enum { HEADS_TABLE };

extern const report_column heads_columns[];
extern const int heads_ncolumns;

/* m: started, with no input yet. Returns an exit status; heads_close is needed after failures
 * too. */
int heads_open(heads *h, measurement *m, const entry_list *entries);
void heads_close(heads *h);

/* Measures the folders of the options' directory, one after the other. */
int heads_run(heads *h);

/* Fills m's results from what was measured. An exit status. */
int heads_report(const heads *h);

/* Query heads that were measured. */
int64_t heads_count(const heads *h);

#endif
