/* SPDX-License-Identifier: Apache-2.0
 *
 * The measurements of hyperattn compare: one row is one length.
 */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "attn.h"
#include "hyperattn.h"
#include "input.h"
#include "options.h"
#include "report.h"

typedef struct compare_options {
    params_options params;
    problem_options problem;
    input_files files;
    gen_options gen;
    bool baseline, backward;
    int repeat;
    const char *json, *csv;
} compare_options;

/* What one way to compute leaves. */
typedef struct outcome {
    void *out;
    float *lse;      /* with --backward */
    gradients grads; /* too */
} outcome;

/* Everything that lives through the comparison. */
typedef struct comparison {
    const compare_options *options;
    hyperattn_ctx *ctx;
    hyperattn_params params;
    input in;
    input in_f32;    /* owned only if owns_f32; otherwise the same tensors as in */
    bool owns_f32;
    int64_t rows; /* of the length being measured; 0: all */
    outcome exact, hyper;
    outcome reference; /* exact, f32: exact itself if that is f32 */
    float *baseline_out;
    report *results;
} comparison;

/* The problem of the length being measured. */
void compare_problem(hyperattn_problem *p, const comparison *c, const input *in);

/* Measures the first rows (0: all) and adds its row to the results. Returns an exit status. */
int compare_length(comparison *c, int64_t rows);

#endif
