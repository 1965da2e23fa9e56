/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn compare: exact attention against HyperAttention, time and error.
 */
#include <argp.h>
#include <stdio.h>

#include "baseline.h"
#include "commands.h"
#include "compare.h"
#include "describe.h"
#include "message.h"
#include "options.h"
#include "report.h"

/* ---- options -------------------------------------------------------------------------------- */

typedef struct compare_options {
    measure_options measure;
    int what; /* MEASURE_... */
} compare_options;

enum { KEY_BASELINE = OPTION_COMMAND };

static const struct argp_option option_list[] = {
    {"baseline", KEY_BASELINE, NULL, 0,
     "Time the unfused way too, where its n^2 scores fit into half of the memory: OpenBLAS "
     "product, softmax, OpenBLAS product, in f32", 5},
    {0}};

static void check_options(struct argp_state *state, const compare_options *o)
{
    const measure_options *m = &o->measure;
    const input_files *f = &m->files;
    const output_option outputs[] = {{"--json", m->json}, {"--csv", m->csv}};
    int files = (f->q != NULL) + (f->k != NULL) + (f->v != NULL);
    if (files != 0 && files != 3)
        argp_error(state, "--q, --k and --v go together");
    if (files && m->gen.given)
        argp_error(state, "options of generated input do not go with --q, --k and --v");
    if ((o->what & MEASURE_BASELINE) && !baseline_built_in())
        argp_error(state, "--baseline: built without OpenBLAS");
    refuse_same_outputs(state, outputs, 2);
}

static error_t parse_compare(int key, char *text, struct argp_state *state)
{
    compare_options *o = state->input;
    (void)text;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->measure.files;
        state->child_inputs[1] = &o->measure;
        return 0;
    case KEY_BASELINE:
        o->what |= MEASURE_BASELINE;
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
        "Compare HyperAttention with exact attention at each length n: times, speed-up, relative "
        "Frobenius error over all heads, largest relative error of a row, and the stages of "
        "HyperAttention.\v"
        "Input is generated (--gen clustered, 4 heads, --n 4096:32768 by default) unless --q, --k "
        "and --v name .npy files; n is then a prefix of the rows, by default the powers of two "
        "from 1024 on and all rows. --dtype is the type to compute in: files of another type are "
        "converted, and uint16 files, which are taken to hold bf16, need it. Errors are those "
        "against exact attention in f32 of the same (rounded) input.\n"
        "\n"
        TIMING_DOC " A stage's time is its thread-seconds divided by the threads; 'other' is the "
        "rest of the run, waiting threads included.\n"
        "\n"
        "With --backward a third table has backward, for a random gradient of the output: times, "
        "speed-up, that of forward and backward together, and the relative errors of dq, dk and "
        "dv, against those of exact attention in f32.\n"
        "\n"
        "Beside the errors of all rows, another table has what hyperattn_measure(3) finds on 128 "
        "rows of each head: the relative error with its 95 % interval, alpha and kappa."};

/* ---- results -------------------------------------------------------------------------------- */

enum { MAIN_TABLE, STAGE_TABLE, BACKWARD_TABLE, MEASURED_TABLE };

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
    {"measured_error", "rel. error", REPORT_REAL, MEASURED_TABLE, -3, NULL},
    {"measured_error_low", "at least", REPORT_REAL, MEASURED_TABLE, -3, NULL},
    {"measured_error_high", "at most", REPORT_REAL, MEASURED_TABLE, -3, NULL},
    {"alpha", "alpha", REPORT_REAL, MEASURED_TABLE, -4, NULL},
    {"kappa", "kappa", REPORT_REAL, MEASURED_TABLE, -4, NULL},
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
static int file_lengths(measure_options *o, const input *in)
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
        if (list->count == 0 || longest(list) != in->q.rows)
            list->n[list->count++] = in->q.rows;
    }
    if (longest(list) > in->q.rows)
        return bad_input("--n: %lld exceeds the %lld rows of %s", (long long)longest(list),
                         (long long)in->q.rows, o->files.q);
    return STATUS_OK;
}

static int write_files(const comparison *c)
{
    json_t *head = describe_json(&c->m);
    json_object_set_new(head, "causal", json_boolean(c->m.options->problem.causal));
    json_object_set_new(head, "backward", json_boolean(c->m.options->backward));
    return measurement_write(&c->m, head);
}

static void show_columns(const comparison *c)
{
    static const char *const other_type[] = {"exact_rel_error", "exact_dq_rel_error",
                                             "exact_dk_rel_error", "exact_dv_rel_error", NULL};
    report *r = c->m.results;
    report_show(r, "queries", !c->m.in.same_rows);
    report_show(r, "baseline_seconds", c->m.what & MEASURE_BASELINE);
    for (const char *const *key = other_type; *key; key++)
        report_show(r, *key, !measurement_is_f32(&c->m));
}

static void print_more_tables(const comparison *c)
{
    printf("\nStages of HyperAttention, ms:\n");
    report_print_all(c->m.results, STAGE_TABLE, stdout);
    printf("\nMeasured on %d rows of each head:\n", COMPARE_ROWS);
    report_print_all(c->m.results, MEASURED_TABLE, stdout);
    if (!c->m.options->backward)
        return;
    printf("\nBackward:\n");
    report_print_all(c->m.results, BACKWARD_TABLE, stdout);
}

static int compare_all(comparison *c)
{
    const measure_options *o = c->m.options;
    bool table = c->m.prints;
    char line[200];
    describe_line(line, sizeof line, &c->m);
    if (table)
        printf("%s%s\n", line, o->problem.causal ? "; causal" : "");
    show_columns(c);
    int status = STATUS_OK;
    for (int i = 0; i < o->gen.lengths.count && status == STATUS_OK; i++) {
        status = compare_length(c, o->gen.lengths.n[i]);
        if (status == STATUS_OK && table)
            report_print_last(c->m.results, MAIN_TABLE, stdout);
    }
    if (table && report_rows(c->m.results) > 0)
        print_more_tables(c);
    /* what was measured before a failure is worth keeping */
    int written = write_files(c);
    return status ? status : written;
}

int cmd_compare(int argc, char **argv)
{
    compare_options o = {.what = MEASURE_EXACT | MEASURE_HYPER};
    measure_options *m = &o.measure;
    gen_defaults(&m->gen, GEN_CLUSTERED, 4);
    parse_arguments(&parser, argc, argv, &o);
    if (!m->files.q && m->gen.lengths.count == 0)
        gen_default_lengths(&m->gen, 4096, 32768);
    int status = report_probe(m->json, m->csv);
    if (status)
        return status;
    comparison c = {.profiles = NULL};
    status = measurement_open(&c.m, "compare", m, o.what, columns, COLUMNS);
    if (status == STATUS_OK && m->files.q)
        status = file_lengths(m, &c.m.in);
    if (status == STATUS_OK)
        status = compare_open(&c);
    if (status == STATUS_OK)
        status = compare_all(&c);
    compare_close(&c);
    return status;
}
