/* SPDX-License-Identifier: Apache-2.0 */
#include "compare.h"

#include "error.h"
#include "internals.h"
#include "memory.h"
#include "message.h"
#include "profile.h"

/* ---- buffers -------------------------------------------------------------------------------- */

int compare_open(comparison *c)
{
    measurement *m = &c->m;
    const measure_options *o = m->options;
    c->profiles = buffer_alloc(TIMING_MAX_CALLS * sizeof *c->profiles, "stage times");
    int status = c->profiles ? measurement_outcomes(m, true) : STATUS_FAILED;
    if (status == STATUS_OK)
        status = measurement_f32(m);
    if (status || measurement_is_f32(m))
        return status;
    hyperattn_problem p;
    measurement_problem(&p, m, &m->in_f32, o->problem.causal, longest(&o->gen.lengths), 0);
    return outcome_open(&c->reference, &p, o->backward, o->backward);
}

void compare_close(comparison *c)
{
    outcome_close(&c->reference);
    buffer_free(c->profiles);
    measurement_close(&c->m);
}

/* What errors are measured against: exact attention in f32. */
static const outcome *reference(const comparison *c)
{
    return measurement_is_f32(&c->m) ? &c->m.exact : &c->reference;
}

/* Computes it where no timed job did. */
static int compute_reference(comparison *c, int64_t rows)
{
    measurement *m = &c->m;
    bool backward = m->options->backward;
    int status = STATUS_OK;
    if (measurement_is_f32(m))
        return STATUS_OK;
    if (backward)
        status = input_copy_dout_f32(&m->in_f32, &m->in);
    if (status)
        return status;
    hyperattn_problem p;
    hyperattn_params params = m->params;
    params.method = HYPERATTN_EXACT;
    measurement_problem(&p, m, &m->in_f32, m->options->problem.causal, rows, 0);
    attn exact;
    status = attn_open(&exact, m->ctx, &p, &params, &m->in_f32, &c->reference);
    if (status == STATUS_OK)
        status = attn_run(&exact, 0);
    if (status == STATUS_OK && backward)
        status = attn_backward(&exact, 0);
    attn_close(&exact);
    return status;
}

/* ---- stages --------------------------------------------------------------------------------- */

static const char *const stage_keys[HA_STAGES] = {
    [HA_STAGE_HASH] = "hash_ms",     [HA_STAGE_SORT] = "sort_ms",
    [HA_STAGE_GATHER] = "gather_ms", [HA_STAGE_BLOCK] = "block_ms",
    [HA_STAGE_SAMPLE] = "sample_ms", [HA_STAGE_LEAF] = "leaf_ms",
    [HA_STAGE_STATE] = "state_ms"};

static void set_stages(const comparison *c, const timed_job *job)
{
    const ha_profile *profile = &c->profiles[job->median_call];
    double rest = 1e3 * job->median;
    for (int s = 0; s < HA_STAGES; s++) {
        double ms = 1e3 * profile->seconds[s] / context_threads(c->m.ctx);
        report_real(c->m.results, stage_keys[s], ms);
        rest -= ms;
    }
    report_real(c->m.results, "other_ms", rest);
}

/* ---- errors --------------------------------------------------------------------------------- */

