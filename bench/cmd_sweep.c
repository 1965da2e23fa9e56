/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn sweep: times over the sequence length, forward or forward and backward.
 */
#include <argp.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "baseline.h"
#include "commands.h"
#include "describe.h"
#include "gnuplot.h"
#include "message.h"
#include "methods.h"
#include "options.h"
#include "outfile.h"
#include "plot.h"
#include "report.h"
#include "sweep.h"
#include "values.h"

/* ---- options -------------------------------------------------------------------------------- */

typedef struct sweep_options {
    measure_options measure; /* its causal: only causal */
    bool no_causal;
    int what; /* MEASURE_... */
    int64_t exact_max_n;
    double exact_budget; /* negative: not given */
    int budget;          /* MULTIPOLE's, 0: its default */
    const char *plot;
} sweep_options;

enum {
    KEY_NO_CAUSAL = OPTION_COMMAND,
    KEY_METHODS,
    KEY_BUDGET,
    KEY_EXACT_BUDGET,
    KEY_MAX_N,
    KEY_PEAK,
    KEY_PLOT
};

#define SWEEP_NAMES "exact, hyper, multipole, baseline"

static const struct argp_option option_list[] = {
    {"no-causal", KEY_NO_CAUSAL, NULL, 0, "Not causal only; without this and --causal, both", 4},
    {"methods", KEY_METHODS, "LIST", 0,
     SWEEP_NAMES " (unfused, OpenBLAS, f32), separated by commas (exact,hyper)", 5},
    {"budget", KEY_BUDGET, "N", 0, "The budget of multipole (the library's default)", 5},
    {"exact-budget", KEY_EXACT_BUDGET, "SECONDS", 0,
     "Longest run of exact attention, with its backward if that is timed: above it one head is "
     "timed, above it for one head none (60; 210 with --backward)", 5},
    {"exact-max-n", KEY_MAX_N, "N", 0, "No exact attention above this length (none)", 5},
    {"peak", KEY_PEAK, NULL, 0,
     "Measure the multiply-add peak beside each run, and exact attention's share of it", 5},
    {"plot", KEY_PLOT, "FILE", 0,
     "Draw times and speed-ups as SVG, with gnuplot; -: to standard output, no table", 5},
    {0}};

/* MEASURE_... of the name that is the first length characters of text; 0: there is none. */
static int method_flag(const char *text, size_t length)
{
    for (int i = 0; i < SWEEP_METHODS; i++) {
        const char *name = sweep_methods[i].name;
        if (strlen(name) == length && memcmp(name, text, length) == 0)
            return 1 << i;
    }
    return length == 8 && memcmp(text, "baseline", 8) == 0 ? MEASURE_BASELINE : 0;
}

static int parse_methods(struct argp_state *state, const char *text)
{
    int methods = 0;
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        int flag = method_flag(at, length);
        if (!flag)
            argp_error(state, "--methods %s: need some of " SWEEP_NAMES, text);
        methods |= flag;
        if (!at[length])
            return methods;
        at += length + 1;
    }
}

static void check_options(struct argp_state *state, const sweep_options *o)
{
    const measure_options *m = &o->measure;
    const output_option outputs[] = {{"--json", m->json}, {"--csv", m->csv}, {"--plot", o->plot}};
    if ((o->what & MEASURE_BASELINE) && !baseline_built_in())
        argp_error(state, "--methods: no baseline, built without OpenBLAS");
    if ((o->what & MEASURE_BASELINE) && m->backward)
        argp_error(state, "--methods: the baseline has no backward");
    if (o->budget && !(o->what & MEASURE_MULTIPOLE))
        argp_error(state, "--budget: none of the methods takes one");
    if (m->params.given && !(o->what & (MEASURE_HYPER | MEASURE_MULTIPOLE)))
        argp_error(state, "HyperAttention's options need hyper among the methods");
    refuse_same_outputs(state, outputs, 3);
}

