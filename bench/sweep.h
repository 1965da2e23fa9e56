/* SPDX-License-Identifier: Apache-2.0
 *
 * The measurements of hyperattn sweep: one row is one length, causal or not.
 */
#ifndef BENCH_SWEEP_H
#define BENCH_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "attn.h"
#include "hyperattn.h"
#include "input.h"
#include "options.h"
#include "peak.h"
#include "report.h"

enum { SWEEP_EXACT = 1, SWEEP_HYPER = 2, SWEEP_BASELINE = 4 };

typedef struct sweep_options {
    params_options params;
    problem_options problem; /* its causal: only causal */
    gen_options gen;
    bool no_causal;
    int methods; /* SWEEP_EXACT and so on */
    int repeat;
    int64_t exact_max_n;
    double exact_budget;
    bool backward;
    bool peak;
    const char *json, *csv, *plot;
} sweep_options;

typedef struct sweep {
    const sweep_options *options;
    hyperattn_ctx *ctx;
    hyperattn_params params;
    input in;
    input in_f32; /* for the baseline: the tensors of in where those are f32 */
    bool owns_f32;
    void *out; /* every method writes here; each overwrites the other's */
    float *baseline_out;
    /* With backward, which reads what its own forward left: */
    void *hyper_out; /* otherwise out */
    float *exact_lse, *hyper_lse;
    gradients grads; /* of both methods */
    peak peak;
    /* Scores per second of exact attention, with its backward if that is run: for predictions. */
    double exact_rate;
    report *results;
} sweep;

/* The problem of the first n rows (0: all) of the first heads (0: all). */
void sweep_problem(hyperattn_problem *p, const sweep *s, const input *in, bool causal, int64_t n,
                   int64_t heads);

/* A short run of exact attention, for the first prediction. Returns an exit status. */
int sweep_probe(sweep *s, bool causal);

/* Measures one length and adds its row to the results. Returns an exit status. */
int sweep_length(sweep *s, bool causal, int64_t n);

#endif
