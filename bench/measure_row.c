/* SPDX-License-Identifier: Apache-2.0 */
#include "measure.h"

#include <stdio.h>

#include "internals.h"
#include "memory.h"
#include "message.h"

/* ---- jobs ----------------------------------------------------------------------------------- */

static void add_job(measured_row *row, int job, const char *name, int (*run)(void *arg, int call),
                    void *arg)
{
    row->jobs[job] = (timed_job){.name = name, .run = run, .arg = arg};
}

bool row_has(const measured_row *row, int job)
{
    return row->jobs[job].run != NULL;
}

static int open_method(const measurement *m, attn *a, hyperattn_method method,
                       const hyperattn_problem *problem, const outcome *result)
{
    hyperattn_params params = m->params;
    params.method = method;
    return attn_open(a, m->ctx, problem, &params, &m->in, result);
}

static int open_exact(measured_row *row, measurement *m, bool with_peak)
{
    if (with_peak)
        add_job(row, JOB_PEAK, "peak", peak_run, &m->peak);
    add_job(row, JOB_EXACT, "exact", attn_run, &row->exact);
    if (m->options->backward)
        add_job(row, JOB_EXACT_BACKWARD, "exact backward", attn_backward, &row->exact);
    return open_method(m, &row->exact, HYPERATTN_EXACT, &row->slow, &m->exact);
}

static int open_hyper(measured_row *row, const measurement *m)
{
    add_job(row, JOB_HYPER, "HyperAttention", attn_run, &row->hyper);
    if (m->options->backward)
        add_job(row, JOB_HYPER_BACKWARD, "HyperAttention backward", attn_backward, &row->hyper);
    return open_method(m, &row->hyper, HYPERATTN_HYPER, &row->problem, &m->hyper);
}

static int open_baseline(measured_row *row, const measurement *m, int64_t rows, int64_t heads)
{
    const hyperattn_problem *slow = &row->slow;
    hyperattn_problem p;
    if (baseline_bytes(slow) > memory_available() / 2) {
        note("n = %lld: no baseline, its scores would fill more than half of the memory",
             (long long)slow->seqlen_k);
        return STATUS_OK;
    }
    add_job(row, JOB_BASELINE, "baseline", baseline_run, &row->unfused);
    measurement_problem(&p, m, &m->in_f32, slow->causal, rows, heads);
    return baseline_open(&row->unfused, &p, &m->in_f32, m->baseline.out, context_threads(m->ctx));
}

int row_open(measured_row *row, measurement *m, int what, bool causal, int64_t rows, int64_t heads)
{
    int status = STATUS_OK;
    *row = (measured_row){0};
    measurement_problem(&row->problem, m, &m->in, causal, rows, 0);
    measurement_problem(&row->slow, m, &m->in, causal, rows, heads);
    row->heads_factor = (double)row->problem.nheads / (double)row->slow.nheads;
    if (m->options->backward)
        status = input_generate_dout(&m->in, &m->options->gen.spec, row->problem.seqlen_q);
    if (status == STATUS_OK && (what & MEASURE_EXACT))
        status = open_exact(row, m, what & MEASURE_PEAK);
    if (status == STATUS_OK && (what & MEASURE_HYPER))
        status = open_hyper(row, m);
    if (status == STATUS_OK && (what & MEASURE_BASELINE))
        status = open_baseline(row, m, rows, heads);
    return status;
}

void row_close(measured_row *row)
{
    attn_close(&row->exact);
    attn_close(&row->hyper);
    baseline_close(&row->unfused);
}

int row_run(measured_row *row, const measurement *m)
{
    char label[48];
    snprintf(label, sizeof label, "n = %lld%s", (long long)row->problem.seqlen_k,
             row->problem.causal ? ", causal" : "");
    return timing_run(row->jobs, JOBS, m->options->repeat, label);
}

/* ---- columns -------------------------------------------------------------------------------- */

static void report_method(report *r, const timed_job *job, double factor, const char *seconds_key,
                          const char *runs_key)
{
    report_real(r, seconds_key, job->median * factor);
    report_int(r, runs_key, job->calls);
}

static void report_backward(const measured_row *row, report *r)
{
    const timed_job *jobs = row->jobs;
    double factor = row->heads_factor;
    if (row_has(row, JOB_EXACT_BACKWARD))
        report_method(r, &jobs[JOB_EXACT_BACKWARD], factor, "exact_backward_seconds",
                      "exact_backward_runs");
    if (row_has(row, JOB_HYPER_BACKWARD))
        report_method(r, &jobs[JOB_HYPER_BACKWARD], 1, "hyper_backward_seconds",
                      "hyper_backward_runs");
    if (!row_has(row, JOB_EXACT_BACKWARD) || !row_has(row, JOB_HYPER_BACKWARD))
        return;
    double exact = jobs[JOB_EXACT_BACKWARD].median, hyper = jobs[JOB_HYPER_BACKWARD].median;
    report_real(r, "backward_speedup", exact * factor / hyper);
    report_real(r, "both_speedup",
                (jobs[JOB_EXACT].median + exact) * factor / (jobs[JOB_HYPER].median + hyper));
}

int row_report(const measured_row *row, report *r)
{
    const timed_job *jobs = row->jobs;
    double factor = row->heads_factor;
    int status = report_row(r);
    if (status)
        return status;
    report_int(r, "n", row->problem.seqlen_k);
    if (row_has(row, JOB_EXACT))
        report_method(r, &jobs[JOB_EXACT], factor, "exact_seconds", "exact_runs");
    if (row_has(row, JOB_HYPER))
        report_method(r, &jobs[JOB_HYPER], 1, "hyper_seconds", "hyper_runs");
    if (row_has(row, JOB_EXACT) && row_has(row, JOB_HYPER))
        report_real(r, "speedup", jobs[JOB_EXACT].median * factor / jobs[JOB_HYPER].median);
    if (row_has(row, JOB_BASELINE))
        report_real(r, "baseline_seconds", jobs[JOB_BASELINE].median * factor);
    report_backward(row, r);
    return STATUS_OK;
}
