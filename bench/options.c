/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "outfile.h"
#include "timing.h"
#include "values.h"

void parse_arguments(const struct argp *argp, int argc, char **argv, void *options)
{
    error_t error = argp_parse(argp, argc, argv, 0, NULL, options);
    if (error) /* only a lack of memory comes back */
        exit(failed("%s", strerror(error)));
}

void refuse_same_outputs(struct argp_state *state, const output_option *outputs, int count)
{
    for (int a = 0; a < count; a++) {
        for (int b = a + 1; b < count; b++) {
            if (outfile_same(outputs[a].path, outputs[b].path))
                argp_error(state, "%s and %s name the same file", outputs[b].option,
                           outputs[a].option);
        }
    }
}

/* ---- problem -------------------------------------------------------------------------------- */

enum {
    KEY_CAUSAL = OPTION_PROBLEM,
    KEY_SCALE,
    KEY_THREADS,
    KEY_DTYPE
};

static const struct argp_option problem_option_list[] = {
    {NULL, 0, NULL, 0, "Problem:", 4},
    {"causal", KEY_CAUSAL, NULL, 0, "Row i sees keys up to i + key rows - query rows", 4},
    {"scale", KEY_SCALE, "X", 0, "Softmax scale, 0: 1/sqrt(dim) (0)", 4},
    {"dtype", KEY_DTYPE, "TYPE", 0, "f32, bf16 or f16", 4},
    {"threads", KEY_THREADS, "N", 0, "Threads, 0: OpenMP's default (0)", 4},
    {0}};

static error_t parse_problem(int key, char *text, struct argp_state *state)
{
    static const char *const dtypes[] = {"f32", "bf16", "f16"};
    problem_options *o = state->input;
    switch (key) {
    case KEY_CAUSAL:
        o->causal = true;
        return 0;
    case KEY_SCALE:
        o->scale = (float)parse_real(state, "--scale", text, -FLT_MAX, FLT_MAX);
        return 0;
    case KEY_THREADS:
        o->threads = (int)parse_whole(state, "--threads", text, 0, 4096);
        return 0;
    case KEY_DTYPE:
        o->dtype_given = true;
        o->dtype = (hyperattn_dtype)parse_choice(state, "--dtype", text, 3, dtypes);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp problem_argp = {.options = problem_option_list, .parser = parse_problem};

/* ---- measuring ------------------------------------------------------------------------------ */

enum {
    KEY_REPEAT = OPTION_MEASURE,
    KEY_BACKWARD,
    KEY_JSON,
    KEY_CSV
};

static const struct argp_option measure_option_list[] = {
    {NULL, 0, NULL, 0, "Measuring and reporting:", 5},
    {"repeat", KEY_REPEAT, "N", 0,
     "Least number of runs of each method, of which the median counts; short ones have more (3)",
     5},
    {"backward", KEY_BACKWARD, NULL, 0,
     "Time backward too, each run after its forward, and compare the two together; compare: the "
     "gradients by q, k and v too", 5},
    {"json", KEY_JSON, "FILE", 0, "Write the results as JSON; -: to standard output, no table", 5},
    {"csv", KEY_CSV, "FILE", 0, "Write the results as CSV; -: to standard output, no table", 5},
    {0}};

static error_t parse_measure(int key, char *text, struct argp_state *state)
{
    measure_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        o->repeat = 3;
        state->child_inputs[0] = &o->gen;
        state->child_inputs[1] = &o->problem;
        state->child_inputs[2] = &o->params;
        return 0;
    case KEY_REPEAT:
        o->repeat = (int)parse_whole(state, "--repeat", text, 1, TIMING_MAX_REPEAT);
        return 0;
    case KEY_BACKWARD:
        o->backward = true;
        return 0;
    case KEY_JSON:
        o->json = text;
        return 0;
    case KEY_CSV:
        o->csv = text;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child measure_children[] = {
    {&gen_argp, 0, NULL, 0}, {&problem_argp, 0, NULL, 0}, {&params_argp, 0, NULL, 0}, {0}};

const struct argp measure_argp = {
    .options = measure_option_list, .parser = parse_measure, .children = measure_children};
