/* SPDX-License-Identifier: Apache-2.0 */
#include "sweep.h"

#include <math.h>

#include "convert.h"
#include "message.h"

/* ---- figures -------------------------------------------------------------------------------- */

/* Time over that at half of n, same mask, if it was measured. */
static void set_growth(report *r, const char *key, const char *seconds_key)
{
    int last = report_rows(r) - 1;
    double n = report_value(r, last, "n"), causal = report_value(r, last, "causal");
    for (int i = last - 1; i >= 0; i--) {
        if (report_value(r, i, "n") * 2 != n || report_value(r, i, "causal") != causal)
            continue;
        double half = report_value(r, i, seconds_key);
        if (!isnan(half))
            report_real(r, key, report_value(r, last, seconds_key) / half);
        return;
    }
}

/* The rate of a run of exact attention, and its share of the peak. */
static void set_rate(const sweep *s, const measured_row *row, double flops, double seconds,
                     const char *rate_key, const char *share_key)
{
    report *r = s->m.results;
    report_real(r, rate_key, 1e-9 * flops / seconds);
    if (!row_has(row, JOB_PEAK))
        return;
    double peak_rate = s->m.peak.operations / row->jobs[JOB_PEAK].median;
    report_real(r, "peak_gflops", 1e-9 * peak_rate);
    report_real(r, share_key, flops / seconds / peak_rate);
}

/* Bytes over those of q, k and v. */
static void set_workspace(report *r, const char *key, size_t bytes, const hyperattn_problem *p)
{
    double tensors = (double)input_elements(p) * (double)dtype_size(p->dtype);
    report_real(r, key, (double)bytes / tensors);
}

/* What exact attention has beside the columns of every method. */
static void set_exact(sweep *s, const measured_row *row)
{
    const hyperattn_problem *p = &row->slow;
    const int backward_job = row_job(SWEEP_EXACT, PASS_BACKWARD);
    double seconds = row->jobs[row_job(SWEEP_EXACT, PASS_FORWARD)].median;
    double d = (double)p->head_dim, dv = (double)p->head_dim_v, pairs = input_pairs(p);
    set_rate(s, row, 2 * pairs * (d + dv), seconds, "exact_gflops", "exact_peak_share");
    s->exact_rate = pairs / seconds;
    if (!row_has(row, backward_job))
        return;
    double backward = row->jobs[backward_job].median;
    /* the scores again, dout v', and the products for dq, dk and dv */
    set_rate(s, row, 2 * pairs * (3 * d + 2 * dv), backward, "exact_backward_gflops",
             "exact_backward_peak_share");
    s->exact_rate = pairs / (seconds + backward);
}

/* Of all heads. */
static double seconds_of(const measured_row *row, int method, int pass)
{
    double seconds = 0;
    if (pass != PASS_BACKWARD)
        seconds += row->jobs[row_job(method, PASS_FORWARD)].median;
    if (pass != PASS_FORWARD)
        seconds += row->jobs[row_job(method, PASS_BACKWARD)].median;
    return method == SWEEP_EXACT ? seconds * row->heads_factor : seconds;
}

static void set_pass(report *r, const measured_row *row, int method, int pass)
{
    const sweep_method *key = &sweep_methods[method];
    const attn *call = &row->calls[method];
    double seconds = seconds_of(row, method, pass);
    report_real(r, key->seconds[pass], seconds);
    if (key->runs[pass])
        report_int(r, key->runs[pass], row->jobs[row_job(method, pass)].calls);
    if (key->growth[pass])
        set_growth(r, key->growth[pass], key->seconds[pass]);
    if (key->speedup[pass] && row_has(row, row_job(SWEEP_EXACT, PASS_FORWARD)))
        report_real(r, key->speedup[pass], seconds_of(row, SWEEP_EXACT, pass) / seconds);
    if (key->workspace[pass])
        set_workspace(r, key->workspace[pass],
                      pass == PASS_FORWARD ? call->workspace_bytes : call->backward_bytes,
                      method == SWEEP_EXACT ? &row->slow : &row->problem);
}

static int fill_row(sweep *s, const measured_row *row)
{
    report *r = s->m.results;
    int status = report_row(r);
    if (status)
        return status;
    bool exact = row_has(row, row_job(SWEEP_EXACT, PASS_FORWARD));
    bool unfused = row_has(row, JOB_BASELINE);
    report_int(r, "n", row->problem.seqlen_k);
    report_bool(r, "causal", row->problem.causal);
    report_bool(r, "scaled", row->heads_factor > 1 && (exact || unfused));
    for (int i = 0; i < SWEEP_METHODS; i++) {
        if (!row_has(row, row_job(i, PASS_FORWARD)))
            continue;
        set_pass(r, row, i, PASS_FORWARD);
        if (!row_has(row, row_job(i, PASS_BACKWARD)))
            continue;
        set_pass(r, row, i, PASS_BACKWARD);
        set_pass(r, row, i, PASS_BOTH);
    }
    if (exact)
        set_exact(s, row);
    if (unfused)
        report_real(r, "baseline_seconds", row->jobs[JOB_BASELINE].median * row->heads_factor);
    return STATUS_OK;
}

/* ---- one length ----------------------------------------------------------------------------- */

/* Of a job's calls, 0 without any: what a busy machine spoils least. */
static double shortest(const timed_job *job)
{
    double best = job->calls ? job->seconds[0] : 0;
    for (int i = 1; i < job->calls; i++)
        best = fmin(best, job->seconds[i]);
    return best;
}

int sweep_probe(sweep *s, bool causal)
{
    measured_row row;
    int64_t n = s->m.in.q.rows < 2048 ? s->m.in.q.rows : 2048;
    int status = row_open(&row, &s->m, MEASURE_EXACT, causal, n, 1);
    if (status == STATUS_OK)
        status = row_run(&row, &s->m);
    if (status == STATUS_OK)
        s->exact_rate = input_pairs(&row.slow) /
                        (shortest(&row.jobs[row_job(SWEEP_EXACT, PASS_FORWARD)]) +
                         shortest(&row.jobs[row_job(SWEEP_EXACT, PASS_BACKWARD)]));
    row_close(&row);
    return status;
}

/* What is timed at this length, and on how many heads exact attention is. */
static int choose(const sweep *s, const hyperattn_problem *p, int64_t *heads)
{
    int slow = MEASURE_EXACT | MEASURE_BASELINE;
    double predicted = input_pairs(p) / s->exact_rate;
    *heads = p->nheads;
    if (p->seqlen_k > s->exact_max_n)
        return s->m.what & ~slow;
    if (predicted <= s->exact_budget)
        return s->m.what;
    *heads = 1;
    return predicted / (double)p->nheads <= s->exact_budget ? s->m.what : s->m.what & ~slow;
}

int sweep_length(sweep *s, bool causal, int64_t n)
{
    int64_t heads;
    hyperattn_problem p;
    measured_row row;
    measurement_problem(&p, &s->m, &s->m.in, causal, n, 0);
    int what = choose(s, &p, &heads);
    int status = row_open(&row, &s->m, what, causal, n, heads);
    if (status == STATUS_OK)
        status = row_run(&row, &s->m);
    if (status == STATUS_OK)
        status = fill_row(s, &row);
    row_close(&row);
    return status;
}
