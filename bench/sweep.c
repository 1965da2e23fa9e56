/* SPDX-License-Identifier: Apache-2.0 */
#include "sweep.h"

#include <math.h>
#include <stdio.h>

#include "attn.h"
#include "baseline.h"
#include "context.h"
#include "convert.h"
#include "memory.h"
#include "message.h"
#include "timing.h"

/* The jobs of one row. */
typedef struct row_jobs {
    hyperattn_problem problem; /* all heads */
    hyperattn_problem slow;    /* the heads that exact and baseline are timed on */
    double heads_factor;       /* all heads over those */
    attn exact, hyper;
    baseline unfused;
    timed_job jobs[6];
    int count;
    /* NULL: not in this row */
    timed_job *exact_job, *exact_backward, *hyper_job, *hyper_backward, *baseline_job, *peak_job;
} row_jobs;

static timed_job *add_job(row_jobs *row, const char *name, int (*run)(void *arg), void *arg)
{
    row->jobs[row->count] = (timed_job){.name = name, .run = run, .arg = arg};
    return &row->jobs[row->count++];
}

/* A time at half of n, same mask: NaN if it was not measured. */
static double time_at_half(const report *r, const char *key, bool causal, int64_t n)
{
    for (int i = report_rows(r) - 2; i >= 0; i--) {
        if (report_value(r, i, "n") * 2 == (double)n && report_value(r, i, "causal") == causal)
            return report_value(r, i, key);
    }
    return NAN;
}

/* The rate of a run of exact attention, and its share of the peak. */
static void fill_rate(sweep *s, const row_jobs *row, double flops, double seconds,
                      const char *rate_key, const char *share_key)
{
    report *r = s->results;
    report_real(r, rate_key, 1e-9 * flops / seconds);
    if (!row->peak_job)
        return;
    double peak_rate = s->peak.operations / row->peak_job->median;
    report_real(r, "peak_gflops", 1e-9 * peak_rate);
    report_real(r, share_key, flops / seconds / peak_rate);
}

static void fill_exact(sweep *s, const row_jobs *row)
{
    report *r = s->results;
    const hyperattn_problem *p = &row->slow;
    double seconds = row->exact_job->median;
    double flops = 2 * input_pairs(p) * (double)(p->head_dim + p->head_dim_v);
    report_real(r, "exact_seconds", seconds * row->heads_factor);
    report_int(r, "exact_runs", row->exact_job->calls - row->exact_job->first);
    fill_rate(s, row, flops, seconds, "exact_gflops", "exact_peak_share");
    if (row->hyper_job)
        report_real(r, "speedup", seconds * row->heads_factor / row->hyper_job->median);
    s->exact_rate = input_pairs(p) / seconds;
}

/* Bytes over those of q, k and v. */
static double workspace_ratio(size_t bytes, const hyperattn_problem *p)
{
    return (double)bytes / ((double)input_elements(p) * (double)dtype_size(p->dtype));
}

static void fill_hyper(sweep *s, const row_jobs *row)
{
    report *r = s->results;
    const hyperattn_problem *p = &row->problem;
    double seconds = row->hyper_job->median;
    double half = time_at_half(r, "hyper_seconds", p->causal, p->seqlen_k);
    report_real(r, "hyper_seconds", seconds);
    report_int(r, "hyper_runs", row->hyper_job->calls - row->hyper_job->first);
    report_real(r, "hyper_workspace_ratio", workspace_ratio(row->hyper.workspace_bytes, p));
    if (!isnan(half))
        report_real(r, "hyper_growth", seconds / half);
}

static void fill_exact_backward(sweep *s, const row_jobs *row)
{
    report *r = s->results;
    const hyperattn_problem *p = &row->slow;
    double seconds = row->exact_backward->median, both = row->exact_job->median + seconds;
    /* the scores again, dout v', and the products for dq, dk and dv */
    double flops = 2 * input_pairs(p) * (double)(3 * p->head_dim + 2 * p->head_dim_v);
    report_real(r, "exact_backward_seconds", seconds * row->heads_factor);
    report_real(r, "exact_both_seconds", both * row->heads_factor);
    report_int(r, "exact_backward_runs", row->exact_backward->calls - row->exact_backward->first);
    report_real(r, "exact_backward_workspace_ratio",
                workspace_ratio(row->exact.backward_bytes, p));
    fill_rate(s, row, flops, seconds, "exact_backward_gflops", "exact_backward_peak_share");
    s->exact_rate = input_pairs(p) / both;
}

static void fill_hyper_backward(sweep *s, const row_jobs *row)
{
    report *r = s->results;
    const hyperattn_problem *p = &row->problem;
    double seconds = row->hyper_backward->median, both = row->hyper_job->median + seconds;
    double half = time_at_half(r, "hyper_both_seconds", p->causal, p->seqlen_k);
    report_real(r, "hyper_backward_seconds", seconds);
    report_real(r, "hyper_both_seconds", both);
    report_int(r, "hyper_backward_runs", row->hyper_backward->calls - row->hyper_backward->first);
    report_real(r, "hyper_backward_workspace_ratio",
                workspace_ratio(row->hyper.backward_bytes, p));
    if (!isnan(half))
        report_real(r, "hyper_both_growth", both / half);
    if (!row->exact_backward)
        return;
    double exact = row->exact_backward->median;
    report_real(r, "backward_speedup", exact * row->heads_factor / seconds);
    report_real(r, "both_speedup",
                (row->exact_job->median + exact) * row->heads_factor / both);
}

