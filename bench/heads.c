/* SPDX-License-Identifier: Apache-2.0 */
#include "heads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "compare.h"
#include "compare_rows.h"
#include "convert.h"
#include "folders.h"
#include "memory.h"
#include "message.h"
#include "progress.h"
#include "quantile.h"

const report_column heads_columns[] = {
    {"n", "n", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"method", "method", REPORT_TEXT, HEADS_TABLE, 0, NULL},
    {"budget", "budget", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"heads", "heads", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"seconds", "seconds", REPORT_REAL, HEADS_TABLE, -4, NULL},
    {"speedup", "speed-up", REPORT_REAL, HEADS_TABLE, 2, NULL},
    {"median_error", "median", REPORT_REAL, HEADS_TABLE, -3, NULL},
    {"p90_error", "90 %", REPORT_REAL, HEADS_TABLE, -3, NULL},
    {"worst_error", "worst", REPORT_REAL, HEADS_TABLE, -3, NULL},
    {"max_row_error", "worst row", REPORT_REAL, HEADS_TABLE, -3, NULL},
};

const int heads_ncolumns = sizeof heads_columns / sizeof heads_columns[0];

static const report_column detail_columns[] = {
    {"folder", "folder", REPORT_TEXT, HEADS_TABLE, 0, NULL},
    {"head", "head", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"n", "n", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"method", "method", REPORT_TEXT, HEADS_TABLE, 0, NULL},
    {"budget", "budget", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"rel_error", "rel. error", REPORT_REAL, HEADS_TABLE, -3, NULL},
    {"max_row_error", "worst row", REPORT_REAL, HEADS_TABLE, -3, NULL},
    {"taken", "taken", REPORT_TEXT, HEADS_TABLE, 0, NULL},
    {"taken_budget", "its budget", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"tried", "tried", REPORT_INT, HEADS_TABLE, 0, NULL},
    {"estimate", "estimate", REPORT_REAL, HEADS_TABLE, -3, NULL},
};

enum { DETAIL_COLUMNS = sizeof detail_columns / sizeof detail_columns[0] };

/* How many lengths each folder is measured at. */
static int lengths_of(const heads *h)
{
    int given = h->m->options->gen.lengths.count;
    return given ? given : 1;
}

static int64_t rows_at(const heads *h, int length)
{
    const length_list *lengths = &h->m->options->gen.lengths;
    return lengths->count ? lengths->n[length] : 0;
}

static tally *tally_at(const heads *h, int length, int entry_index)
{
    return &h->tallies[length * h->entries->count + entry_index];
}

int heads_open(heads *h, measurement *m, const entry_list *entries)
{
    *h = (heads){.m = m, .entries = entries};
    h->tallies = calloc((size_t)lengths_of(h) * (size_t)entries->count, sizeof *h->tallies);
    if (!h->tallies)
        return failed("out of memory");
    h->detail = report_create(detail_columns, DETAIL_COLUMNS);
    return h->detail ? STATUS_OK : STATUS_FAILED;
}

void heads_close(heads *h)
{
    for (int i = 0; h->tallies && i < lengths_of(h) * h->entries->count; i++)
        free(h->tallies[i].errors);
    free(h->tallies);
    report_destroy(h->detail);
    *h = (heads){0};
}

int64_t heads_count(const heads *h)
{
    return tally_at(h, 0, 0)->heads;
}

/* ---- one folder ----------------------------------------------------------------------------- */

/* Whether its rows serve the lengths: without --n all of the first folder's rows. */
static int check_rows(const heads *h, const folder *f)
{
    const input *in = &h->m->in;
    const length_list *lengths = &h->m->options->gen.lengths;
    int64_t first = tally_at(h, 0, 0)->n;
    if (lengths->count && !in->same_rows)
        return bad_input("--n: prefixes need as many queries as keys, and %s has other rows than "
                         "%s", f->q, f->k);
    if (lengths->count && longest(lengths) > in->k.rows)
        return bad_input("--n: %lld exceeds the %lld rows of %s", (long long)longest(lengths),
                         (long long)in->k.rows, f->q);
    if (!lengths->count && first && first != in->k.rows)
        return bad_input("%s: has %lld rows, but the folders before have %lld: say --n", f->k,
                         (long long)in->k.rows, (long long)first);
    return STATUS_OK;
}

static int grow(tally *t, int64_t more)
{
    if (t->heads + more <= t->room)
        return STATUS_OK;
    int64_t room = 2 * (t->heads + more);
    double *errors = realloc(t->errors, (size_t)room * sizeof *errors);
    if (!errors)
        return failed("out of memory");
    t->errors = errors;
    t->room = room;
    return STATUS_OK;
}

static int add_detail(const heads *h, const folder *f, int64_t head, const tally *t,
                      const entry *e, const error_stats *stats)
{
    report *r = h->detail;
    int status = report_row(r);
    if (status)
        return status;
    report_text(r, "folder", f->name);
    report_int(r, "head", head);
    report_int(r, "n", t->n);
    report_text(r, "method", e->method->name);
    if (e->budget)
        report_int(r, "budget", e->budget);
    report_real(r, "rel_error", stats->rel_error);
    report_real(r, "max_row_error", stats->max_row_error);
    return STATUS_OK;
}

