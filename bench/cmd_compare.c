/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn compare: exact attention against HyperAttention, time and error.
 */
#include <argp.h>
#include <stdlib.h>

#include "attn.h"
#include "baseline.h"
#include "commands.h"
#include "compare.h"
#include "describe.h"
#include "input.h"
#include "memory.h"
#include "message.h"
#include "options.h"
#include "report.h"
#include "timing.h"

/* ---- options -------------------------------------------------------------------------------- */

enum {
    KEY_BASELINE = OPTION_COMMAND,
    KEY_BACKWARD,
    KEY_REPEAT,
    KEY_JSON,
    KEY_CSV
};

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "Measuring and reporting:", 5},
    {"repeat", KEY_REPEAT, "N", 0, "Runs of each method, of which the median counts (3)", 5},
    {"backward", KEY_BACKWARD, NULL, 0,
     "Time backward too, and compare the gradients by q, k and v", 5},
    {"baseline", KEY_BASELINE, NULL, 0,
     "Time the unfused way too, where its n^2 scores fit into half of the memory: OpenBLAS "
     "product, softmax, OpenBLAS product, in f32", 5},
    {"json", KEY_JSON, "FILE", 0, "Write the results as JSON; -: to standard output, no table", 5},
    {"csv", KEY_CSV, "FILE", 0, "Write the results as CSV; -: to standard output, no table", 5},
    {0}};

static void check_input_options(struct argp_state *state, const compare_options *o)
{
    const input_files *f = &o->files;
    int files = (f->q != NULL) + (f->k != NULL) + (f->v != NULL);
    if (files != 0 && files != 3)
        argp_error(state, "--q, --k and --v go together");
    if (files && o->gen.given)
        argp_error(state, "options of generated input do not go with --q, --k and --v");
    if (o->baseline && !baseline_built_in())
        argp_error(state, "--baseline: built without OpenBLAS");
}

