/* SPDX-License-Identifier: Apache-2.0 */
#include "hardness_rows.h"

#include <math.h>

#include "bound.h"
#include "hardness.h"
#include "memory.h"
#include "message.h"
#include "progress.h"
#include "quantile.h"
#include "softmax.h"

const report_column hardness_columns[] = {
    {"n", "n", REPORT_INT, HARDNESS_TABLE, 0, NULL},
    {"alpha", "alpha", REPORT_REAL, HARDNESS_TABLE, -3, NULL},
    {"alpha_exponent", "as n^", REPORT_REAL, HARDNESS_TABLE, 2, NULL},
    {"alpha_max", "largest", REPORT_REAL, HARDNESS_TABLE, -3, NULL},
    {"alpha_beside", "beside sinks", REPORT_REAL, HARDNESS_TABLE, -3, NULL},
    {"alpha_beside_exponent", "as n^", REPORT_REAL, HARDNESS_TABLE, 2, NULL},
    {"alpha_beside_max", "largest", REPORT_REAL, HARDNESS_TABLE, -3, NULL},
    {"kappa", "kappa", REPORT_REAL, HARDNESS_TABLE, -3, NULL},
    {"kappa_exponent", "as n^", REPORT_REAL, HARDNESS_TABLE, 2, NULL},
    {"kappa_max", "largest", REPORT_REAL, HARDNESS_TABLE, -3, NULL},
};

const int hardness_ncolumns = sizeof hardness_columns / sizeof hardness_columns[0];

/* The figures of one measure over the heads; values is put in order. */
static void set_measure(report *r, double *values, int64_t heads, const char *key,
                        const char *exponent_key, const char *max_key)
{
    int64_t count = quantile_sort(values, heads);
    if (count == 0)
        return;
    double median = quantile(values, count, 0.5);
    report_real(r, key, median);
    report_real(r, max_key, values[count - 1]);
    int row = report_rows(r) - 1;
    if (row == 0)
        return;
    double growth = log(median / report_value(r, row - 1, key)) /
                    log(report_value(r, row, "n") / report_value(r, row - 1, "n"));
    if (isfinite(growth))
        report_real(r, exponent_key, growth);
}

static json_t *head_json(const hardness *h)
{
    json_t *object = json_object();
    json_object_set_new(object, "alpha", report_json_real(h->alpha));
    json_object_set_new(object, "alpha_beside", report_json_real(h->alpha_beside));
    json_object_set_new(object, "kappa", report_json_real(h->kappa));
    json_object_set_new(object, "kappa_rows", json_integer(h->kappa_rows));
    return object;
}

/* values: [3][heads] */
static int measure_heads(const comparison *c, double *values, int64_t heads, json_t *list)
{
    hyperattn_problem one;
    int status = STATUS_OK;
    softmax_problem(&one, &c->problem);
    for (int64_t head = 0; head < heads && status == STATUS_OK; head++) {
        hardness h = {0};
        const head_input in = compare_head(c, head);
        progress("n = %lld: hardness, head %lld of %lld", (long long)one.seqlen_k,
                 (long long)head + 1, (long long)heads);
        status = hardness_measure(&h, c->m->ctx, &one, &c->m->params, in.q, in.k);
        values[head] = h.alpha;
        values[heads + head] = h.alpha_beside;
        values[2 * heads + head] = h.kappa;
        json_array_append_new(list, head_json(&h));
    }
    progress_clear();
    return status;
}

int hardness_report(const comparison *c, report *r)
{
    int64_t heads = compare_shape(c).heads;
    double *values = buffer_alloc(3 * (size_t)heads * sizeof *values, "hardness of the heads");
    json_t *list = json_array();
    int status = values ? measure_heads(c, values, heads, list) : STATUS_FAILED;
    if (status == STATUS_OK)
        status = report_row(r);
    if (status == STATUS_OK) {
        report_int(r, "n", c->problem.seqlen_k);
        set_measure(r, values, heads, "alpha", "alpha_exponent", "alpha_max");
        set_measure(r, values + heads, heads, "alpha_beside", "alpha_beside_exponent",
                    "alpha_beside_max");
        set_measure(r, values + 2 * heads, heads, "kappa", "kappa_exponent", "kappa_max");
        report_json(r, "heads", json_incref(list));
    }
    json_decref(list);
    buffer_free(values);
    return status;
}
