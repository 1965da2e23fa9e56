/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn measure: how far an output is from exact attention, from some rows of each head.
 */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>

#include "attn.h"
#include "commands.h"
#include "convert.h"
#include "input.h"
#include "internals.h"
#include "memory.h"
#include "message.h"
#include "options.h"
#include "outfile.h"
#include "progress.h"
#include "report.h"
#include "values.h"

typedef struct measure_command {
    params_options params;
    problem_options problem;
    input_files files; /* dout: the output that is measured, or NULL */
    method_options method;
    int64_t rows;
    const char *json, *csv;
} measure_command;

enum {
    KEY_OUT = OPTION_COMMAND,
    KEY_ROWS,
    KEY_JSON,
    KEY_CSV
};

static const struct argp_option option_list[] = {
    {"out", KEY_OUT, "FILE", 0,
     "The output to measure, [[batch,] heads,] query rows, value dim; same type. Without it, that "
     "of --method is computed", 1},
    {NULL, 0, NULL, 0, "Measuring and reporting:", 5},
    {"rows", KEY_ROWS, "N", 0, "Rows of each head that are computed exactly (128)", 5},
    {"json", KEY_JSON, "FILE", 0, "Write the results as JSON; -: to standard output, no table", 5},
    {"csv", KEY_CSV, "FILE", 0, "Write the results as CSV; -: to standard output, no table", 5},
    {0}};

static void check_options(struct argp_state *state, const measure_command *o)
{
    const output_option outputs[] = {{"--json", o->json}, {"--csv", o->csv}};
    if (!o->files.q || !o->files.k || !o->files.v)
        argp_error(state, "--q, --k and --v are required");
    if (o->files.dout && (o->method.given || o->method.target_error > 0))
        argp_error(state, "--method and --target-error are not for a given --out");
    refuse_unread(state, &o->params, &o->method);
    refuse_same_outputs(state, outputs, 2);
}

