/* SPDX-License-Identifier: Apache-2.0 */
#include "measure.h"

#include <stdio.h>

#include "internals.h"
#include "memory.h"
#include "message.h"
#include "methods.h"

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

int row_job(int method, int pass)
{
    return JOB_METHODS + 2 * method + pass;
}

static int open_method(measured_row *row, const measurement *m, int method)
{
    const sweep_method *columns = &sweep_methods[method];
    const method_info *info = method_named(columns->name);
    attn *call = &row->calls[method];
    hyperattn_params params = m->params;
    params.method = info->method;
    add_job(row, row_job(method, PASS_FORWARD), info->title, attn_run, call);
    if (m->options->backward)
        add_job(row, row_job(method, PASS_BACKWARD), columns->backward, attn_backward, call);
    return attn_open(call, m->ctx, method == SWEEP_EXACT ? &row->slow : &row->problem, &params,
                     &m->in, &m->outcomes[method]);
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
    if ((what & MEASURE_EXACT) && (what & MEASURE_PEAK))
        add_job(row, JOB_PEAK, "peak", peak_run, &m->peak);
    for (int i = 0; i < SWEEP_METHODS && status == STATUS_OK; i++) {
        if (what & 1 << i)
            status = open_method(row, m, i);
    }
    if (status == STATUS_OK && (what & MEASURE_BASELINE))
        status = open_baseline(row, m, rows, heads);
    return status;
}

void row_close(measured_row *row)
{
    for (int i = 0; i < SWEEP_METHODS; i++)
        attn_close(&row->calls[i]);
    baseline_close(&row->unfused);
}

int row_run(measured_row *row, const measurement *m)
{
    char label[48];
    snprintf(label, sizeof label, "n = %lld%s", (long long)row->problem.seqlen_k,
             row->problem.causal ? ", causal" : "");
    return timing_run(row->jobs, JOBS, m->options->repeat, label);
}
