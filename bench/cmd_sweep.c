/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn sweep: times over the sequence length, forward or forward and backward.
 */
#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "attn.h"
#include "baseline.h"
#include "commands.h"
#include "context.h"
#include "describe.h"
#include "memory.h"
#include "message.h"
#include "options.h"
#include "outfile.h"
#include "plot.h"
#include "report.h"
#include "sweep.h"
#include "timing.h"

/* ---- options -------------------------------------------------------------------------------- */

enum {
    KEY_NO_CAUSAL = OPTION_COMMAND,
    KEY_METHODS,
    KEY_REPEAT,
    KEY_MAX_N,
    KEY_BUDGET,
    KEY_BACKWARD,
    KEY_PEAK,
    KEY_JSON,
    KEY_CSV,
    KEY_PLOT
};

static const struct argp_option option_list[] = {
    {"no-causal", KEY_NO_CAUSAL, NULL, 0, "Not causal only; without this and --causal, both", 4},
    {NULL, 0, NULL, 0, "Measuring and reporting:", 5},
    {"methods", KEY_METHODS, "LIST", 0,
     "exact, hyper, baseline (unfused, OpenBLAS, f32), separated by commas (exact,hyper)", 5},
    {"backward", KEY_BACKWARD, NULL, 0,
     "Time backward too, each beside its forward, and compare the two together", 5},
    {"repeat", KEY_REPEAT, "N", 0, "Runs of each method, of which the median counts (3)", 5},
    {"exact-budget", KEY_BUDGET, "SECONDS", 0,
     "Longest run of exact attention, with its backward if that is timed: above it one head is "
     "timed, above it for one head none (60; 210 with --backward)", 5},
    {"exact-max-n", KEY_MAX_N, "N", 0, "No exact attention above this length (none)", 5},
    {"peak", KEY_PEAK, NULL, 0,
     "Measure the multiply-add peak beside each run, and exact attention's share of it", 5},
    {"json", KEY_JSON, "FILE", 0, "Write the results as JSON; -: to standard output, no table", 5},
    {"csv", KEY_CSV, "FILE", 0, "Write the results as CSV; -: to standard output, no table", 5},
    {"plot", KEY_PLOT, "FILE", 0, "Draw times and speed-ups as SVG, with gnuplot", 5},
    {0}};

static int parse_methods(struct argp_state *state, const char *text)
{
    static const struct {
        const char *name;
        int flag;
    } known[] = {{"exact", SWEEP_EXACT}, {"hyper", SWEEP_HYPER}, {"baseline", SWEEP_BASELINE}};
    int methods = 0;
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        int flag = 0;
        for (int i = 0; i < 3; i++) {
            if (strlen(known[i].name) == length && memcmp(known[i].name, at, length) == 0)
                flag = known[i].flag;
        }
        if (!flag)
            argp_error(state, "--methods %s: need exact, hyper or baseline", text);
        methods |= flag;
        if (!at[length])
            return methods;
        at += length + 1;
    }
}