static error_t parse_measure(int key, char *text, struct argp_state *state)
{
    measure_command *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->files;
        state->child_inputs[1] = &o->problem;
        state->child_inputs[2] = &o->params;
        state->child_inputs[3] = &o->method;
        return 0;
    case KEY_OUT:
        o->files.dout = text;
        return 0;
    case KEY_ROWS:
        o->rows = (int64_t)parse_whole(state, "--rows", text, 1, INT64_MAX);
        return 0;
    case KEY_JSON:
        o->json = text;
        return 0;
    case KEY_CSV:
        o->csv = text;
        return 0;
    case ARGP_KEY_END:
        check_options(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&files_argp, 0, NULL, 0}, {&problem_argp, 0, NULL, 0}, {&params_argp, 0, NULL, 0},
    {&method_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_measure,
    .children = children,
    .doc = "Compute some rows of each head exactly and say how far an output is from them: "
           "relative Frobenius error with its 95 % interval, largest error of a row, and the "
           "paper's two parameters of hardness, alpha and kappa.\v"
           "The files are those of hyperattn run. Without --out, the output of --method (hyper) is "
           "computed. The rows are drawn by --seed. "
           "hyperattn_measure(3) says what the figures mean."};

/* ---- results -------------------------------------------------------------------------------- */

static const report_column columns[] = {
    {"head", "head", REPORT_TEXT, 0, 0, NULL},
    {"rel_error", "rel. error", REPORT_REAL, 0, -3, NULL},
    {"rel_error_low", "at least", REPORT_REAL, 0, -3, NULL},
    {"rel_error_high", "at most", REPORT_REAL, 0, -3, NULL},
    {"max_row_error", "worst row", REPORT_REAL, 0, -3, NULL},
    {"alpha", "alpha", REPORT_REAL, 0, -4, NULL},
    {"kappa", "kappa", REPORT_REAL, 0, -4, NULL},
    {"rows_checked", "rows", REPORT_INT, 0, 0, NULL},
};

static int add_row(report *r, const char *head, const hyperattn_report *found)
{
    int status = report_row(r);
    if (status)
        return status;
    report_text(r, "head", head);
    report_real(r, "rel_error", found->rel_error);
    report_real(r, "rel_error_low", found->rel_error_low);
    report_real(r, "rel_error_high", found->rel_error_high);
    report_real(r, "max_row_error", found->max_row_error);
    report_real(r, "alpha", found->alpha);
    report_real(r, "kappa", found->kappa);
    report_int(r, "rows_checked", found->rows_checked);
    return STATUS_OK;
}

static json_t *head_json(const measure_command *o, const hyperattn_params *params,
                         const hyperattn_ctx *ctx)
{
    json_t *root = json_object();
    json_object_set_new(root, "command", json_string("measure"));
    json_object_set_new(root, "version", json_string(hyperattn_version()));
    json_object_set_new(root, "backend", json_string(hyperattn_ctx_backend(ctx)));
    json_object_set_new(root, "level", json_string(hyperattn_ctx_isa(ctx)));
    json_object_set_new(root, "threads", json_integer(context_threads(ctx)));
    json_object_set_new(root, "q", json_string(o->files.q));
    json_object_set_new(root, "k", json_string(o->files.k));
    json_object_set_new(root, "v", json_string(o->files.v));
    json_object_set_new(root, "out", o->files.dout ? json_string(o->files.dout) : json_null());
    json_object_set_new(root, "method", json_string(method_name(params->method)));
    if (params->budget)
        json_object_set_new(root, "budget", json_integer(params->budget));
    json_object_set_new(root, "causal", json_boolean(o->problem.causal));
    json_object_set_new(root, "rows", json_integer((json_int_t)o->rows));
    json_object_set_new(root, "params", params_json(params));
    return root;
}

/* A table, unless standard output is needed for one of the files. */
static int write_results(const measure_command *o, const report *r, json_t *head)
{
    if (!outfile_is_dash(o->json) && !outfile_is_dash(o->csv))
        report_print_all(r, 0, stdout);
    int json = report_write_json(r, o->json, head);
    int csv = report_write_csv(r, o->csv);
    return json ? json : csv;
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* heads: the last is the total. */
static int fill_report(report *r, const hyperattn_report *heads, int64_t count)
{
    int status = STATUS_OK;
    for (int64_t h = 0; h < count && status == STATUS_OK; h++) {
        char name[24];
        snprintf(name, sizeof name, "%" PRId64, h);
        status = add_row(r, name, &heads[h]);
    }
    return status ? status : add_row(r, "all", &heads[count]);
}

/* Measures the output of call, once it is there, and reports. */
static int measure(const measure_command *o, const attn *call, const hyperattn_params *params,
                   const hyperattn_ctx *ctx, int64_t heads)
{
    const input *in = call->in;
    hyperattn_report *found = buffer_alloc((size_t)(heads + 1) * sizeof *found, "reports");
    report *r = found ? report_create(columns, sizeof columns / sizeof columns[0]) : NULL;
    int status = r ? STATUS_OK : STATUS_FAILED;
    if (status == STATUS_OK) {
        hyperattn_report_init(&found[0]);
        hyperattn_report_init(&found[heads]);
        hyperattn_status error =
            hyperattn_measure(call->plan, in->q.data, in->k.data, in->v.data, call->result.out,
                              o->rows, &found[heads], found);
        status = error ? library_failed("measuring", error) : STATUS_OK;
    }
    progress_clear();
    if (status == STATUS_OK)
        status = fill_report(r, found, heads);
    if (status == STATUS_OK)
        status = write_results(o, r, head_json(o, params, ctx));
    report_destroy(r);
    buffer_free(found);
    return status;
}

static int compute(const measure_command *o, const input *in)
{
    hyperattn_problem p;
    hyperattn_params params;
    hyperattn_ctx *ctx = NULL;
    outcome own = {0};
    attn call = {0};
    params_resolve(&params, &o->params);
    method_resolve(&params, &o->method);
    input_problem(&p, in, 0, 0);
    p.causal = o->problem.causal;
    p.softmax_scale = o->problem.scale;
    int status = attn_context(&ctx, o->problem.threads);
    if (status == STATUS_OK && !in->dout.data)
        status = outcome_open(&own, &p, false, false);
    const outcome given = {.out = in->dout.data};
    if (status == STATUS_OK)
        status = attn_open(&call, ctx, &p, &params, in, in->dout.data ? &given : &own);
    progress("measuring");
    if (status == STATUS_OK && !in->dout.data)
        status = attn_run(&call, 0);
    if (status == STATUS_OK)
        status = measure(o, &call, &params, ctx, p.batch * p.nheads);
    progress_clear();
    attn_close(&call);
    outcome_close(&own);
    hyperattn_ctx_destroy(ctx);
    return status;
}

int cmd_measure(int argc, char **argv)
{
    measure_command o = {.method.method = HYPERATTN_HYPER, .rows = 128};
    parse_arguments(&parser, argc, argv, &o);
    int status = report_probe(o.json, o.csv);
    if (status)
        return status;
    input in;
    const input_dtype type = {.given = o.problem.dtype_given, .dtype = o.problem.dtype};
    status = input_load(&in, &o.files, &type);
    if (status == STATUS_OK)
        status = compute(&o, &in);
    input_free(&in);
    return status;
}
