/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn tune: the costs that target_error goes by, measured here.
 */
#include <argp.h>

#include "commands.h"
#include "describe.h"
#include "folders.h"
#include "message.h"
#include "options.h"
#include "outfile.h"
#include "tune.h"
#include "values.h"

enum {
    KEY_HEADS_DIR = OPTION_COMMAND,
    KEY_NO_CAUSAL,
    KEY_REPEAT,
    KEY_JSON,
    KEY_CSV
};

typedef struct tune_options {
    measure_options measure; /* its causal: only causal */
    bool no_causal;
} tune_options;

static const struct argp_option option_list[] = {
    {"heads-dir", KEY_HEADS_DIR, "DIR", 0,
     "Captured heads: q.npy, k.npy and v.npy in DIR or in each of its folders", 1},
    {"no-causal", KEY_NO_CAUSAL, NULL, 0, "Not causal only; without this and --causal, both", 4},
    {NULL, 0, NULL, 0, "Measuring and reporting:", 5},
    {"repeat", KEY_REPEAT, "N", 0,
     "Least number of runs of each step, of which the median counts; short ones have more (3)", 5},
    {"json", KEY_JSON, "FILE", 0, "Write the results as JSON; -: to standard output, no table", 5},
    {"csv", KEY_CSV, "FILE", 0, "Write the results as CSV; -: to standard output, no table", 5},
    {0}};

static void check_options(struct argp_state *state, const tune_options *o)
{
    const measure_options *m = &o->measure;
    const output_option outputs[] = {{"--json", m->json}, {"--csv", m->csv}};
    if (m->heads_dir && m->gen.given)
        argp_error(state, "options of generated input do not go with --heads-dir");
    if (o->no_causal && m->problem.causal)
        argp_error(state, "--causal and --no-causal leave nothing");
    refuse_same_outputs(state, outputs, 2);
}

static error_t parse_tune(int key, char *text, struct argp_state *state)
{
    tune_options *o = state->input;
    measure_options *m = &o->measure;
    switch (key) {
    case ARGP_KEY_INIT:
        m->repeat = 3;
        state->child_inputs[0] = &m->gen;
        state->child_inputs[1] = &m->problem;
        return 0;
    case KEY_HEADS_DIR:
        m->heads_dir = text;
        return 0;
    case KEY_NO_CAUSAL:
        o->no_causal = true;
        return 0;
    case KEY_REPEAT:
        m->repeat = (int)parse_whole(state, "--repeat", text, 1, TIMING_MAX_REPEAT);
        return 0;
    case KEY_JSON:
        m->json = text;
        return 0;
    case KEY_CSV:
        m->csv = text;
        return 0;
    case ARGP_KEY_END:
        check_options(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&gen_argp, 0, NULL, 0}, {&problem_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_tune,
    .children = children,
    .doc =
        "Time the steps that target_error chooses from, over exact attention, and fit the law of "
        "their costs.\v"
        "Input is generated (--gen llm, 4 heads, --n 4096:32768 by default) unless --heads-dir "
        "names captured heads, of which --n are prefixes (2048:8192). The times of all folders are "
        "summed.\n"
        "\n"
        "The lines at the end are those of the table ha_costs in lib/algo/ladder.c: cost at "
        "n = 8192 and the power of 8192 / n by which it falls. A library built with them goes by "
        "this machine's costs. They change which steps are tried, never what is accepted.\n"
        "\n"
        TIMING_DOC};

/* ---- the whole ------------------------------------------------------------------------------ */

typedef struct session {
    const tune_options *o;
    measurement m;
    tuned times[2][MAX_LENGTHS]; /* by causal */
} session;

static bool has_mask(const session *s, int causal)
{
    return causal ? !s->o->no_causal : !s->o->measure.problem.causal;
}

static int time_input(session *s, const input_files *files)
{
    const length_list *lengths = &s->o->measure.gen.lengths;
    int status = measurement_load(&s->m, files);
    if (status == STATUS_OK && !s->m.in.same_rows)
        return bad_input("%s has other rows than %s", files->q, files->k);
    if (status == STATUS_OK && longest(lengths) > s->m.in.q.rows)
        return bad_input("--n: %lld exceeds the %lld rows of %s", (long long)longest(lengths),
                         (long long)s->m.in.q.rows, files->q);
    for (int causal = 0; causal < 2; causal++)
        for (int i = 0; i < lengths->count && status == STATUS_OK && has_mask(s, causal); i++)
            status = tune_length(&s->m, causal, lengths->n[i], &s->times[causal][i]);
    return status;
}

static int time_folders(session *s)
{
    folder_list list;
    int status = folders_find(&list, s->o->measure.heads_dir);
    for (int i = 0; i < list.count && status == STATUS_OK; i++) {
        const input_files files = {list.all[i].q, list.all[i].k, list.all[i].v, NULL};
        status = time_input(s, &files);
    }
    folders_free(&list);
    return status;
}

static json_t *costs_json(const ha_cost costs[HA_COST_KINDS])
{
    json_t *list = json_array();
    for (int kind = 0; kind < HA_COST_KINDS; kind++)
        json_array_append_new(list, json_pack("[ff]", costs[kind].at, costs[kind].power));
    return list;
}

static int report_mask(session *s, int causal, json_t *head)
{
    int count = s->o->measure.gen.lengths.count, status = STATUS_OK;
    ha_cost costs[HA_COST_KINDS];
    for (int i = 0; i < count && status == STATUS_OK; i++)
        status = tune_report(s->m.results, causal, &s->times[causal][i]);
    tune_fit(costs, causal, s->times[causal], count);
    json_object_set_new(head, causal ? "costs_causal" : "costs", costs_json(costs));
    return status;
}

static void print_mask(const session *s, int causal)
{
    ha_cost costs[HA_COST_KINDS];
    tune_fit(costs, causal, s->times[causal], s->o->measure.gen.lengths.count);
    tune_print(costs, causal, stdout);
}

static int write_results(session *s)
{
    json_t *head = describe_json(&s->m);
    int status = STATUS_OK;
    for (int causal = 0; causal < 2 && status == STATUS_OK; causal++)
        if (has_mask(s, causal))
            status = report_mask(s, causal, head);
    if (s->m.prints) {
        report_print_all(s->m.results, 0, stdout);
        printf("\nha_costs:\n");
        for (int causal = 0; causal < 2; causal++)
            if (has_mask(s, causal))
                print_mask(s, causal);
    }
    int written = measurement_write(&s->m, head);
    return status ? status : written;
}

int cmd_tune(int argc, char **argv)
{
    tune_options o = {.no_causal = false};
    measure_options *m = &o.measure;
    gen_defaults(&m->gen, GEN_LLM, 4);
    parse_arguments(&parser, argc, argv, &o);
    if (m->gen.lengths.count == 0)
        gen_default_lengths(&m->gen, m->heads_dir ? 2048 : 4096, m->heads_dir ? 8192 : 32768);
    int status = report_probe(m->json, m->csv);
    if (status)
        return status;
    session s = {.o = &o};
    status = measurement_start(&s.m, "tune", m, 0, tune_columns, tune_ncolumns);
    if (status == STATUS_OK)
        status = m->heads_dir ? time_folders(&s) : time_input(&s, &m->files);
    if (status == STATUS_OK)
        status = write_results(&s);
    measurement_close(&s.m);
    return status;
}