static error_t parse_sweep(int key, char *text, struct argp_state *state)
{
    sweep_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->gen;
        state->child_inputs[1] = &o->problem;
        state->child_inputs[2] = &o->params;
        return 0;
    case KEY_NO_CAUSAL:
        o->no_causal = true;
        return 0;
    case KEY_METHODS:
        o->methods = parse_methods(state, text);
        return 0;
    case KEY_REPEAT:
        o->repeat = (int)parse_int(state, "--repeat", text, 1, TIMING_MAX_REPEAT);
        return 0;
    case KEY_MAX_N:
        o->exact_max_n = parse_int(state, "--exact-max-n", text, 0, INT64_MAX);
        return 0;
    case KEY_BUDGET:
        o->exact_budget = parse_real(state, "--exact-budget", text, 0, 1e9);
        return 0;
    case KEY_BACKWARD:
        o->backward = true;
        return 0;
    case KEY_PEAK:
        o->peak = true;
        return 0;
    case KEY_JSON:
        o->json = text;
        return 0;
    case KEY_CSV:
        o->csv = text;
        return 0;
    case KEY_PLOT:
        o->plot = text;
        return 0;
    case ARGP_KEY_END:
        if ((o->methods & SWEEP_BASELINE) && !baseline_built_in())
            argp_error(state, "--methods: no baseline, built without OpenBLAS");
        if ((o->methods & SWEEP_BASELINE) && o->backward)
            argp_error(state, "--methods: the baseline has no backward");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&gen_argp, 0, NULL, 0}, {&problem_argp, 0, NULL, 0}, {&params_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_sweep,
    .children = children,
    .doc =
        "Time exact attention and HyperAttention over the sequence length, causal and not. The "
        "defaults, 12 heads of dim 64 and n from 4096 to 131072, are the single-layer figure of "
        "the HyperAttention paper (forward, or with --backward forward and backward).\v"
        "Input is generated (--gen gauss by default), once for the longest n; shorter ones are "
        "its prefixes.\n"
        "\n"
        "Each method is warmed up and run in turn. A first run of 1 s or more counts as the first "
        "measurement, and repeats end when they have taken 30 s together.\n"
        "\n"
        "Where exact attention over all heads would exceed --exact-budget, as predicted from the "
        "runs before, the first head alone is timed (with all threads) and its time is multiplied "
        "by the number of heads. Such rows are marked with '*' in the table, with hollow points "
        "in the figure, and with \"scaled\": true in JSON and 1 in CSV. HyperAttention is always "
        "timed on all heads.\n"
        "\n"
        "GFLOP/s counts 2 n^2 (dim + value dim) per head, half of it when causal. 'growth' is "
        "HyperAttention's time over that at half the length; 'ws/qkv' is its workspace over the "
        "size of q, k and v. --peak measures the bf16 dot product peak for bf16 where the "
        "instruction-set level has one, the f32 FMA peak otherwise.\n"
        "\n"
        "With --backward the table has forward, backward and both of each method, and the "
        "speed-up and growth of both. GFLOP/s and the share of the peak are then those of the "
        "exact backward: 2 n^2 (3 dim + 2 value dim) per head. Workspaces are those of backward. "
        "JSON and CSV have all figures. The gradient of the output is random."};

/* ---- results -------------------------------------------------------------------------------- */

enum { FORWARD_TABLE, BACKWARD_TABLE, BOTH_TABLES = REPORT_EVERY_TABLE };

