/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn compare: exact attention against HyperAttention, time and error.
 */
#include <argp.h>
#include <stdlib.h>

#include "attn.h"
#include "baseline.h"
#include "commands.h"
#include "context.h"
#include "describe.h"
#include "error.h"
#include "input.h"
#include "memory.h"
#include "message.h"
#include "options.h"
#include "profile.h"
#include "report.h"
#include "timing.h"

/* ---- options -------------------------------------------------------------------------------- */

typedef struct compare_options {
    params_options params;
    problem_options problem;
    input_files files;
    gen_options gen;
    bool baseline;
    int repeat;
    const char *json, *csv;
} compare_options;

enum {
    KEY_BASELINE = OPTION_COMMAND,
    KEY_REPEAT,
    KEY_JSON,
    KEY_CSV
};

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "Measuring and reporting:", 5},
    {"repeat", KEY_REPEAT, "N", 0, "Runs of each method, of which the median counts (3)", 5},
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
        "included."};

/* ---- results -------------------------------------------------------------------------------- */

enum { MAIN_TABLE, STAGE_TABLE };

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
    {"hyper_workspace_bytes", NULL, REPORT_INT, 0, 0, NULL},
    {"exact_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"hyper_runs", NULL, REPORT_INT, 0, 0, NULL},
};

enum { COLUMNS = sizeof columns / sizeof columns[0] };

static const char *const stage_keys[HA_STAGES] = {
    [HA_STAGE_HASH] = "hash_ms",     [HA_STAGE_SORT] = "sort_ms",
    [HA_STAGE_GATHER] = "gather_ms", [HA_STAGE_BLOCK] = "block_ms",
    [HA_STAGE_SAMPLE] = "sample_ms", [HA_STAGE_LEAF] = "leaf_ms",
    [HA_STAGE_STATE] = "state_ms"};

/* Everything that lives through the comparison. */
typedef struct comparison {
    const compare_options *options;
    hyperattn_ctx *ctx;
    hyperattn_params params;
    input in;
    input in_f32;    /* owned only if owns_f32; otherwise the same tensors as in */
    bool owns_f32;
    int64_t rows; /* of the length being measured; 0: all */
    void *exact_out, *hyper_out;
    float *reference; /* exact, f32: exact_out itself if that is f32 */
    float *baseline_out;
    report *results;
} comparison;

static void set_stages(report *r, const attn *hyper, const timed_job *job, int threads)
{
    const ha_profile *profile = &hyper->profile[job->median_call];
    double rest = 1e3 * job->median;
    for (int s = 0; s < HA_STAGES; s++) {
        double ms = 1e3 * profile->seconds[s] / threads;
        report_real(r, stage_keys[s], ms);
        rest -= ms;
    }
    report_real(r, "other_ms", rest);
}

static json_t *head_errors(const double *rel, int64_t heads)
{
    json_t *list = json_array();
    for (int64_t h = 0; h < heads; h++) {
        json_t *value = json_real(rel[h]);
        json_array_append_new(list, value ? value : json_null());
    }
    return list;
}

static int set_errors(comparison *c, const hyperattn_problem *p, bool with_baseline)
{
    int64_t heads = p->batch * p->nheads;
    double *rel = buffer_alloc((size_t)heads * sizeof *rel, "errors of the heads");
    if (!rel)
        return STATUS_FAILED;
    error_stats e;
    error_measure(&e, c->hyper_out, p->dtype, c->reference, heads, p->seqlen_q, p->head_dim_v, rel);
    report_real(c->results, "rel_error", e.rel_error);
    report_real(c->results, "max_row_error", e.max_row_error);
    report_json(c->results, "worst_row", json_pack("{sIsI}", "head", (json_int_t)e.worst_head,
                                                   "row", (json_int_t)e.worst_row));
    report_json(c->results, "head_rel_errors", head_errors(rel, heads));
    buffer_free(rel);
    if (c->owns_f32) {
        error_measure(&e, c->exact_out, p->dtype, c->reference, heads, p->seqlen_q, p->head_dim_v,
                      NULL);
        report_real(c->results, "exact_rel_error", e.rel_error);
    }
    if (with_baseline) {
        error_measure(&e, c->baseline_out, HYPERATTN_F32, c->reference, heads, p->seqlen_q,
                      p->head_dim_v, NULL);
        report_real(c->results, "baseline_rel_error", e.rel_error);
    }
    return STATUS_OK;
}

/* ---- one length ----------------------------------------------------------------------------- */

static void make_problem(hyperattn_problem *p, const comparison *c, const input *in)
{
    input_problem(p, in, c->rows, 0);
    p->causal = c->options->problem.causal;
    p->softmax_scale = c->options->problem.scale;
}

/* The f32 reference where the exact output is not f32. */
static int compute_reference(comparison *c)
{
    if (!c->owns_f32)
        return STATUS_OK;
    hyperattn_problem p;
    hyperattn_params exact = c->params;
    exact.method = HYPERATTN_EXACT;
    make_problem(&p, c, &c->in_f32);
    attn call;
    int status = attn_open(&call, c->ctx, &p, &exact, &c->in_f32, c->reference);
    if (status == STATUS_OK)
        status = attn_run(&call);
    attn_close(&call);
    return status;
}

