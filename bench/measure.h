/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn compare and sweep have in common: the input and the context that live through all
 * lengths; and sweep's timing of one row of results, which is the methods and the unfused baseline
 * at one length.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

#include "attn.h"
#include "baseline.h"
#include "hyperattn.h"
#include "input.h"
#include "options.h"
#include "peak.h"
#include "report.h"
#include "sweep_methods.h"
#include "timing.h"

enum {
    MEASURE_EXACT = 1 << SWEEP_EXACT,
    MEASURE_HYPER = 1 << SWEEP_HYPER,
    MEASURE_MULTIPOLE = 1 << SWEEP_MULTIPOLE,
    MEASURE_BASELINE = 1 << SWEEP_METHODS,
    MEASURE_PEAK = MEASURE_BASELINE << 1
};

/* ---- everything that lives through the command ---------------------------------------------- */

typedef struct measurement {
    const char *command;
    const measure_options *options;
    int what; /* MEASURE_... together */
    hyperattn_ctx *ctx;
    hyperattn_params params; /* but for the method */
    peak peak;
    input in;
    input in_f32; /* the same tensors as in, where those are f32 */
    outcome outcomes[SWEEP_METHODS];
    outcome baseline; /* out only, f32 */
    report *results;
    bool prints; /* tables: standard output is free for them */
} measurement;

/* A context and an empty report; then an input, in place of what was there, and threads that have
 * started; files->q NULL: generated. Each returns an exit status; measurement_close is needed after
 * failures too. */
int measurement_start(measurement *m, const char *command, const measure_options *options,
                      int what, const report_column *columns, int count);
int measurement_load(measurement *m, const input_files *files);

/* Params that no problem fits are refused before the input is made, which can take long. */
int measurement_check(const measurement *m, const hyperattn_params *params);

void measurement_close(measurement *m);

/* Room for what row_open computes at the longest length. The methods' outcomes lie in one place, as
 * far as backward does not need each. */
int measurement_outcomes(measurement *m);

/* in_f32, where it is not in itself already. */
int measurement_f32(measurement *m);
bool measurement_is_f32(const measurement *m);

/* The problem of the first rows (0: all) of the first heads (0: all) of in or in_f32. */
void measurement_problem(hyperattn_problem *p, const measurement *m, const input *in, bool causal,
                         int64_t rows, int64_t heads);

/* JSON, with head (see describe_json), and CSV, each if wanted and if there is a row. */
int measurement_write(const measurement *m, json_t *head);

/* ---- one row -------------------------------------------------------------------------------- */

/* In the order in which they take turns; the peak beside the kernel that is compared with it. */
enum {
    JOB_PEAK,
    JOB_METHODS, /* forward and backward of each: row_job() */
    JOB_BASELINE = JOB_METHODS + 2 * SWEEP_METHODS,
    JOBS
};

typedef struct measured_row {
    hyperattn_problem problem; /* all heads */
    hyperattn_problem slow;    /* the heads that exact and baseline are timed on */
    double heads_factor;       /* all heads over those */
    attn calls[SWEEP_METHODS];
    baseline unfused;
    timed_job jobs[JOBS]; /* run NULL: not in this row */
} measured_row;

/* what: of m->what, what this row has. heads: of exact attention and baseline, 0: all. The baseline
 * is left out, with a note, where its scores would not fit. Returns an exit status; row_close is
 * needed after failures too. */
int row_open(measured_row *row, measurement *m, int what, bool causal, int64_t rows,
             int64_t heads);
void row_close(measured_row *row);

/* Times its jobs. */
int row_run(measured_row *row, const measurement *m);

/* The job of SWEEP_..., PASS_FORWARD or PASS_BACKWARD. */
int row_job(int method, int pass);

bool row_has(const measured_row *row, int job);

#endif