/* What a head got. MULTIPOLE without private keys is called cells; HYPER's budget is the keys of a
 * block and its samples. */
static int add_choice(const heads *h, const attn *call, int64_t head)
{
    const hyperattn_choice *c = &call->choices[head];
    hyperattn_params p;
    hyperattn_params_init(&p);
    hyperattn_status status = hyperattn_plan_step(call->plan, c->step, &p);
    if (status)
        return library_failed("asking for a step", status);
    int budget = p.method == HYPERATTN_HYPER ? p.block_size + p.sample_size : p.budget;
    report_text(h->detail, "taken", p.method == HYPERATTN_EXACT   ? "exact"
                                    : p.method == HYPERATTN_HYPER ? "hyper"
                                    : p.private_depth < 0         ? "cells"
                                                                  : "multipole");
    if (budget)
        report_int(h->detail, "taken_budget", budget);
    report_int(h->detail, "tried", c->tried);
    if (c->rows_checked)
        report_real(h->detail, "estimate", c->rel_error);
    return STATUS_OK;
}

/* Adds what one contestant did to its tally. */
static int add_contestant(const heads *h, const folder *f, const comparison *c,
                          const contestant *one, tally *t)
{
    error_shape all = compare_shape(c), shape = {1, all.rows, all.dim, all.head_stride};
    const float *exact = compare_reference(c)->out;
    int status = grow(t, all.heads);
    for (int64_t head = 0; head < all.heads && status == STATUS_OK; head++) {
        size_t at = (size_t)(head * all.head_stride);
        error_stats stats = {.rel_error = NAN};
        if (compare_has_error(c, one)) {
            const char *approx = (const char *)one->result.out + at * dtype_size(one->dtype);
            error_measure(&stats, approx, one->dtype, exact + at, &shape, NULL);
            status = add_detail(h, f, head, t, one->entry, &stats);
            if (status == STATUS_OK && one->call.choices)
                status = add_choice(h, &one->call, head);
        }
        if (!(stats.max_row_error <= t->max_row_error))
            t->max_row_error = stats.max_row_error;
        t->errors[t->heads + head] = stats.rel_error;
    }
    t->heads += all.heads;
    t->seconds += one->forward->median;
    return status;
}

static int run_length(const heads *h, const folder *f, comparison *c, int length)
{
    int status = compare_run(c, rows_at(h, length));
    for (int i = 0; i < c->count && status == STATUS_OK; i++) {
        tally *t = tally_at(h, length, i);
        t->n = c->problem.seqlen_k;
        status = add_contestant(h, f, c, &c->all[i], t);
    }
    compare_done(c);
    return status;
}

static int run_folder(const heads *h, const folder *f)
{
    const input_files files = {f->q, f->k, f->v, NULL};
    comparison c = {.m = NULL};
    int status = measurement_load(h->m, &files);
    if (status == STATUS_OK)
        status = check_rows(h, f);
    if (status == STATUS_OK)
        status = compare_open(&c, h->m, h->entries);
    for (int length = 0; length < lengths_of(h) && status == STATUS_OK; length++)
        status = run_length(h, f, &c, length);
    compare_close(&c);
    return status;
}

int heads_run(heads *h)
{
    folder_list list;
    int status = folders_find(&list, h->m->options->heads_dir);
    for (int i = 0; i < list.count && status == STATUS_OK; i++) {
        status = run_folder(h, &list.all[i]);
        h->folders += status == STATUS_OK;
    }
    folders_free(&list);
    return status;
}

/* ---- all of them ---------------------------------------------------------------------------- */

/* Sorts the errors: a NaN, if there is one, is the worst. */
static void set_errors(report *r, const tally *t)
{
    quantile_sort(t->errors, t->heads);
    report_real(r, "median_error", quantile(t->errors, t->heads, 0.5));
    report_real(r, "p90_error", quantile(t->errors, t->heads, 0.9));
    report_real(r, "worst_error", t->errors[t->heads - 1]);
    report_real(r, "max_row_error", t->max_row_error);
}

int heads_report(const heads *h)
{
    report *r = h->m->results;
    bool f32 = measurement_is_f32(h->m), budgets = false;
    int status = STATUS_OK;
    for (int i = 0; i < lengths_of(h) * h->entries->count && status == STATUS_OK; i++) {
        int index = i % h->entries->count;
        const tally *t = &h->tallies[i], *exact = t - index;
        if (t->heads == 0)
            continue;
        const entry *e = &h->entries->e[index];
        status = report_row(r);
        if (status)
            return status;
        report_int(r, "n", t->n);
        report_int(r, "heads", t->heads);
        compare_report_method(r, e, t->seconds, exact->seconds);
        if (index > 0 || !f32)
            set_errors(r, t);
        budgets |= e->budget != 0;
    }
    report_show(r, "budget", budgets);
    report_show(h->detail, "budget", budgets);
    bool chosen = h->m->params.target_error > 0;
    report_show(h->detail, "taken", chosen);
    report_show(h->detail, "taken_budget", chosen);
    report_show(h->detail, "tried", chosen);
    report_show(h->detail, "estimate", chosen);
    return status;
}