static bool wants_baseline(const comparison *c, const hyperattn_problem *p)
{
    if (!c->options->baseline)
        return false;
    if (baseline_bytes(p) <= memory_available() / 2)
        return true;
    note("n = %lld: no baseline, its scores would fill more than half of the memory",
         (long long)p->seqlen_k);
    return false;
}

static int fill_row(comparison *c, const hyperattn_problem *p, const timed_job *jobs, int count)
{
    const attn *hyper = jobs[1].arg;
    report *r = c->results;
    int status = report_row(r);
    if (status)
        return status;
    report_int(r, "n", p->seqlen_k);
    report_int(r, "queries", p->seqlen_q);
    report_real(r, "exact_seconds", jobs[0].median);
    report_real(r, "hyper_seconds", jobs[1].median);
    report_real(r, "speedup", jobs[0].median / jobs[1].median);
    report_int(r, "exact_runs", jobs[0].calls - jobs[0].first);
    report_int(r, "hyper_runs", jobs[1].calls - jobs[1].first);
    report_int(r, "hyper_workspace_bytes", (int64_t)hyper->workspace_bytes);
    if (count > 2)
        report_real(r, "baseline_seconds", jobs[2].median);
    set_stages(r, hyper, &jobs[1], c->ctx->nthreads);
    return set_errors(c, p, count > 2);
}

static int measure(comparison *c, const hyperattn_problem *p, attn *exact, attn *hyper,
                   baseline *unfused)
{
    hyperattn_params params = c->params;
    params.method = HYPERATTN_EXACT;
    int status = attn_open(exact, c->ctx, p, &params, &c->in, c->exact_out);
    params.method = HYPERATTN_HYPER;
    if (status == STATUS_OK)
        status = attn_open(hyper, c->ctx, p, &params, &c->in, c->hyper_out);
    timed_job jobs[3] = {{.name = "exact", .run = attn_run, .arg = exact},
                         {.name = "HyperAttention", .run = attn_run, .arg = hyper},
                         {.name = "baseline", .run = baseline_run, .arg = unfused}};
    int count = 2;
    if (status == STATUS_OK && wants_baseline(c, p)) {
        hyperattn_problem p32;
        make_problem(&p32, c, &c->in_f32);
        status = baseline_open(unfused, &p32, &c->in_f32, c->baseline_out, c->ctx->nthreads);
        count = 3;
    }
    char label[32];
    snprintf(label, sizeof label, "n = %lld", (long long)p->seqlen_k);
    if (status == STATUS_OK)
        status = timing_run(jobs, count, c->options->repeat, label);
    if (status == STATUS_OK)
        status = compute_reference(c);
    return status ? status : fill_row(c, p, jobs, count);
}

static int compare_length(comparison *c, int64_t rows)
{
    hyperattn_problem p;
    c->rows = rows;
    make_problem(&p, c, &c->in);
    attn exact = {0}, hyper = {0};
    baseline unfused = {0};
    int status = measure(c, &p, &exact, &hyper, &unfused);
    attn_close(&exact);
    attn_close(&hyper);
    baseline_close(&unfused);
    return status;
}

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

static int open_buffers(comparison *c)
{
    hyperattn_problem p;
    const length_list *lengths = &c->options->gen.lengths;
    c->rows = lengths->n[lengths->count - 1];
    make_problem(&p, c, &c->in);
    size_t bytes = attn_out_bytes(&p);
    p.dtype = HYPERATTN_F32;
    size_t bytes_f32 = attn_out_bytes(&p);
    c->exact_out = buffer_alloc(bytes, "exact output");
    c->hyper_out = buffer_alloc(bytes, "HyperAttention's output");
    if (!c->exact_out || !c->hyper_out)
        return STATUS_FAILED;
    c->owns_f32 = c->in.q.dtype != HYPERATTN_F32;
    c->in_f32 = c->in;
    c->reference = c->exact_out;
    if (c->owns_f32) {
        int status = input_copy_f32(&c->in_f32, &c->in);
        if (status)
            return status;
        c->reference = buffer_alloc(bytes_f32, "f32 reference");
    }
    if (c->options->baseline)
        c->baseline_out = buffer_alloc(bytes_f32, "output of the baseline");
    return !c->reference || (c->options->baseline && !c->baseline_out) ? STATUS_FAILED : STATUS_OK;
}

static void close_all(comparison *c)
{
    if (c->owns_f32) {
        input_free(&c->in_f32);
        buffer_free(c->reference);
    }
    buffer_free(c->exact_out);
    buffer_free(c->hyper_out);
    buffer_free(c->baseline_out);
    input_free(&c->in);
    report_destroy(c->results);
    hyperattn_ctx_destroy(c->ctx);
}

static int write_files(const comparison *c, const setting *s)
{
    json_t *head = describe_json(s);
    json_object_set_new(head, "causal", json_boolean(c->options->problem.causal));
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