static const report_column columns[] = {
    {"causal", "causal", REPORT_BOOL, BOTH_TABLES, 0, NULL},
    {"n", "n", REPORT_INT, BOTH_TABLES, 0, NULL},
    {"exact_seconds", "exact s", REPORT_REAL, BOTH_TABLES, -4, "scaled"},
    {"exact_backward_seconds", "backward", REPORT_REAL, BACKWARD_TABLE, -4, "scaled"},
    {"exact_both_seconds", "both", REPORT_REAL, BACKWARD_TABLE, -4, "scaled"},
    {"exact_gflops", "GFLOP/s", REPORT_REAL, FORWARD_TABLE, 1, NULL},
    {"exact_backward_gflops", "GFLOP/s", REPORT_REAL, BACKWARD_TABLE, 1, NULL},
    {"peak_gflops", "peak", REPORT_REAL, BOTH_TABLES, 1, NULL},
    {"exact_peak_share", "share", REPORT_REAL, FORWARD_TABLE, 3, NULL},
    {"exact_backward_peak_share", "share", REPORT_REAL, BACKWARD_TABLE, 3, NULL},
    {"exact_backward_workspace_ratio", "ws/qkv", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"baseline_seconds", "baseline s", REPORT_REAL, FORWARD_TABLE, -4, "scaled"},
    {"hyper_seconds", "hyper s", REPORT_REAL, BOTH_TABLES, -4, NULL},
    {"hyper_backward_seconds", "backward", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"hyper_both_seconds", "both", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"hyper_growth", "growth", REPORT_REAL, FORWARD_TABLE, 2, NULL},
    {"hyper_both_growth", "growth", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"speedup", "speed-up", REPORT_REAL, FORWARD_TABLE, 2, "scaled"},
    {"backward_speedup", NULL, REPORT_REAL, 0, 0, NULL},
    {"both_speedup", "speed-up", REPORT_REAL, BACKWARD_TABLE, 2, "scaled"},
    {"hyper_workspace_ratio", "ws/qkv", REPORT_REAL, FORWARD_TABLE, 2, NULL},
    {"hyper_backward_workspace_ratio", "ws/qkv", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"scaled", NULL, REPORT_BOOL, 0, 0, NULL},
    {"exact_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"exact_backward_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"hyper_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"hyper_backward_runs", NULL, REPORT_INT, 0, 0, NULL},
};

enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- the whole ------------------------------------------------------------------------------ */

/* What backward needs beside the output. */
static int open_backward(sweep *s, const hyperattn_problem *p)
{
    int status = input_generate_dout(&s->in, &s->options->gen.spec, p->seqlen_q);
    if (status == STATUS_OK)
        status = gradients_alloc(&s->grads, p);
    if (status)
        return status;
    s->hyper_out = buffer_alloc(attn_out_bytes(p), "HyperAttention's output");
    s->exact_lse = buffer_alloc(attn_lse_bytes(p), "log-sum-exp");
    s->hyper_lse = buffer_alloc(attn_lse_bytes(p), "HyperAttention's log-sum-exp");
    return s->hyper_out && s->exact_lse && s->hyper_lse ? STATUS_OK : STATUS_FAILED;
}

static int open_all(sweep *s)
{
    const sweep_options *o = s->options;
    int64_t rows = o->gen.lengths.n[o->gen.lengths.count - 1];
    int status = input_generate(&s->in, &o->gen.spec, rows, o->problem.dtype);
    if (status)
        return status;
    hyperattn_problem p;
    sweep_problem(&p, s, &s->in, false, 0, 0);
    s->out = buffer_alloc(attn_out_bytes(&p), "output");
    if (!s->out)
        return STATUS_FAILED;
    s->hyper_out = s->out;
    if (o->backward)
        status = open_backward(s, &p);
    if (status)
        return status;
    if (o->peak)
        peak_open(&s->peak, o->problem.dtype, s->ctx->device.nthreads);
    s->in_f32 = s->in;
    if (!(o->methods & SWEEP_BASELINE))
        return STATUS_OK;
    s->owns_f32 = o->problem.dtype != HYPERATTN_F32;
    if (s->owns_f32)
        status = input_copy_f32(&s->in_f32, &s->in);
    if (status)
        return status;
    p.dtype = HYPERATTN_F32;
    s->baseline_out = buffer_alloc(attn_out_bytes(&p), "output of the baseline");
    return s->baseline_out ? STATUS_OK : STATUS_FAILED;
}

static void close_all(sweep *s)
{
    if (s->owns_f32)
        input_free(&s->in_f32);
    input_free(&s->in);
    if (s->hyper_out != s->out)
        buffer_free(s->hyper_out);
    buffer_free(s->out);
    buffer_free(s->exact_lse);
    buffer_free(s->hyper_lse);
    gradients_free(&s->grads);
    buffer_free(s->baseline_out);
    report_destroy(s->results);
    hyperattn_ctx_destroy(s->ctx);
}

static int sweep_mask(sweep *s, bool causal, bool table)
{
    const length_list *lengths = &s->options->gen.lengths;
    int status = STATUS_OK;
    if (s->options->methods & (SWEEP_EXACT | SWEEP_BASELINE))
        status = sweep_probe(s, causal);
    for (int i = 0; i < lengths->count && status == STATUS_OK; i++) {
        status = sweep_length(s, causal, lengths->n[i]);
        if (status == STATUS_OK && table)
            report_print_last(s->results, s->options->backward ? BACKWARD_TABLE : FORWARD_TABLE,
                              stdout);
    }
    return status;
}

static int write_files(const sweep *s, const setting *set, const char *line)
{
    const sweep_options *o = s->options;
    json_t *head = describe_json(set);
    json_object_set_new(head, "backward", json_boolean(o->backward));
    json_object_set_new(head, "exact_budget_seconds", json_real(o->exact_budget));
    json_object_set_new(head, "peak", o->peak ? json_string(s->peak.name) : json_null());
    json_object_set_new(head, "scaled_means",
                        json_string("seconds of exact attention and of the baseline are those "
                                    "of one head, multiplied by the number of heads"));
    int status = report_write_json(s->results, o->json, head);
    int csv = report_write_csv(s->results, o->csv);
    int plot = o->plot ? plot_sweep(s->results, o->backward, line, o->plot) : STATUS_OK;
    return status ? status : csv ? csv : plot;
}

static bool any_scaled(const report *r)
{
    bool any = false;
    for (int i = 0; i < report_rows(r); i++)
        any |= report_value(r, i, "scaled") == 1;
    return any;
}

static void show(report *r, bool shown, const char *const *keys)
{
    for (; *keys; keys++)
        report_show(r, *keys, shown);
}

static void show_columns(const sweep *s)
{
    static const char *const exact[] = {
        "exact_seconds", "exact_backward_seconds", "exact_both_seconds", "exact_gflops",
        "exact_backward_gflops", "exact_backward_workspace_ratio", NULL};
    static const char *const share[] = {"peak_gflops", "exact_peak_share",
                                        "exact_backward_peak_share", NULL};
    static const char *const hyper[] = {
        "hyper_seconds", "hyper_backward_seconds", "hyper_both_seconds", "hyper_growth",
        "hyper_both_growth", "hyper_workspace_ratio", "hyper_backward_workspace_ratio", NULL};
    static const char *const speedup[] = {"speedup", "both_speedup", NULL};
    int methods = s->options->methods;
    bool has_exact = methods & SWEEP_EXACT, has_hyper = methods & SWEEP_HYPER;
    show(s->results, has_exact, exact);
    show(s->results, has_exact && s->options->peak, share);
    report_show(s->results, "baseline_seconds", methods & SWEEP_BASELINE);
    show(s->results, has_hyper, hyper);
    show(s->results, has_exact && has_hyper, speedup);
}

static int sweep_all(sweep *s)
{
    const sweep_options *o = s->options;
    const input_files no_files = {0};
    const setting set = {"sweep", s->ctx,     &s->in,     &no_files,
                         &o->gen, &o->problem, &s->params, o->repeat};
    bool table = !report_to_stdout(o->json) && !report_to_stdout(o->csv);
    char line[200];
    describe_line(line, sizeof line, &set);
    if (o->backward) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "; forward and backward");
    }
    show_columns(s);
    if (table)
        printf("%s%s%s\n", line, o->peak ? "; peak: " : "", o->peak ? s->peak.name : "");
    int status = STATUS_OK;
    if (!o->problem.causal || o->no_causal)
        status = sweep_mask(s, false, table);
    if (status == STATUS_OK && (!o->no_causal || o->problem.causal))
        status = sweep_mask(s, true, table);
    if (table && any_scaled(s->results))
        printf("* one head timed, multiplied by %lld\n", (long long)s->in.q.heads);
    /* what was measured before a failure is worth keeping */
    int written = report_rows(s->results) > 0 ? write_files(s, &set, line) : STATUS_OK;
    return status ? status : written;
}

int cmd_sweep(int argc, char **argv)
{
    sweep_options o = {.methods = SWEEP_EXACT | SWEEP_HYPER,
                       .repeat = 3,
                       .exact_max_n = INT64_MAX,
                       .exact_budget = -1};
    gen_defaults(&o.gen, GEN_GAUSS, 12);
    parse_arguments(&parser, argc, argv, &o);
    /* forward and backward have 3.5 times the operations: the same rows are timed */
    if (o.exact_budget < 0)
        o.exact_budget = o.backward ? 210 : 60;
    if (o.gen.lengths.count == 0)
        gen_default_lengths(&o.gen, 4096, 131072);
    int status = report_probe(o.json, o.csv);
    if (status == STATUS_OK)
        status = outfile_probe(o.plot);
    if (status == STATUS_OK && o.plot)
        status = plot_probe();
    if (status)
        return status;
    sweep s = {.options = &o};
    params_resolve(&s.params, &o.params);
    s.results = report_create(columns, COLUMNS);
    status = s.results ? attn_context(&s.ctx, o.problem.threads) : STATUS_FAILED;
    if (status == STATUS_OK)
        status = open_all(&s);
    if (status == STATUS_OK)
        status = sweep_all(&s);
    close_all(&s);
    return status;
}
