/* SPDX-License-Identifier: Apache-2.0
 *
 * Equation 1 of the paper, head by head: ||out - out~||_op <= eps ||D^-1 A||_op ||V||_op, and the
 * eps with which it holds.
 */
#ifndef BENCH_BOUND_H
#define BENCH_BOUND_H

#include "compare.h"
#include "report.h"

/* Of one query head. */
typedef struct head_norms {
    double softmax, v;
} head_norms;

/* norms [heads] of the last run's problem, heads counting through the batch. An exit status. */
int bound_norms(head_norms *norms, const comparison *c);

/* Sets the norms and eps of the head with the largest eps in the report's last row, and adds those
 * of all heads to its JSON. An exit status. */
int bound_report(const comparison *c, const contestant *one, const head_norms *norms, report *r);

/* Head `head` (through the batch) of c's input in f32. */
typedef struct head_input {
    const float *q, *k, *v;
} head_input;

head_input compare_head(const comparison *c, int64_t head);

#endif
