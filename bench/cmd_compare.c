/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn compare: methods beside exact attention, error and time.
 */
#include <argp.h>
#include <float.h>

#include "baseline.h"
#include "commands.h"
#include "compare_all.h"
#include "gnuplot.h"
#include "message.h"
#include "options.h"
#include "outfile.h"
#include "report.h"
#include "timing.h"
#include "values.h"

/* ---- options -------------------------------------------------------------------------------- */

enum {
    KEY_METHODS = OPTION_COMMAND,
    KEY_BUDGETS,
    KEY_TARGET,
    KEY_HEADS_DIR,
    KEY_PER_HEAD,
    KEY_SPECTRAL,
    KEY_HARDNESS,
    KEY_PLOT
};

static const struct argp_option option_list[] = {
    {"heads-dir", KEY_HEADS_DIR, "DIR", 0,
     "Captured heads: q.npy, k.npy and v.npy in DIR or in each of its folders", 1},
    {"methods", KEY_METHODS, "LIST", 0,
     METHOD_NAMES " (unfused, OpenBLAS, f32), separated by commas; exact always is one of them "
     "(exact,hyper)", 5},
    {"budgets", KEY_BUDGETS, "LIST", 0,
     "Whole numbers separated by commas: a method that takes a budget is run with each", 5},
    {"target-error", KEY_TARGET, "X", 0,
     "The methods but exact and baseline choose for each head what has at most this relative "
     "error, up to 1; auto needs it", 5},
    {"per-head", KEY_PER_HEAD, NULL, 0, "With --heads-dir: a table of all heads too", 5},
    {"spectral", KEY_SPECTRAL, NULL, 0,
     "The operator norms of error, softmax and values, and the eps of the paper's equation 1", 5},
    {"hardness", KEY_HARDNESS, NULL, 0,
     "The paper's alpha and kappa at each length, and how they grow", 5},
    {"plot", KEY_PLOT, "FILE", 0,
     "Draw error over time as SVG, with gnuplot; -: to standard output, no table", 5},
    {0}};

static void check_input(struct argp_state *state, const compare_options *o)
{
    const measure_options *m = &o->measure;
    const input_files *f = &m->files;
    int files = (f->q != NULL) + (f->k != NULL) + (f->v != NULL);
    if (files != 0 && files != 3)
        argp_error(state, "--q, --k and --v go together");
    if (files && m->heads_dir)
        argp_error(state, "--heads-dir does not go with --q, --k and --v");
    if (files && m->gen.given)
        argp_error(state, "options of generated input do not go with --q, --k and --v");
    if (m->heads_dir && m->gen.given)
        argp_error(state, "options of generated input do not go with --heads-dir");
    if (m->heads_dir && (m->backward || o->spectral || o->hardness))
        argp_error(state, "--backward, --spectral and --hardness do not go with --heads-dir");
    if (o->per_head && !m->heads_dir)
        argp_error(state, "--per-head needs --heads-dir");
}

static void check_options(struct argp_state *state, compare_options *o)
{
    const measure_options *m = &o->measure;
    const output_option outputs[] = {{"--json", m->json}, {"--csv", m->csv}, {"--plot", o->plot}};
    check_input(state, o);
    parse_entries(state, o->methods, o->budgets, &o->entries);
    unsigned are = entries_are(&o->entries);
    if ((are & IS_BASELINE) && !baseline_built_in())
        argp_error(state, "--methods: no baseline, built without OpenBLAS");
    if ((are & TAKES_TARGET) && o->target_error == 0)
        argp_error(state, "--methods: auto needs --target-error");
    if ((are & IS_BASELINE) && m->heads_dir)
        argp_error(state, "--methods: no baseline with --heads-dir");
    if (m->params.given && !(are & TAKES_HYPER) && !o->hardness)
        argp_error(state, "HyperAttention's options need hyper among the methods");
    refuse_same_outputs(state, outputs, 3);
}

static error_t parse_compare(int key, char *text, struct argp_state *state)
{
    compare_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->measure.files;
        state->child_inputs[1] = &o->measure;
        return 0;
    case KEY_METHODS:
        o->methods = text;
        return 0;
    case KEY_BUDGETS:
        o->budgets = text;
        return 0;
    case KEY_TARGET:
        o->target_error = (float)parse_real(state, "--target-error", text, FLT_MIN, 1);
        return 0;
    case KEY_HEADS_DIR:
        o->measure.heads_dir = text;
        return 0;
    case KEY_PER_HEAD:
        o->per_head = true;
        return 0;
    case KEY_SPECTRAL:
        o->spectral = true;
        return 0;
    case KEY_HARDNESS:
        o->hardness = true;
        return 0;
    case KEY_PLOT:
        o->plot = text;
        return 0;
    case ARGP_KEY_END:
        check_options(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&files_argp, 0, NULL, 0}, {&measure_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_compare,
    .children = children,
    .doc =
        "Set methods beside exact attention at each length n: times, speed-up, relative Frobenius "
        "error over all heads, that of the worst head, largest relative error of a row, and the "
        "stages of each method.\v"
        "Input is generated (--gen clustered, 4 heads, --n 4096:32768 by default) unless --q, --k "
        "and --v name .npy files; n is then a prefix of the rows, by default the powers of two "
        "from 1024 on and all rows. --dtype is the type to compute in: files of another type are "
        "converted, and uint16 files, which are taken to hold bf16, need it. Errors are those "
        "against exact attention in f32 of the same (rounded) input.\n"
        "\n"
        "With --heads-dir the table has the median, 90 % and worst relative error over the heads "
        "of all folders, and the sum of their times; n is all rows, or what --n says. --per-head "
        "then also says, with --target-error, what each head got: the step that was taken, how "
        "many were tried, and the error as estimated on the rows by which it was chosen.\n"
        "\n"
        TIMING_DOC " A stage's time is its thread-seconds divided by the threads; 'other' is the "
        "rest of the run, waiting threads included.\n"
        "\n"
        "Beside the errors of all rows, another table has what hyperattn_measure(3) finds on 128 "
        "rows of each head: the relative error with its 95 % interval, alpha and kappa.\n"
        "\n"
        "With --backward another table has backward, for a random gradient of the output: times, "
        "speed-up, that of forward and backward together, and the relative errors of dq, dk and "
        "dv, against those of exact attention in f32. --spectral and --hardness take O(n^2) time "
        "for each head, that of tens of exact runs."};

/* ---- the whole ------------------------------------------------------------------------------ */

static int probe(const compare_options *o)
{
    int status = report_probe(o->measure.json, o->measure.csv);
    if (status == STATUS_OK)
        status = outfile_probe(o->plot);
    return status == STATUS_OK && o->plot ? gnuplot_probe() : status;
}

int cmd_compare(int argc, char **argv)
{
    compare_options o = {.methods = "exact,hyper"};
    measure_options *m = &o.measure;
    gen_defaults(&m->gen, GEN_CLUSTERED, 4);
    parse_arguments(&parser, argc, argv, &o);
    if (!m->files.q && !m->heads_dir && m->gen.lengths.count == 0)
        gen_default_lengths(&m->gen, 4096, 32768);
    int status = probe(&o);
    return status ? status : compare_all(&o);
}