static error_t parse_sweep(int key, char *text, struct argp_state *state)
{
    sweep_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->measure;
        return 0;
    case KEY_NO_CAUSAL:
        o->no_causal = true;
        return 0;
    case KEY_METHODS:
        o->what = (o->what & MEASURE_PEAK) | parse_methods(state, text);
        return 0;
    case KEY_MAX_N:
        o->exact_max_n = (int64_t)parse_whole(state, "--exact-max-n", text, 0, INT64_MAX);
        return 0;
    case KEY_BUDGET:
        o->budget = (int)parse_whole(state, "--budget", text, 1, INT_MAX);
        return 0;
    case KEY_EXACT_BUDGET:
        o->exact_budget = parse_real(state, "--exact-budget", text, 0, 1e9);
        return 0;
    case KEY_PEAK:
        o->what |= MEASURE_PEAK;
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

static const struct argp_child children[] = {{&measure_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_sweep,
    .children = children,
    .doc =
        "Time exact attention and HyperAttention, or MULTIPOLE, over the sequence length, causal "
        "and not. The defaults, 12 heads of dim 64 and n from 4096 to 131072, are the "
        "single-layer figure of the HyperAttention paper (forward, or with --backward forward and "
        "backward).\v"
        "Input is generated (--gen gauss by default), once for the longest n; shorter ones are "
        "its prefixes.\n"
        "\n"
        TIMING_DOC "\n"
        "\n"
        "Where exact attention over all heads would exceed --exact-budget, as predicted from the "
        "runs before, the first head alone is timed (with all threads) and its time is multiplied "
        "by the number of heads. Such rows are marked with '*' in the table, with hollow points "
        "in the figure, and with \"scaled\": true in JSON and 1 in CSV. HyperAttention and "
        "MULTIPOLE are always timed on all heads.\n"
        "\n"
        "GFLOP/s counts 2 n^2 (dim + value dim) per head, half of it when causal. 'growth' is "
        "a method's time over that at half the length; 'ws/qkv' is its workspace over the size "
        "of q, k and v. --peak measures the bf16 dot product peak for bf16 where the "
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
    /* there only where MULTIPOLE is timed */
    {"multipole_seconds", "multipole s", REPORT_REAL, BOTH_TABLES, -4, NULL},
    {"multipole_backward_seconds", "backward", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"multipole_both_seconds", "both", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"multipole_growth", "growth", REPORT_REAL, FORWARD_TABLE, 2, NULL},
    {"multipole_both_growth", "growth", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"multipole_speedup", "speed-up", REPORT_REAL, FORWARD_TABLE, 2, "scaled"},
    {"multipole_backward_speedup", NULL, REPORT_REAL, 0, 0, NULL},
    {"multipole_both_speedup", "speed-up", REPORT_REAL, BACKWARD_TABLE, 2, "scaled"},
    {"multipole_workspace_ratio", "ws/qkv", REPORT_REAL, FORWARD_TABLE, 2, NULL},
    {"multipole_backward_workspace_ratio", "ws/qkv", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"multipole_runs", NULL, REPORT_INT, 0, 0, NULL},
    {"multipole_backward_runs", NULL, REPORT_INT, 0, 0, NULL},
};

enum {
    COLUMNS = sizeof columns / sizeof columns[0],
    MULTIPOLE_COLUMNS = 12 /* the last of them */
};

/* ---- the whole ------------------------------------------------------------------------------ */

/* Params that no problem fits are refused by each method that would have read them. */
static int check_params(const measurement *m)
{
    int status = STATUS_OK;
    for (int i = 0; i < SWEEP_METHODS && status == STATUS_OK; i++) {
        hyperattn_params params = m->params;
        params.method = method_named(sweep_methods[i].name)->method;
        if (m->what & 1 << i)
            status = measurement_check(m, &params);
    }
    return status;
}

static int open_sweep(sweep *s, const sweep_options *o)
{
    const int count = o->what & MEASURE_MULTIPOLE ? COLUMNS : COLUMNS - MULTIPOLE_COLUMNS;
    int status = measurement_start(&s->m, "sweep", &o->measure, o->what, columns, count);
    s->m.prints &= !outfile_is_dash(o->plot);
    s->m.params.budget = o->budget;
    if (status == STATUS_OK)
        status = check_params(&s->m);
    if (status == STATUS_OK)
        status = measurement_load(&s->m, &o->measure.files);
    if (status == STATUS_OK)
        status = measurement_outcomes(&s->m);
    if (status == STATUS_OK && (o->what & MEASURE_BASELINE))
        status = measurement_f32(&s->m);
    return status;
}

static int sweep_mask(sweep *s, bool causal)
{
    const measure_options *o = s->m.options;
    int status = STATUS_OK;
    if (s->m.what & (MEASURE_EXACT | MEASURE_BASELINE))
        status = sweep_probe(s, causal);
    for (int i = 0; i < o->gen.lengths.count && status == STATUS_OK; i++) {
        status = sweep_length(s, causal, o->gen.lengths.n[i]);
        if (status == STATUS_OK && s->m.prints)
            report_print_last(s->m.results, o->backward ? BACKWARD_TABLE : FORWARD_TABLE, stdout);
    }
    return status;
}

static int write_files(const sweep *s, const char *plot, const char *line)
{
    const measurement *m = &s->m;
    bool backward = m->options->backward;
    json_t *head = describe_json(m);
    json_object_set_new(head, "backward", json_boolean(backward));
    json_object_set_new(head, "exact_budget_seconds", json_real(s->exact_budget));
    if (m->params.budget)
        json_object_set_new(head, "budget", json_integer(m->params.budget));
    json_object_set_new(head, "peak",
                        s->m.what & MEASURE_PEAK ? json_string(m->peak.name) : json_null());
    json_object_set_new(head, "scaled_means",
                        json_string("seconds of exact attention and of the baseline are those "
                                    "of one head, multiplied by the number of heads"));
    int status = measurement_write(m, head);
    bool draw = plot && report_rows(m->results) > 0;
    int drawn = draw ? plot_sweep(m->results, m->what, backward, line, plot) : STATUS_OK;
    return status ? status : drawn;
}

static bool any_scaled(const report *r)
{
    bool any = false;
    for (int i = 0; i < report_rows(r); i++)
        any |= report_value(r, i, "scaled") == 1;
    return any;
}

static void show(report *r, bool shown, const char *const *keys, int count)
{
    for (int i = 0; i < count; i++) {
        if (keys[i])
            report_show(r, keys[i], shown);
    }
}

static void show_columns(const sweep *s)
{
    static const char *const exact[] = {"exact_gflops", "exact_backward_gflops"};
    static const char *const share[] = {"peak_gflops", "exact_peak_share",
                                        "exact_backward_peak_share"};
    report *r = s->m.results;
    int what = s->m.what;
    bool has_exact = what & MEASURE_EXACT;
    show(r, has_exact, exact, 2);
    show(r, has_exact && (what & MEASURE_PEAK), share, 3);
    report_show(r, "baseline_seconds", what & MEASURE_BASELINE);
    for (int i = 0; i < SWEEP_METHODS; i++) {
        const sweep_method *keys = &sweep_methods[i];
        bool has = what & 1 << i;
        if (i == SWEEP_MULTIPOLE && !has)
            break; /* no columns of it either */
        show(r, has, keys->seconds, PASSES);
        show(r, has, keys->growth, PASSES);
        show(r, has, keys->workspace, PASSES);
        show(r, has && has_exact, keys->speedup, PASSES);
    }
}

static int sweep_all(sweep *s, const sweep_options *o)
{
    bool causal = o->measure.problem.causal, table = s->m.prints;
    char line[200], budget[32] = "";
    describe_line(line, sizeof line, &s->m);
    if (o->budget)
        snprintf(budget, sizeof budget, "; budget %d", o->budget);
    size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, "%s%s", budget,
             o->measure.backward ? "; forward and backward" : "");
    show_columns(s);
    if (table)
        printf("%s%s%s\n", line, s->m.what & MEASURE_PEAK ? "; peak: " : "",
               s->m.what & MEASURE_PEAK ? s->m.peak.name : "");
    int status = STATUS_OK;
    if (!causal || o->no_causal)
        status = sweep_mask(s, false);
    if (status == STATUS_OK && (causal || !o->no_causal))
        status = sweep_mask(s, true);
    if (table && any_scaled(s->m.results))
        printf("* one head timed, multiplied by %lld\n", (long long)s->m.in.q.heads);
    /* what was measured before a failure is worth keeping */
    int written = write_files(s, o->plot, line);
    return status ? status : written;
}

int cmd_sweep(int argc, char **argv)
{
    sweep_options o = {
        .what = MEASURE_EXACT | MEASURE_HYPER, .exact_max_n = INT64_MAX, .exact_budget = -1};
    measure_options *m = &o.measure;
    gen_defaults(&m->gen, GEN_GAUSS, 12);
    parse_arguments(&parser, argc, argv, &o);
    /* forward and backward have 3.5 times the operations: the same rows are timed */
    if (o.exact_budget < 0)
        o.exact_budget = m->backward ? 210 : 60;
    if (m->gen.lengths.count == 0)
        gen_default_lengths(&m->gen, 4096, 131072);
    int status = report_probe(m->json, m->csv);
    if (status == STATUS_OK)
        status = outfile_probe(o.plot);
    if (status == STATUS_OK && o.plot)
        status = gnuplot_probe();
    if (status)
        return status;
    sweep s = {.exact_max_n = o.exact_max_n, .exact_budget = o.exact_budget};
    status = open_sweep(&s, &o);
    if (status == STATUS_OK)
        status = sweep_all(&s, &o);
    measurement_close(&s.m);
    return status;
}