static error_t parse_compare(int key, char *text, struct argp_state *state)
{
    compare_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->files;
        state->child_inputs[1] = &o->gen;
        state->child_inputs[2] = &o->problem;
        state->child_inputs[3] = &o->params;
        return 0;
    case KEY_BASELINE:
        o->baseline = true;
        return 0;
    case KEY_BACKWARD:
        o->backward = true;
        return 0;
    case KEY_REPEAT:
        o->repeat = (int)parse_int(state, "--repeat", text, 1, TIMING_MAX_REPEAT);
        return 0;
    case KEY_JSON:
        o->json = text;
        return 0;
    case KEY_CSV:
        o->csv = text;
        return 0;
    case ARGP_KEY_END:
        check_input_options(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{&files_argp, 0, NULL, 0},
                                             {&gen_argp, 0, NULL, 0},
                                             {&problem_argp, 0, NULL, 0},
                                             {&params_argp, 0, NULL, 0},
                                             {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_compare,
    .children = children,
    .doc =
        "Compare HyperAttention with exact attention at each length n: times, speed-up, relative "
        "Frobenius error over all heads, largest relative error of a row, and the stages of "
        "HyperAttention.\v"
        "Input is generated (--gen clustered, 4 heads, --n 4096:32768 by default) unless --q, --k "
        "and --v name .npy files; n is then a prefix of the rows, by default the powers of two "
        "from 1024 on and all rows. --dtype is the type to compute in: files of another type are "
        "converted, and uint16 files, which are taken to hold bf16, need it. Errors are those "
        "against exact attention in f32 of the same (rounded) input.\n"
        "\n"
        "Each method is warmed up and run in turn. A first run of 1 s or more counts as the first "
        "measurement, and repeats end when they have taken 30 s together. A stage's time is its "
        "thread-seconds divided by the threads; 'other' is the rest of the run, waiting threads "
        "included.\n"
        "\n"
        "With --backward a third table has backward, for a random gradient of the output: times, "
        "speed-up, that of forward and backward together, and the relative errors of dq, dk and "
        "dv, against those of exact attention in f32."};

/* ---- results -------------------------------------------------------------------------------- */

enum { MAIN_TABLE, STAGE_TABLE, BACKWARD_TABLE };

static const report_column columns[] = {
    {"n", "n", REPORT_INT, REPORT_EVERY_TABLE, 0, NULL},
    {"queries", "queries", REPORT_INT, MAIN_TABLE, 0, NULL},
    {"exact_seconds", "exact s", REPORT_REAL, MAIN_TABLE, -4, NULL},
    {"hyper_seconds", "hyper s", REPORT_REAL, MAIN_TABLE, -4, NULL},
    {"speedup", "speed-up", REPORT_REAL, MAIN_TABLE, 2, NULL},
    {"rel_error", "rel. error", REPORT_REAL, MAIN_TABLE, -3, NULL},
    {"max_row_error", "worst row", REPORT_REAL, MAIN_TABLE, -3, NULL},
    {"exact_rel_error", "exact's error", REPORT_REAL, MAIN_TABLE, -3, NULL},
    {"baseline_seconds", "baseline s", REPORT_REAL, MAIN_TABLE, -4, NULL},
    {"baseline_rel_error", NULL, REPORT_REAL, 0, 0, NULL},
    {"hash_ms", "hash", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"sort_ms", "sort", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"gather_ms", "gather", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"block_ms", "block", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"sample_ms", "sample", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"leaf_ms", "leaf", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"state_ms", "state", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"other_ms", "other", REPORT_REAL, STAGE_TABLE, 2, NULL},
    {"exact_backward_seconds", "exact s", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"hyper_backward_seconds", "hyper s", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"backward_speedup", "speed-up", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"both_speedup", "with forward", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"dq_rel_error", "dq error", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"dk_rel_error", "dk error", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"dv_rel_error", "dv error", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"exact_dq_rel_error", "exact's dq", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"exact_dk_rel_error", "exact's dk", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"exact_dv_rel_error", "exact's dv", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"hyper_workspace_bytes", NULL, REPORT_INT, 0, 0, NULL},
    {"hyper_backward_workspace_bytes", NULL, REPORT_INT, 0, 0, NULL},
    {"exact_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"hyper_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"exact_backward_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"hyper_backward_runs", NULL, REPORT_INT, 0, 0, NULL},
};

enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- the whole ------------------------------------------------------------------------------ */

/* Lengths of file input: prefixes of the rows. */
static int file_lengths(compare_options *o, const input *in)
{
    length_list *list = &o->gen.lengths;
    if (!in->same_rows) {
        if (list->count)
            return bad_input("--n: prefixes need as many queries as keys, and %s has other rows "
                             "than %s", o->files.q, o->files.k);
        list->n[list->count++] = 0; /* all rows */
        return STATUS_OK;
    }
    if (list->count == 0) {
        gen_default_lengths(&o->gen, 1024, in->q.rows);
        if (list->count == 0 || list->n[list->count - 1] != in->q.rows)
            list->n[list->count++] = in->q.rows;
    }
    if (list->n[list->count - 1] > in->q.rows)
        return bad_input("--n: %lld exceeds the %lld rows of %s",
                         (long long)list->n[list->count - 1], (long long)in->q.rows, o->files.q);
    return STATUS_OK;
}

static int open_input(comparison *c, compare_options *o)
{
    if (o->files.q) {
        const input_dtype type = {
            .given = o->problem.dtype_given, .dtype = o->problem.dtype, .convert = true};
        int status = input_load(&c->in, &o->files, &type);
        return status ? status : file_lengths(o, &c->in);
    }
    if (o->gen.lengths.count == 0)
        gen_default_lengths(&o->gen, 4096, 32768);
    int64_t rows = o->gen.lengths.n[o->gen.lengths.count - 1];
    return input_generate(&c->in, &o->gen.spec, rows, o->problem.dtype);
}

static int open_outcome(outcome *o, const hyperattn_problem *p, bool backward)
{
    o->out = buffer_alloc(attn_out_bytes(p), "output");
    if (!o->out || !backward)
        return o->out ? STATUS_OK : STATUS_FAILED;
    o->lse = buffer_alloc(attn_lse_bytes(p), "log-sum-exp");
    return o->lse ? gradients_alloc(&o->grads, p) : STATUS_FAILED;
}

static void close_outcome(outcome *o)
{
    buffer_free(o->out);
    buffer_free(o->lse);
    gradients_free(&o->grads);
}

/* What needs f32 tensors where the input is of another type. */
static int open_f32(comparison *c, hyperattn_problem *p)
{
    const compare_options *o = c->options;
    int status = STATUS_OK;
    p->dtype = HYPERATTN_F32;
    c->owns_f32 = c->in.q.dtype != HYPERATTN_F32;
    c->in_f32 = c->in;
    c->reference = c->exact;
    if (c->owns_f32) {
        c->reference = (outcome){0};
        status = input_copy_f32(&c->in_f32, &c->in);
        if (status == STATUS_OK)
            status = open_outcome(&c->reference, p, o->backward);
    }
    if (status || !o->baseline)
        return status;
    c->baseline_out = buffer_alloc(attn_out_bytes(p), "output of the baseline");
    return c->baseline_out ? STATUS_OK : STATUS_FAILED;
}

static int open_buffers(comparison *c)
{
    hyperattn_problem p;
    const compare_options *o = c->options;
    c->rows = o->gen.lengths.n[o->gen.lengths.count - 1];
    compare_problem(&p, c, &c->in);
    int status = open_outcome(&c->exact, &p, o->backward);
    if (status == STATUS_OK)
        status = open_outcome(&c->hyper, &p, o->backward);
    return status ? status : open_f32(c, &p);
}

static void close_all(comparison *c)
{
    if (c->owns_f32) {
        input_free(&c->in_f32);
        close_outcome(&c->reference);
    }
    close_outcome(&c->exact);
    close_outcome(&c->hyper);
    buffer_free(c->baseline_out);
    input_free(&c->in);
    report_destroy(c->results);
    hyperattn_ctx_destroy(c->ctx);
}

static int write_files(const comparison *c, const setting *s)
{
    json_t *head = describe_json(s);
    json_object_set_new(head, "causal", json_boolean(c->options->problem.causal));
    json_object_set_new(head, "backward", json_boolean(c->options->backward));
    int status = report_write_json(c->results, c->options->json, head);
    int csv = report_write_csv(c->results, c->options->csv);
    return status ? status : csv;
}

static int compare_all(comparison *c)
{
    const compare_options *o = c->options;
    const setting s = {"compare",   c->ctx,     &c->in,      &o->files,
                       &o->gen,     &o->problem, &c->params, o->repeat};
    bool table = !report_to_stdout(o->json) && !report_to_stdout(o->csv);
    char line[200];
    describe_line(line, sizeof line, &s);
    if (table)
        printf("%s%s\n", line, o->problem.causal ? "; causal" : "");
    report_show(c->results, "queries", !c->in.same_rows);
    report_show(c->results, "exact_rel_error", c->owns_f32);
    report_show(c->results, "exact_dq_rel_error", c->owns_f32);
    report_show(c->results, "exact_dk_rel_error", c->owns_f32);
    report_show(c->results, "exact_dv_rel_error", c->owns_f32);
    report_show(c->results, "baseline_seconds", o->baseline);
    int status = STATUS_OK;
    for (int i = 0; i < o->gen.lengths.count && status == STATUS_OK; i++) {
        status = compare_length(c, o->gen.lengths.n[i]);
        if (status == STATUS_OK && table)
            report_print_last(c->results, MAIN_TABLE, stdout);
    }
    if (table && report_rows(c->results) > 0) {
        printf("\nStages of HyperAttention, ms:\n");
        report_print_all(c->results, STAGE_TABLE, stdout);
        if (o->backward) {
            printf("\nBackward:\n");
            report_print_all(c->results, BACKWARD_TABLE, stdout);
        }
    }
    /* what was measured before a failure is worth keeping */
    int written = report_rows(c->results) > 0 ? write_files(c, &s) : STATUS_OK;
    return status ? status : written;
}

int cmd_compare(int argc, char **argv)
{
    compare_options o = {.repeat = 3};
    gen_defaults(&o.gen, GEN_CLUSTERED, 4);
    parse_arguments(&parser, argc, argv, &o);
    int status = report_probe(o.json, o.csv);
    if (status)
        return status;
    comparison c = {.options = &o};
    params_resolve(&c.params, &o.params);
    c.results = report_create(columns, COLUMNS);
    status = c.results ? attn_context(&c.ctx, o.problem.threads) : STATUS_FAILED;
    if (status == STATUS_OK)
        status = open_input(&c, &o);
    if (status == STATUS_OK)
        status = open_buffers(&c);
    if (status == STATUS_OK)
        status = compare_all(&c);
    close_all(&c);
    return status;
}
