/* SPDX-License-Identifier: Apache-2.0 */
#include "compare.h"

#include "baseline.h"
#include "context.h"
#include "error.h"
#include "memory.h"
#include "message.h"
#include "profile.h"
#include "timing.h"

/* The jobs of one row. */
typedef struct row_jobs {
    attn exact, hyper;
    baseline unfused;
    timed_job jobs[5];
    int count;
    /* NULL: not in this row */
    timed_job *exact_job, *exact_backward, *hyper_job, *hyper_backward, *baseline_job;
} row_jobs;

static timed_job *add_job(row_jobs *row, const char *name, int (*run)(void *arg), void *arg)
{
    row->jobs[row->count] = (timed_job){.name = name, .run = run, .arg = arg};
    return &row->jobs[row->count++];
}

/* ---- figures -------------------------------------------------------------------------------- */

static const char *const stage_keys[HA_STAGES] = {
    [HA_STAGE_HASH] = "hash_ms",     [HA_STAGE_SORT] = "sort_ms",
    [HA_STAGE_GATHER] = "gather_ms", [HA_STAGE_BLOCK] = "block_ms",
    [HA_STAGE_SAMPLE] = "sample_ms", [HA_STAGE_LEAF] = "leaf_ms",
    [HA_STAGE_STATE] = "state_ms"};

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

/* Errors of the output. */
static int set_errors(comparison *c, const hyperattn_problem *p, bool with_baseline)
{
    const error_shape shape = {p->batch * p->nheads, p->seqlen_q, p->head_dim_v,
                               p->seqlen_q * p->head_dim_v};
    double *rel = buffer_alloc((size_t)shape.heads * sizeof *rel, "errors of the heads");
    if (!rel)
        return STATUS_FAILED;
    const float *reference = c->reference.out;
    error_stats e;
    error_measure(&e, c->hyper.out, p->dtype, reference, &shape, rel);
    report_real(c->results, "rel_error", e.rel_error);
    report_real(c->results, "max_row_error", e.max_row_error);
    report_json(c->results, "worst_row", json_pack("{sIsI}", "head", (json_int_t)e.worst_head,
                                                   "row", (json_int_t)e.worst_row));
    report_json(c->results, "head_rel_errors", head_errors(rel, shape.heads));
    buffer_free(rel);
    if (c->owns_f32) {
        error_measure(&e, c->exact.out, p->dtype, reference, &shape, NULL);
        report_real(c->results, "exact_rel_error", e.rel_error);
    }
    if (with_baseline) {
        error_measure(&e, c->baseline_out, HYPERATTN_F32, reference, &shape, NULL);
        report_real(c->results, "baseline_rel_error", e.rel_error);
    }
    return STATUS_OK;
}

static void set_gradient_error(comparison *c, const char *key, const void *approx,
                               hyperattn_dtype dtype, const void *exact, const error_shape *shape)
{
    error_stats e;
    error_measure(&e, approx, dtype, exact, shape, NULL);
    report_real(c->results, key, e.rel_error);
}

static void set_gradient_errors(comparison *c, const hyperattn_problem *p)
{
    const error_shape q = {p->batch * p->nheads, p->seqlen_q, p->head_dim, p->q_stride[1]};
    const error_shape k = {p->batch * p->nheads_kv, p->seqlen_k, p->head_dim, p->k_stride[1]};
    const error_shape v = {k.heads, k.rows, p->head_dim_v, p->v_stride[1]};
    const gradients *hyper = &c->hyper.grads, *exact = &c->exact.grads, *r = &c->reference.grads;
    set_gradient_error(c, "dq_rel_error", hyper->dq, p->dtype, r->dq, &q);
    set_gradient_error(c, "dk_rel_error", hyper->dk, p->dtype, r->dk, &k);
    set_gradient_error(c, "dv_rel_error", hyper->dv, p->dtype, r->dv, &v);
    if (!c->owns_f32)
        return;
    set_gradient_error(c, "exact_dq_rel_error", exact->dq, p->dtype, r->dq, &q);
    set_gradient_error(c, "exact_dk_rel_error", exact->dk, p->dtype, r->dk, &k);
    set_gradient_error(c, "exact_dv_rel_error", exact->dv, p->dtype, r->dv, &v);
}

static void set_backward(comparison *c, const row_jobs *row)
{
    report *r = c->results;
    double exact = row->exact_backward->median, hyper = row->hyper_backward->median;
    double both = (row->exact_job->median + exact) / (row->hyper_job->median + hyper);
    report_real(r, "exact_backward_seconds", exact);
    report_real(r, "hyper_backward_seconds", hyper);
    report_real(r, "backward_speedup", exact / hyper);
    report_real(r, "both_speedup", both);
    report_int(r, "exact_backward_runs", row->exact_backward->calls - row->exact_backward->first);
    report_int(r, "hyper_backward_runs", row->hyper_backward->calls - row->hyper_backward->first);
    report_int(r, "hyper_backward_workspace_bytes", (int64_t)row->hyper.backward_bytes);
}

