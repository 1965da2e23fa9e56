/* SPDX-License-Identifier: Apache-2.0 */
#include "measure.h"

#include "internals.h"
#include "message.h"
#include "outfile.h"

/* ---- input ---------------------------------------------------------------------------------- */

static int open_input(measurement *m, const input_files *files)
{
    const measure_options *o = m->options;
    const input_dtype type = {
        .given = o->problem.dtype_given, .dtype = o->problem.dtype, .convert = true};
    if (files->q)
        return input_load(&m->in, files, &type);
    return input_generate(&m->in, &o->gen.spec, longest(&o->gen.lengths), o->problem.dtype);
}

static void free_input(measurement *m)
{
    if (!measurement_is_f32(m))
        input_free(&m->in_f32);
    input_free(&m->in);
    m->in_f32 = m->in;
}

int measurement_f32(measurement *m)
{
    m->in_f32 = m->in;
    return measurement_is_f32(m) ? STATUS_OK : input_copy_f32(&m->in_f32, &m->in);
}

bool measurement_is_f32(const measurement *m)
{
    return m->in.q.dtype == HYPERATTN_F32;
}

void measurement_problem(hyperattn_problem *p, const measurement *m, const input *in, bool causal,
                         int64_t rows, int64_t heads)
{
    input_problem(p, in, rows, heads);
    p->causal = causal;
    p->softmax_scale = m->options->problem.scale;
}

/* ---- the whole ------------------------------------------------------------------------------ */

int measurement_check(const measurement *m, const hyperattn_params *params)
{
    hyperattn_problem p;
    hyperattn_plan *plan;
    hyperattn_problem_init(&p);
    p.seqlen_q = p.head_dim = 1;
    p.causal = m->options->problem.causal;
    hyperattn_status status = hyperattn_plan_create(&plan, m->ctx, &p, params);
    hyperattn_plan_destroy(plan);
    return status ? library_failed("planning", status) : STATUS_OK;
}

int measurement_start(measurement *m, const char *command, const measure_options *options,
                      int what, const report_column *columns, int count)
{
    *m = (measurement){.command = command, .options = options, .what = what};
    m->prints = !outfile_is_dash(options->json) && !outfile_is_dash(options->csv);
    params_resolve(&m->params, &options->params);
    m->results = report_create(columns, count);
    return m->results ? attn_context(&m->ctx, options->problem.threads) : STATUS_FAILED;
}

int measurement_load(measurement *m, const input_files *files)
{
    free_input(m);
    int status = open_input(m, files);
    /* Without --peak too: all threads start, and the processor wakes up, before the first call that
     * is timed. */
    if (status == STATUS_OK)
        peak_open(&m->peak, m->in.q.dtype, context_threads(m->ctx),
                  m->what & MEASURE_PEAK ? 0.1 : 0.02);
    return status;
}

int measurement_outcomes(measurement *m)
{
    hyperattn_problem p;
    outcome *first = m->outcomes;
    bool backward = m->options->backward;
    const length_list *lengths = &m->options->gen.lengths;
    measurement_problem(&p, m, &m->in, false, lengths->count ? longest(lengths) : 0, 0);
    int status = outcome_open(first, &p, backward, backward);
    for (int i = 1; i < SWEEP_METHODS && status == STATUS_OK; i++) {
        if (backward && (m->what & 1 << i))
            status = outcome_open(&m->outcomes[i], &p, true, false);
        if (!m->outcomes[i].out)
            m->outcomes[i].out = first->out;
        m->outcomes[i].grads = first->grads;
    }
    if (status || !(m->what & MEASURE_BASELINE))
        return status;
    p.dtype = HYPERATTN_F32;
    return outcome_open(&m->baseline, &p, false, false);
}

void measurement_close(measurement *m)
{
    free_input(m);
    for (int i = 1; i < SWEEP_METHODS; i++) {
        if (m->outcomes[i].out == m->outcomes[0].out)
            m->outcomes[i].out = NULL;
        m->outcomes[i].grads = (gradients){0};
        outcome_close(&m->outcomes[i]);
    }
    outcome_close(&m->outcomes[0]);
    outcome_close(&m->baseline);
    report_destroy(m->results);
    hyperattn_ctx_destroy(m->ctx);
}

int measurement_write(const measurement *m, json_t *head)
{
    if (report_rows(m->results) == 0) {
        json_decref(head);
        return STATUS_OK;
    }
    int json = report_write_json(m->results, m->options->json, head);
    int csv = report_write_csv(m->results, m->options->csv);
    return json ? json : csv;
}