static int fill_row(sweep *s, const row_jobs *row)
{
    report *r = s->results;
    int status = report_row(r);
    if (status)
        return status;
    report_bool(r, "causal", row->problem.causal);
    report_int(r, "n", row->problem.seqlen_k);
    report_bool(r, "scaled", row->heads_factor > 1 && (row->exact_job || row->baseline_job));
    if (row->exact_job)
        fill_exact(s, row);
    if (row->exact_backward)
        fill_exact_backward(s, row);
    if (row->hyper_job)
        fill_hyper(s, row);
    if (row->hyper_backward)
        fill_hyper_backward(s, row);
    if (row->baseline_job)
        report_real(r, "baseline_seconds", row->baseline_job->median * row->heads_factor);
    return STATUS_OK;
}

void sweep_problem(hyperattn_problem *p, const sweep *s, const input *in, bool causal, int64_t n,
                   int64_t heads)
{
    input_problem(p, in, n, heads);
    p->causal = causal;
    p->softmax_scale = s->options->problem.scale;
}

/* With --backward for both directions. */
static int open_method(sweep *s, attn *a, hyperattn_method method, const hyperattn_problem *problem)
{
    bool hyper = method == HYPERATTN_HYPER;
    hyperattn_params params = s->params;
    params.method = method;
    int status = attn_open(a, s->ctx, problem, &params, &s->in, hyper ? s->hyper_out : s->out);
    if (status == STATUS_OK && s->options->backward)
        status = attn_open_backward(a, hyper ? s->hyper_lse : s->exact_lse, &s->grads);
    return status;
}

int sweep_probe(sweep *s, bool causal)
{
    hyperattn_problem p;
    int64_t n = s->in.q.rows < 2048 ? s->in.q.rows : 2048;
    sweep_problem(&p, s, &s->in, causal, n, 1);
    attn exact;
    int status = open_method(s, &exact, HYPERATTN_EXACT, &p);
    double best = INFINITY;
    for (int i = 0; i < 5 && status == STATUS_OK; i++) {
        double start = timing_now();
        status = attn_run(&exact);
        if (status == STATUS_OK && s->options->backward)
            status = attn_backward(&exact);
        best = fmin(best, timing_now() - start);
    }
    s->exact_rate = input_pairs(&p) / best;
    attn_close(&exact);
    return status;
}

/* How many heads exact attention is timed on: all, one or none. */
static int64_t exact_heads(const sweep *s, const hyperattn_problem *p)
{
    const sweep_options *o = s->options;
    double predicted = input_pairs(p) / s->exact_rate;
    if (p->seqlen_k > o->exact_max_n)
        return 0;
    if (predicted <= o->exact_budget)
        return p->nheads;
    return predicted / (double)p->nheads <= o->exact_budget ? 1 : 0;
}

static int open_baseline(sweep *s, row_jobs *row)
{
    hyperattn_problem p;
    if (baseline_bytes(&row->slow) > memory_available() / 2) {
        note("n = %lld: no baseline, its scores would fill more than half of the memory",
             (long long)row->slow.seqlen_k);
        return STATUS_OK;
    }
    sweep_problem(&p, s, &s->in_f32, row->slow.causal, row->slow.seqlen_k, row->slow.nheads);
    row->baseline_job = add_job(row, "baseline", baseline_run, &row->unfused);
    return baseline_open(&row->unfused, &p, &s->in_f32, s->baseline_out, s->ctx->device.nthreads);
}

static int open_row(sweep *s, row_jobs *row, bool causal, int64_t n)
{
    int methods = s->options->methods, status = STATUS_OK;
    bool backward = s->options->backward;
    sweep_problem(&row->problem, s, &s->in, causal, n, 0);
    int64_t heads = exact_heads(s, &row->problem);
    sweep_problem(&row->slow, s, &s->in, causal, n, heads);
    row->heads_factor = heads ? (double)row->problem.nheads / (double)heads : 1;
    if ((methods & SWEEP_EXACT) && heads) {
        /* the peak stands beside the kernel that is compared with it */
        if (s->options->peak)
            row->peak_job = add_job(row, "peak", peak_run, &s->peak);
        row->exact_job = add_job(row, "exact", attn_run, &row->exact);
        if (backward)
            row->exact_backward = add_job(row, "exact backward", attn_backward, &row->exact);
        status = open_method(s, &row->exact, HYPERATTN_EXACT, &row->slow);
    }
    if (status == STATUS_OK && (methods & SWEEP_HYPER)) {
        row->hyper_job = add_job(row, "HyperAttention", attn_run, &row->hyper);
        if (backward)
            row->hyper_backward =
                add_job(row, "HyperAttention backward", attn_backward, &row->hyper);
        status = open_method(s, &row->hyper, HYPERATTN_HYPER, &row->problem);
    }
    if (status == STATUS_OK && (methods & SWEEP_BASELINE) && heads)
        status = open_baseline(s, row);
    return status;
}

int sweep_length(sweep *s, bool causal, int64_t n)
{
    row_jobs row = {0};
    char label[48];
    snprintf(label, sizeof label, "n = %lld%s", (long long)n, causal ? ", causal" : "");
    int status = open_row(s, &row, causal, n);
    if (status == STATUS_OK)
        status = timing_run(row.jobs, row.count, s->options->repeat, label);
    if (status == STATUS_OK)
        status = fill_row(s, &row);
    attn_close(&row.exact);
    attn_close(&row.hyper);
    baseline_close(&row.unfused);
    return status;
}
