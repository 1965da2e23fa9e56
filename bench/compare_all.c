/* SPDX-License-Identifier: Apache-2.0 */
#include "compare_all.h"

#include <stdio.h>
#include <string.h>

#include "bound.h"
#include "compare.h"
#include "compare_rows.h"
#include "describe.h"
#include "hardness_rows.h"
#include "heads.h"
#include "memory.h"
#include "message.h"
#include "outfile.h"
#include "plot.h"

typedef struct session {
    const compare_options *o;
    measurement m;
    comparison c;
    report *hardness;
} session;

/* ---- one input ------------------------------------------------------------------------------ */

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

static int draw(const session *s, const error_keys *keys, const char *line)
{
    bool any = s->o->plot && report_rows(s->m.results) > 0;
    return any ? plot_errors(s->m.results, keys, line, s->o->plot) : STATUS_OK;
}

static int write_files(const session *s, const char *line)
{
    static const error_keys keys = {"rel_error", NULL, "max_head_error",
                                    "dots: all heads; circles: the worst head"};
    const measure_options *o = s->m.options;
    json_t *head = describe_json(&s->m);
    json_object_set_new(head, "causal", json_boolean(o->problem.causal));
    json_object_set_new(head, "backward", json_boolean(o->backward));
    if (s->o->hardness)
        json_object_set_new(head, "hardness", report_json_rows(s->hardness));
    int status = measurement_write(&s->m, head);
    int drawn = draw(s, &keys, line);
    return status ? status : drawn;
}

static void print_more_tables(const session *s)
{
    const report *r = s->m.results;
    printf("\nStages, ms:\n");
    report_print_all(r, STAGE_TABLE, stdout);
    printf("\nMeasured on %d rows of each head:\n", COMPARE_CHECKED_ROWS);
    report_print_all(r, MEASURED_TABLE, stdout);
    if (s->m.options->backward) {
        printf("\nBackward:\n");
        report_print_all(r, BACKWARD_TABLE, stdout);
    }
    if (s->o->spectral) {
        printf("\nOperator norms of the head with the largest eps, ||error|| = eps ||softmax|| "
               "||v||:\n");
        report_print_all(r, SPECTRAL_TABLE, stdout);
    }
    if (s->o->hardness) {
        printf("\nHardness, median and largest over the heads:\n");
        report_print_all(s->hardness, HARDNESS_TABLE, stdout);
    }
}

/* The rows of the last run, with what is wanted beside times and errors. */
static int add_rows(session *s)
{
    size_t count = (size_t)compare_shape(&s->c).heads;
    head_norms *norms = NULL;
    int status = STATUS_OK;
    if (s->o->spectral) {
        norms = buffer_alloc(count * sizeof *norms, "norms of the heads");
        status = norms ? bound_norms(norms, &s->c) : STATUS_FAILED;
    }
    if (status == STATUS_OK)
        status = compare_report(&s->c, norms, s->m.results);
    buffer_free(norms);
    if (status == STATUS_OK && s->o->hardness)
        status = hardness_report(&s->c, s->hardness);
    return status;
}

static int run_length(session *s, int64_t rows)
{
    int before = report_rows(s->m.results);
    int status = compare_run(&s->c, rows);
    if (status == STATUS_OK)
        status = add_rows(s);
    compare_done(&s->c);
    if (s->m.prints)
        report_print_from(s->m.results, before, MAIN_TABLE, stdout);
    return status;
}

static int compare_input(session *s)
{
    const measure_options *o = s->m.options;
    char line[200];
    describe_line(line, sizeof line, &s->m);
    if (o->problem.causal)
        strncat(line, "; causal", sizeof line - strlen(line) - 1);
    if (s->m.prints)
        printf("%s\n", line);
    compare_show_columns(&s->c, s->m.results);
    int status = STATUS_OK;
    for (int i = 0; i < o->gen.lengths.count && status == STATUS_OK; i++)
        status = run_length(s, o->gen.lengths.n[i]);
    if (s->m.prints && report_rows(s->m.results) > 0)
        print_more_tables(s);
    /* what was measured before a failure is worth keeping */
    int written = write_files(s, line);
    return status ? status : written;
}

static int open_input(session *s, measure_options *m)
{
    s->hardness = report_create(hardness_columns, hardness_ncolumns);
    int status = s->hardness ? measurement_load(&s->m, &m->files) : STATUS_FAILED;
    if (status == STATUS_OK && m->files.q)
        status = file_lengths(m, &s->m.in);
    return status ? status : compare_open(&s->c, &s->m, &s->o->entries);
}

/* ---- captured heads ------------------------------------------------------------------------- */

static int write_heads(const session *s, const heads *h)
{
    static const error_keys keys = {"median_error", "p90_error", "worst_error",
                                    "dots: median of the heads; dashes: 90 %; circles: the worst"};
    char line[200], described[160];
    describe_heads(described, sizeof described, &s->m, h->folders, heads_count(h));
    snprintf(line, sizeof line, "%s%s", described, s->m.options->problem.causal ? "; causal" : "");
    if (s->m.prints) {
        printf("%s\n", line);
        report_print_from(s->m.results, 0, HEADS_TABLE, stdout);
    }
    if (s->m.prints && s->o->per_head) {
        printf("\nHeads:\n");
        report_print_all(h->detail, HEADS_TABLE, stdout);
    }
    json_t *head = describe_json(&s->m);
    json_object_set_new(head, "causal", json_boolean(s->m.options->problem.causal));
    json_object_set_new(head, "folders", json_integer(h->folders));
    json_object_set_new(head, "heads", report_json_rows(h->detail));
    int status = measurement_write(&s->m, head);
    int drawn = draw(s, &keys, line);
    return status ? status : drawn;
}

static int compare_heads(session *s)
{
    heads h;
    int status = heads_open(&h, &s->m, &s->o->entries);
    if (status == STATUS_OK)
        status = heads_run(&h);
    /* what was measured before a failure is worth keeping */
    int written = STATUS_OK;
    if (h.folders > 0) {
        written = heads_report(&h);
        if (written == STATUS_OK)
            written = write_heads(s, &h);
    }
    heads_close(&h);
    return status ? status : written;
}

/* ---- the whole ------------------------------------------------------------------------------ */

int compare_all(compare_options *o)
{
    const measure_options *m = &o->measure;
    const bool heads_dir = m->heads_dir != NULL;
    session s = {.o = o};
    int status =
        measurement_start(&s.m, "compare", m, 0, heads_dir ? heads_columns : compare_columns,
                          heads_dir ? heads_ncolumns : compare_ncolumns);
    s.m.prints &= !outfile_is_dash(o->plot);
    s.m.params.target_error = o->target_error;
    if (status == STATUS_OK)
        status = compare_check(&s.m, &o->entries);
    if (status == STATUS_OK && !heads_dir)
        status = open_input(&s, &o->measure);
    if (status == STATUS_OK)
        status = heads_dir ? compare_heads(&s) : compare_input(&s);
    compare_close(&s.c);
    report_destroy(s.hardness);
    measurement_close(&s.m);
    return status;
}
