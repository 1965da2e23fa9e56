/* SPDX-License-Identifier: Apache-2.0 */
#include "compare_rows.h"

#include "internals.h"
#include "memory.h"
#include "message.h"

const report_column compare_columns[] = {
    {"n", "n", REPORT_INT, REPORT_EVERY_TABLE, 0, NULL},
    {"queries", "queries", REPORT_INT, MAIN_TABLE, 0, NULL},
    {"method", "method", REPORT_TEXT, REPORT_EVERY_TABLE, 0, NULL},
    {"budget", "budget", REPORT_INT, REPORT_EVERY_TABLE, 0, NULL},
    {"seconds", "seconds", REPORT_REAL, MAIN_TABLE, -4, NULL},
    {"speedup", "speed-up", REPORT_REAL, MAIN_TABLE, 2, NULL},
    {"rel_error", "rel. error", REPORT_REAL, MAIN_TABLE, -3, NULL},
    {"max_head_error", "worst head", REPORT_REAL, MAIN_TABLE, -3, NULL},
    {"max_row_error", "worst row", REPORT_REAL, MAIN_TABLE, -3, NULL},
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
    {"backward_seconds", "seconds", REPORT_REAL, BACKWARD_TABLE, -4, NULL},
    {"backward_speedup", "speed-up", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"both_speedup", "with forward", REPORT_REAL, BACKWARD_TABLE, 2, NULL},
    {"dq_rel_error", "dq error", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"dk_rel_error", "dk error", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"dv_rel_error", "dv error", REPORT_REAL, BACKWARD_TABLE, -3, NULL},
    {"spectral_head", "head", REPORT_INT, SPECTRAL_TABLE, 0, NULL},
    {"error_norm", "||error||", REPORT_REAL, SPECTRAL_TABLE, -3, NULL},
    {"softmax_norm", "||softmax||", REPORT_REAL, SPECTRAL_TABLE, -4, NULL},
    {"v_norm", "||v||", REPORT_REAL, SPECTRAL_TABLE, -4, NULL},
    {"eps", "eps", REPORT_REAL, SPECTRAL_TABLE, -3, NULL},
    {"workspace_bytes", NULL, REPORT_INT, 0, 0, NULL},
    {"backward_workspace_bytes", NULL, REPORT_INT, 0, 0, NULL},
    {"runs", NULL, REPORT_INT, 0, 0, NULL},
    {"backward_runs", NULL, REPORT_INT, 0, 0, NULL},
};

const int compare_ncolumns = sizeof compare_columns / sizeof compare_columns[0];

void compare_show_columns(const comparison *c, report *r)
{
    bool budgets = false;
    for (int i = 0; i < c->count; i++)
        budgets |= c->all[i].entry->budget != 0;
    report_show(r, "queries", !c->m->in.same_rows);
    report_show(r, "budget", budgets);
}

/* ---- times ---------------------------------------------------------------------------------- */

void compare_report_method(report *r, const entry *e, double seconds, double exact_seconds)
{
    report_text(r, "method", e->method->name);
    if (e->budget)
        report_int(r, "budget", e->budget);
    report_real(r, "seconds", seconds);
    report_real(r, "speedup", exact_seconds / seconds);
}

static const char *const stage_keys[HA_STAGES] = {
    [HA_STAGE_HASH] = "hash_ms",     [HA_STAGE_SORT] = "sort_ms",
    [HA_STAGE_GATHER] = "gather_ms", [HA_STAGE_BLOCK] = "block_ms",
    [HA_STAGE_SAMPLE] = "sample_ms", [HA_STAGE_LEAF] = "leaf_ms",
    [HA_STAGE_STATE] = "state_ms"};

static void set_stages(const comparison *c, const contestant *one, report *r)
{
    const ha_profile *profile = &one->profiles[one->forward->median_call];
    double rest = 1e3 * one->forward->median;
    for (int s = 0; s < HA_STAGES; s++) {
        double ms = 1e3 * profile->seconds[s] / context_threads(c->m->ctx);
        report_real(r, stage_keys[s], ms);
        rest -= ms;
    }
    report_real(r, "other_ms", rest);
}

static void set_backward(const comparison *c, const contestant *one, report *r)
{
    const contestant *exact = &c->all[0];
    double before = exact->backward->median, now = one->backward->median;
    report_real(r, "backward_seconds", now);
    report_int(r, "backward_runs", one->backward->calls);
    report_int(r, "backward_workspace_bytes", (int64_t)one->call.backward_bytes);
    report_real(r, "backward_speedup", before / now);
    report_real(r, "both_speedup",
                (exact->forward->median + before) / (one->forward->median + now));
}

