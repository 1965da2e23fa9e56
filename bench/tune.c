/* SPDX-License-Identifier: Apache-2.0 */
#include "tune.h"

#include <math.h>

#include "memory.h"
#include "message.h"

enum { JOBS_TUNED = HA_COST_KINDS + 1 }; /* exact attention first */

static const struct {
    const char *name;
    int budget; /* 0: none */
} kinds[HA_COST_KINDS] = {
    [HA_COST_CELLS_324] = {"cells", 324},
    [HA_COST_CELLS_710] = {"cells", 710},
    [HA_COST_CELLS_1288] = {"cells", 1288},
    [HA_COST_CELLS_2576] = {"cells", 2576},
    [HA_COST_MULTIPOLE_324] = {"multipole", 324},
    [HA_COST_MULTIPOLE_710] = {"multipole", 710},
    [HA_COST_MULTIPOLE_1288] = {"multipole", 1288},
    [HA_COST_MULTIPOLE_2576] = {"multipole", 2576},
    [HA_COST_HYPER] = {"hyper", 0},
};

const report_column tune_columns[] = {
    {"n", "n", REPORT_INT, 0, 0, NULL},
    {"causal", NULL, REPORT_BOOL, 0, 0, NULL},
    {"mask", "mask", REPORT_TEXT, 0, 0, NULL},
    {"step", "step", REPORT_TEXT, 0, 0, NULL},
    {"budget", "budget", REPORT_INT, 0, 0, NULL},
    {"seconds", "seconds", REPORT_REAL, 0, -4, NULL},
    {"cost", "cost", REPORT_REAL, 0, 3, NULL},
};

const int tune_ncolumns = sizeof tune_columns / sizeof tune_columns[0];

/* ---- times ---------------------------------------------------------------------------------- */

/* Job `job` of a length: exact attention, or the kind before it. */
static void job_params(hyperattn_params *params, int job, bool causal)
{
    if (job > 0) {
        ha_cost_params(params, (ha_cost_kind)(job - 1), causal);
        return;
    }
    hyperattn_params_init(params);
    params->method = HYPERATTN_EXACT;
}

static int time_jobs(const measurement *m, const hyperattn_problem *p, const outcome *result,
                     timed_job *jobs, attn *calls)
{
    int status = STATUS_OK;
    char label[48];
    for (int i = 0; i < JOBS_TUNED && status == STATUS_OK; i++) {
        hyperattn_params params;
        job_params(&params, i, p->causal);
        jobs[i] = (timed_job){.name = i ? kinds[i - 1].name : "exact", .run = attn_run,
                              .arg = &calls[i]};
        status = attn_open(&calls[i], m->ctx, p, &params, &m->in, result);
    }
    snprintf(label, sizeof label, "n = %lld%s", (long long)p->seqlen_k,
             p->causal ? ", causal" : "");
    return status ? status : timing_run(jobs, JOBS_TUNED, m->options->repeat, label);
}

int tune_length(const measurement *m, bool causal, int64_t rows, tuned *t)
{
    hyperattn_problem p;
    outcome result = {0};
    attn calls[JOBS_TUNED] = {{0}};
    timed_job *jobs = buffer_alloc(JOBS_TUNED * sizeof *jobs, "times");
    measurement_problem(&p, m, &m->in, causal, rows, 0);
    int status = jobs ? outcome_open(&result, &p, false, false) : STATUS_FAILED;
    if (status == STATUS_OK)
        status = time_jobs(m, &p, &result, jobs, calls);
    for (int i = 0; i < JOBS_TUNED && status == STATUS_OK; i++)
        *(i ? &t->kind[i - 1] : &t->exact) += jobs[i].median;
    t->n = p.seqlen_k;
    for (int i = 0; i < JOBS_TUNED; i++)
        attn_close(&calls[i]);
    outcome_close(&result);
    buffer_free(jobs);
    return status;
}

int tune_report(report *r, bool causal, const tuned *t)
{
    int status = STATUS_OK;
    for (int kind = 0; kind < HA_COST_KINDS && status == STATUS_OK; kind++) {
        status = report_row(r);
        if (status)
            return status;
        report_int(r, "n", t->n);
        report_bool(r, "causal", causal);
        report_text(r, "mask", causal ? "causal" : "none");
        report_text(r, "step", kinds[kind].name);
        if (kinds[kind].budget)
            report_int(r, "budget", kinds[kind].budget);
        report_real(r, "seconds", t->kind[kind]);
        report_real(r, "cost", t->kind[kind] / t->exact);
    }
    return status;
}

/* ---- law ------------------------------------------------------------------------------------ */

/* Least squares of the logarithms: ln cost = ln at - power ln(n / 8192). */
static ha_cost fit(double power, int kind, const tuned *t, int count)
{
    double x = 0, y = 0, xx = 0, xy = 0;
    for (int i = 0; i < count; i++) {
        double u = log((double)t[i].n / 8192), v = log(t[i].kind[kind] / t[i].exact);
        x += u;
        y += v;
        xx += u * u;
        xy += u * v;
    }
    double spread = count * xx - x * x;
    if (count > 1 && spread > 0)
        power = (x * y - count * xy) / spread;
    return (ha_cost){exp((y + power * x) / count), power};
}

void tune_fit(ha_cost costs[HA_COST_KINDS], bool causal, const tuned *t, int count)
{
    for (int kind = 0; kind < HA_COST_KINDS; kind++)
        costs[kind] = fit(ha_costs[causal][kind].power, kind, t, count);
}

void tune_print(const ha_cost costs[HA_COST_KINDS], bool causal, FILE *file)
{
    static const char *const before[] = {", ", ",\n     "}; /* four to a line */
    fprintf(file, "    {");
    for (int kind = 0; kind < HA_COST_KINDS; kind++)
        fprintf(file, "%s{%.2f, %.2f}", kind ? before[kind % 4 == 0] : "", costs[kind].at,
                costs[kind].power);
    fprintf(file, "}, /* %s */\n", causal ? "causal" : "not causal");
}
