/* SPDX-License-Identifier: Apache-2.0 */
#include "compare.h"

#include <stdio.h>

#include "internals.h"
#include "memory.h"
#include "message.h"

static bool is_baseline(const contestant *one)
{
    return one->entry->method->is & IS_BASELINE;
}

int compare_check(const measurement *m, const entry_list *entries)
{
    int status = STATUS_OK;
    for (int i = 0; i < entries->count && status == STATUS_OK; i++) {
        hyperattn_params params;
        entry_params(&params, &m->params, &entries->e[i]);
        status = measurement_check(m, &params);
    }
    return status;
}

/* ---- buffers -------------------------------------------------------------------------------- */

/* The problem of m's input, or of its f32 copy. */
static void problem_of(const comparison *c, hyperattn_problem *p, const input *in, int64_t rows)
{
    measurement_problem(p, c->m, in, c->m->options->problem.causal, rows, 0);
}

static int contestant_open(comparison *c, contestant *one, const entry *e, timed_job *jobs,
                           int64_t rows)
{
    hyperattn_problem p;
    *one = (contestant){.entry = e, .forward = &jobs[0], .backward = &jobs[1]};
    snprintf(one->label, sizeof one->label, "%s", e->method->title);
    if (e->budget)
        snprintf(one->label, sizeof one->label, "%s, budget %d", e->method->title, e->budget);
    problem_of(c, &p, &c->m->in, rows);
    if (is_baseline(one))
        p.dtype = HYPERATTN_F32;
    one->dtype = p.dtype;
    bool backward = c->m->options->backward && !is_baseline(one);
    one->profiles = buffer_alloc(TIMING_MAX_CALLS * sizeof *one->profiles, "stage times");
    return one->profiles ? outcome_open(&one->result, &p, backward, backward) : STATUS_FAILED;
}

int compare_open(comparison *c, measurement *m, const entry_list *entries)
{
    const length_list *lengths = &m->options->gen.lengths;
    int64_t rows = lengths->count ? longest(lengths) : 0;
    *c = (comparison){.m = m};
    c->all = buffer_alloc((size_t)entries->count * sizeof *c->all, "methods");
    c->jobs = buffer_alloc(2 * (size_t)entries->count * sizeof *c->jobs, "times");
    int status = c->all && c->jobs ? STATUS_OK : STATUS_FAILED;
    for (int i = 0; i < entries->count && status == STATUS_OK; i++) {
        c->count = i + 1;
        status = contestant_open(c, &c->all[i], &entries->e[i], &c->jobs[2 * i], rows);
    }
    if (status == STATUS_OK)
        status = measurement_f32(m);
    if (status || measurement_is_f32(m))
        return status;
    hyperattn_problem p;
    problem_of(c, &p, &m->in_f32, rows);
    return outcome_open(&c->reference, &p, m->options->backward, m->options->backward);
}

void compare_done(comparison *c)
{
    for (int i = 0; i < c->count; i++) {
        attn_close(&c->all[i].call);
        baseline_close(&c->all[i].unfused);
        *c->all[i].forward = *c->all[i].backward = (timed_job){.run = NULL};
    }
}

void compare_close(comparison *c)
{
    for (int i = 0; i < c->count; i++) {
        outcome_close(&c->all[i].result);
        buffer_free(c->all[i].profiles);
    }
    outcome_close(&c->reference);
    buffer_free(c->all);
    buffer_free(c->jobs);
    *c = (comparison){0};
}

const outcome *compare_reference(const comparison *c)
{
    return measurement_is_f32(c->m) ? &c->all[0].result : &c->reference;
}

bool compare_has_error(const comparison *c, const contestant *one)
{
    return one->forward->run && (one != &c->all[0] || !measurement_is_f32(c->m));
}

error_shape compare_shape(const comparison *c)
{
    const hyperattn_problem *p = &c->problem;
    return (error_shape){p->batch * p->nheads, p->seqlen_q, p->head_dim_v,
                         p->seqlen_q * p->head_dim_v};
}

/* ---- one length ----------------------------------------------------------------------------- */

static int plan_baseline(const comparison *c, contestant *one, int64_t rows)
{
    const measurement *m = c->m;
    hyperattn_problem p;
    problem_of(c, &p, &m->in_f32, rows);
    if (baseline_bytes(&p) > memory_available() / 2) {
        note("n = %lld: no baseline, its scores would fill more than half of the memory",
             (long long)p.seqlen_k);
        return STATUS_OK;
    }
    *one->forward = (timed_job){one->label, baseline_run, &one->unfused, .calls = 0};
    return baseline_open(&one->unfused, &p, &m->in_f32, one->result.out, context_threads(m->ctx));
}

static int plan_method(const comparison *c, contestant *one)
{
    hyperattn_params params;
    entry_params(&params, &c->m->params, one->entry);
    *one->forward = (timed_job){one->label, attn_run, &one->call, .calls = 0};
    if (c->m->options->backward)
        *one->backward = (timed_job){one->label, attn_backward, &one->call, .calls = 0};
    int status =
        attn_open(&one->call, c->m->ctx, &c->problem, &params, &c->m->in, &one->result);
    one->call.profiles = one->profiles;
    return status;
}

/* The reference, where no timed job computed it. */
static int compute_reference(comparison *c, int64_t rows)
{
    measurement *m = c->m;
    bool backward = m->options->backward;
    if (measurement_is_f32(m))
        return STATUS_OK;
    int status = backward ? input_copy_dout_f32(&m->in_f32, &m->in) : STATUS_OK;
    if (status)
        return status;
    hyperattn_problem p;
    hyperattn_params params;
    attn exact;
    entry_params(&params, &m->params, c->all[0].entry);
    problem_of(c, &p, &m->in_f32, rows);
    status = attn_open(&exact, m->ctx, &p, &params, &m->in_f32, &c->reference);
    if (status == STATUS_OK)
        status = attn_run(&exact, 0);
    if (status == STATUS_OK && backward)
        status = attn_backward(&exact, 0);
    attn_close(&exact);
    return status;
}

int compare_run(comparison *c, int64_t rows)
{
    measurement *m = c->m;
    char label[48];
    int status = STATUS_OK;
    problem_of(c, &c->problem, &m->in, rows);
    snprintf(label, sizeof label, "n = %lld%s", (long long)c->problem.seqlen_k,
             c->problem.causal ? ", causal" : "");
    if (m->options->backward)
        status = input_generate_dout(&m->in, &m->options->gen.spec, c->problem.seqlen_q);
    for (int i = 0; i < c->count && status == STATUS_OK; i++) {
        contestant *one = &c->all[i];
        status = is_baseline(one) ? plan_baseline(c, one, rows) : plan_method(c, one);
    }
    if (status == STATUS_OK)
        status = timing_run(c->jobs, 2 * c->count, m->options->repeat, label);
    return status ? status : compute_reference(c, rows);
}