static int fill_row(comparison *c, const hyperattn_problem *p, const row_jobs *row)
{
    report *r = c->results;
    int status = report_row(r);
    if (status)
        return status;
    report_int(r, "n", p->seqlen_k);
    report_int(r, "queries", p->seqlen_q);
    report_real(r, "exact_seconds", row->exact_job->median);
    report_real(r, "hyper_seconds", row->hyper_job->median);
    report_real(r, "speedup", row->exact_job->median / row->hyper_job->median);
    report_int(r, "exact_runs", row->exact_job->calls - row->exact_job->first);
    report_int(r, "hyper_runs", row->hyper_job->calls - row->hyper_job->first);
    report_int(r, "hyper_workspace_bytes", (int64_t)row->hyper.workspace_bytes);
    if (row->baseline_job)
        report_real(r, "baseline_seconds", row->baseline_job->median);
    set_stages(r, &row->hyper, row->hyper_job, c->ctx->device.nthreads);
    if (row->exact_backward) {
        set_backward(c, row);
        set_gradient_errors(c, p);
    }
    return set_errors(c, p, row->baseline_job != NULL);
}

/* ---- one length ----------------------------------------------------------------------------- */

void compare_problem(hyperattn_problem *p, const comparison *c, const input *in)
{
    input_problem(p, in, c->rows, 0);
    p->causal = c->options->problem.causal;
    p->softmax_scale = c->options->problem.scale;
}

static int open_method(comparison *c, attn *a, hyperattn_method method, const hyperattn_problem *p,
                       const input *in, const outcome *result)
{
    hyperattn_params params = c->params;
    params.method = method;
    int status = attn_open(a, c->ctx, p, &params, in, result->out);
    if (status == STATUS_OK && c->options->backward)
        status = attn_open_backward(a, result->lse, &result->grads);
    return status;
}

/* The f32 reference where exact attention is not computed in f32. */
static int compute_reference(comparison *c)
{
    if (!c->owns_f32)
        return STATUS_OK;
    hyperattn_problem p;
    compare_problem(&p, c, &c->in_f32);
    int status = STATUS_OK;
    if (c->options->backward)
        status = input_copy_dout_f32(&c->in_f32, &c->in);
    if (status)
        return status;
    attn call;
    status = open_method(c, &call, HYPERATTN_EXACT, &p, &c->in_f32, &c->reference);
    if (status == STATUS_OK)
        status = attn_run(&call);
    if (status == STATUS_OK && c->options->backward)
        status = attn_backward(&call);
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

static int open_row(comparison *c, const hyperattn_problem *p, row_jobs *row)
{
    bool backward = c->options->backward;
    int status = STATUS_OK;
    if (backward)
        status = input_generate_dout(&c->in, &c->options->gen.spec, p->seqlen_q);
    row->exact_job = add_job(row, "exact", attn_run, &row->exact);
    if (backward)
        row->exact_backward = add_job(row, "exact backward", attn_backward, &row->exact);
    if (status == STATUS_OK)
        status = open_method(c, &row->exact, HYPERATTN_EXACT, p, &c->in, &c->exact);
    row->hyper_job = add_job(row, "HyperAttention", attn_run, &row->hyper);
    if (backward)
        row->hyper_backward = add_job(row, "HyperAttention backward", attn_backward, &row->hyper);
    if (status == STATUS_OK)
        status = open_method(c, &row->hyper, HYPERATTN_HYPER, p, &c->in, &c->hyper);
    if (status || !wants_baseline(c, p))
        return status;
    hyperattn_problem p32;
    compare_problem(&p32, c, &c->in_f32);
    row->baseline_job = add_job(row, "baseline", baseline_run, &row->unfused);
    return baseline_open(&row->unfused, &p32, &c->in_f32, c->baseline_out, c->ctx->device.nthreads);
}

int compare_length(comparison *c, int64_t rows)
{
    hyperattn_problem p;
    row_jobs row = {0};
    char label[32];
    c->rows = rows;
    compare_problem(&p, c, &c->in);
    snprintf(label, sizeof label, "n = %lld", (long long)p.seqlen_k);
    int status = open_row(c, &p, &row);
    if (status == STATUS_OK)
        status = timing_run(row.jobs, row.count, c->options->repeat, label);
    if (status == STATUS_OK)
        status = compute_reference(c);
    if (status == STATUS_OK)
        status = fill_row(c, &p, &row);
    attn_close(&row.exact);
    attn_close(&row.hyper);
    baseline_close(&row.unfused);
    return status;
}