/* ---- errors --------------------------------------------------------------------------------- */

static json_t *head_errors(const double *rel, int64_t heads)
{
    json_t *list = json_array();
    for (int64_t h = 0; h < heads; h++)
        json_array_append_new(list, report_json_real(rel[h]));
    return list;
}

static double largest(const double *x, int64_t n)
{
    double most = x[0];
    for (int64_t i = 1; i < n; i++)
        if (!(x[i] <= most)) /* a NaN is larger than anything */
            most = x[i];
    return most;
}

static int set_errors(const comparison *c, const contestant *one, report *r)
{
    const error_shape shape = compare_shape(c);
    double *rel = buffer_alloc((size_t)shape.heads * sizeof *rel, "errors of the heads");
    if (!rel)
        return STATUS_FAILED;
    error_stats e;
    error_measure(&e, one->result.out, one->dtype, compare_reference(c)->out, &shape, rel);
    report_real(r, "rel_error", e.rel_error);
    report_real(r, "max_head_error", largest(rel, shape.heads));
    report_real(r, "max_row_error", e.max_row_error);
    report_json(r, "worst_row", json_pack("{sIsI}", "head", (json_int_t)e.worst_head, "row",
                                          (json_int_t)e.worst_row));
    report_json(r, "head_rel_errors", head_errors(rel, shape.heads));
    buffer_free(rel);
    return STATUS_OK;
}

/* What a user would find, who has no exact output. */
static int set_measured(const comparison *c, const contestant *one, report *r)
{
    const input *in = &c->m->in;
    hyperattn_report found;
    hyperattn_report_init(&found);
    hyperattn_status status =
        hyperattn_measure(one->call.plan, in->q.data, in->k.data, in->v.data, one->result.out,
                          COMPARE_CHECKED_ROWS, &found, NULL);
    if (status)
        return library_failed("measuring", status);
    report_real(r, "measured_error", found.rel_error);
    report_real(r, "measured_error_low", found.rel_error_low);
    report_real(r, "measured_error_high", found.rel_error_high);
    report_real(r, "alpha", found.alpha);
    report_real(r, "kappa", found.kappa);
    return STATUS_OK;
}

static void set_error(const contestant *one, report *r, const char *key, const void *approx,
                      const void *exact, const error_shape *shape)
{
    error_stats e;
    error_measure(&e, approx, one->dtype, exact, shape, NULL);
    report_real(r, key, e.rel_error);
}

static void set_gradient_errors(const comparison *c, const contestant *one, report *r)
{
    const hyperattn_problem *p = &c->problem;
    const error_shape q = {p->batch * p->nheads, p->seqlen_q, p->head_dim, p->q_stride[1]};
    const error_shape k = {p->batch * p->nheads_kv, p->seqlen_k, p->head_dim, p->k_stride[1]};
    const error_shape v = {k.heads, k.rows, p->head_dim_v, p->v_stride[1]};
    const gradients *its = &one->result.grads, *exact = &compare_reference(c)->grads;
    set_error(one, r, "dq_rel_error", its->dq, exact->dq, &q);
    set_error(one, r, "dk_rel_error", its->dk, exact->dk, &k);
    set_error(one, r, "dv_rel_error", its->dv, exact->dv, &v);
}

/* ---- rows ----------------------------------------------------------------------------------- */

static int add_row(const comparison *c, const contestant *one, const head_norms *norms, report *r)
{
    int status = report_row(r);
    if (status)
        return status;
    report_int(r, "n", c->problem.seqlen_k);
    report_int(r, "queries", c->problem.seqlen_q);
    compare_report_method(r, one->entry, one->forward->median, c->all[0].forward->median);
    report_int(r, "runs", one->forward->calls);
    if (one->call.plan) {
        report_int(r, "workspace_bytes", (int64_t)one->call.workspace_bytes);
        set_stages(c, one, r);
    }
    if (one->backward->run)
        set_backward(c, one, r);
    if (!compare_has_error(c, one))
        return STATUS_OK;
    if (one->backward->run)
        set_gradient_errors(c, one, r);
    status = set_errors(c, one, r);
    if (status == STATUS_OK && one->call.plan)
        status = set_measured(c, one, r);
    if (status == STATUS_OK && norms)
        status = bound_report(c, one, norms, r);
    return status;
}

int compare_report(const comparison *c, const head_norms *norms, report *r)
{
    int status = STATUS_OK;
    for (int i = 0; i < c->count && status == STATUS_OK; i++) {
        if (c->all[i].forward->run)
            status = add_row(c, &c->all[i], norms, r);
    }
    return status;
}