static void set_error(const comparison *c, const char *key, const void *approx,
                      hyperattn_dtype dtype, const void *exact, const error_shape *shape)
{
    error_stats e;
    error_measure(&e, approx, dtype, exact, shape, NULL);
    report_real(c->m.results, key, e.rel_error);
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

/* Errors of the output. */
static int set_errors(const comparison *c, const measured_row *row)
{
    const measurement *m = &c->m;
    const hyperattn_problem *p = &row->problem;
    const error_shape shape = {p->batch * p->nheads, p->seqlen_q, p->head_dim_v,
                               p->seqlen_q * p->head_dim_v};
    const void *exact = reference(c)->out;
    double *rel = buffer_alloc((size_t)shape.heads * sizeof *rel, "errors of the heads");
    if (!rel)
        return STATUS_FAILED;
    error_stats e;
    error_measure(&e, m->hyper.out, p->dtype, exact, &shape, rel);
    report_real(m->results, "rel_error", e.rel_error);
    report_real(m->results, "max_row_error", e.max_row_error);
    report_json(m->results, "worst_row", json_pack("{sIsI}", "head", (json_int_t)e.worst_head,
                                                   "row", (json_int_t)e.worst_row));
    report_json(m->results, "head_rel_errors", head_errors(rel, shape.heads));
    buffer_free(rel);
    if (!measurement_is_f32(m))
        set_error(c, "exact_rel_error", m->exact.out, p->dtype, exact, &shape);
    if (row_has(row, JOB_BASELINE))
        set_error(c, "baseline_rel_error", m->baseline.out, HYPERATTN_F32, exact, &shape);
    return STATUS_OK;
}

/* What a user would find, who has no exact output. */
static int set_measured(const comparison *c, const measured_row *row)
{
    const measurement *m = &c->m;
    hyperattn_report found;
    hyperattn_report_init(&found);
    hyperattn_status status =
        hyperattn_measure(row->hyper.plan, m->in.q.data, m->in.k.data, m->in.v.data, m->hyper.out,
                          COMPARE_ROWS, &found, NULL);
    if (status)
        return library_failed("measuring", status);
    report_real(m->results, "measured_error", found.rel_error);
    report_real(m->results, "measured_error_low", found.rel_error_low);
    report_real(m->results, "measured_error_high", found.rel_error_high);
    report_real(m->results, "alpha", found.alpha);
    report_real(m->results, "kappa", found.kappa);
    return STATUS_OK;
}

static void set_gradient_errors(const comparison *c, const hyperattn_problem *p)
{
    const error_shape q = {p->batch * p->nheads, p->seqlen_q, p->head_dim, p->q_stride[1]};
    const error_shape k = {p->batch * p->nheads_kv, p->seqlen_k, p->head_dim, p->k_stride[1]};
    const error_shape v = {k.heads, k.rows, p->head_dim_v, p->v_stride[1]};
    const gradients *hyper = &c->m.hyper.grads, *exact = &c->m.exact.grads;
    const gradients *r = &reference(c)->grads;
    set_error(c, "dq_rel_error", hyper->dq, p->dtype, r->dq, &q);
    set_error(c, "dk_rel_error", hyper->dk, p->dtype, r->dk, &k);
    set_error(c, "dv_rel_error", hyper->dv, p->dtype, r->dv, &v);
    if (measurement_is_f32(&c->m))
        return;
    set_error(c, "exact_dq_rel_error", exact->dq, p->dtype, r->dq, &q);
    set_error(c, "exact_dk_rel_error", exact->dk, p->dtype, r->dk, &k);
    set_error(c, "exact_dv_rel_error", exact->dv, p->dtype, r->dv, &v);
}

/* ---- one length ----------------------------------------------------------------------------- */

static int fill_row(const comparison *c, const measured_row *row)
{
    report *r = c->m.results;
    int status = row_report(row, r);
    if (status)
        return status;
    report_int(r, "queries", row->problem.seqlen_q);
    report_int(r, "hyper_workspace_bytes", (int64_t)row->hyper.workspace_bytes);
    set_stages(c, &row->jobs[JOB_HYPER]);
    if (c->m.options->backward) {
        report_int(r, "hyper_backward_workspace_bytes", (int64_t)row->hyper.backward_bytes);
        set_gradient_errors(c, &row->problem);
    }
    status = set_errors(c, row);
    return status ? status : set_measured(c, row);
}

int compare_length(comparison *c, int64_t rows)
{
    measured_row row;
    int status = row_open(&row, &c->m, c->m.what, c->m.options->problem.causal, rows, 0);
    row.hyper.profiles = c->profiles;
    if (status == STATUS_OK)
        status = row_run(&row, &c->m);
    if (status == STATUS_OK)
        status = compute_reference(c, rows);
    if (status == STATUS_OK)
        status = fill_row(c, &row);
    row_close(&row);
    return status;
}
