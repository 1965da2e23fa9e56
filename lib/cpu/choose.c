/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/choose.h"

#include <math.h>

#include "cpu/call.h"
#include "cpu/climb.h"
#include "int64.h"
#include "report.h"

/* Gradients of k and v of one key head, summed over the query heads that read it. */
typedef struct key_sums {
    float *part_k, *part_v; /* of one query head: [nk][head_dim], [nk][head_dim_v] */
    float *k, *v;           /* of those so far */
    float *ones;            /* [HA_TASK_ROWS] */
} key_sums;

typedef struct work {
    ha_climb climb;
    key_sums sums; /* backward: */
    void *out;     /* what forward gave */
} work;

/* ---- workspace ------------------------------------------------------------------------------- */

static void carve_sums(ha_carver *c, const ha_cpu_plan *plan, key_sums *s)
{
    const hyperattn_problem *p = plan->problem;
    s->part_k = ha_carve(c, plan->max.nk, (size_t)p->head_dim * sizeof *s->part_k);
    s->part_v = ha_carve(c, plan->max.nk, (size_t)p->head_dim_v * sizeof *s->part_v);
    s->k = ha_carve(c, plan->max.nk, (size_t)p->head_dim * sizeof *s->k);
    s->v = ha_carve(c, plan->max.nk, (size_t)p->head_dim_v * sizeof *s->v);
    s->ones = ha_carve(c, HA_TASK_ROWS, sizeof *s->ones);
}

static work begin(const ha_plan *whole)
{
    return (work){.climb = ha_climb_begin(whole)};
}

static void carve(ha_carver *c, work *w, int backward)
{
    ha_climb_carve(c, &w->climb, backward);
    if (!backward)
        return;
    carve_sums(c, w->climb.plan, &w->sums);
    w->out = ha_carve(c, 1, w->climb.whole->bytes.out);
}

size_t ha_choose_workspace(const ha_plan *whole, int backward, int *wraps)
{
    work w = begin(whole);
    ha_carver c = {.base = NULL};
    carve(&c, &w, backward);
    *wraps = c.wraps;
    return c.used;
}

static void take_workspace(work *w, void *workspace, int backward)
{
    ha_carver c = {.base = workspace};
    carve(&c, w, backward);
}

/* ---- forward --------------------------------------------------------------------------------- */

static void report(const ha_climb *w, hyperattn_choice *per_head, size_t size)
{
    const ha_ladder *ladder = w->whole->ladder;
    for (int64_t head = 0; head < w->nheads; head++) {
        const ha_climber *c = &w->climbers[head];
        const hyperattn_params *p = &ladder->step[c->step].params;
        hyperattn_choice choice = {
            .method = p->method,
            .budget = p->budget,
            .step = c->step,
            .tried = c->tried,
            .rel_error = NAN,
        };
        if (c->settled) {
            choice.rel_error = c->error;
            choice.rows_checked = ha_trial_rows(ha_climb_layout(w, head)->nq);
        }
        ha_choice_write(per_head, size, &choice, head);
    }
}

hyperattn_status ha_choose_forward(const ha_plan *whole, const ha_tensors *t, void *workspace,
                                   hyperattn_choice *per_head, size_t size)
{
    work w = begin(whole);
    w.climb.t = t;
    take_workspace(&w, workspace, 0);
    ha_climb_run(&w.climb);
    if (per_head)
        report(&w.climb, per_head, size);
    return HYPERATTN_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* One query head's part of the sums of its key head. */
typedef struct summing {
    const work *w;
    ha_key_head kh;
    int first, last; /* of the heads that read the key head */
} summing;

static void add(float *sum, const float *part, int64_t n, int first)
{
    for (int64_t x = 0; x < n; x++)
        sum[x] = first ? part[x] : sum[x] + part[x];
}

static void add_chunk(void *arg, int64_t item, int thread)
{
    const summing *s = arg;
    const key_sums *sums = &s->w->sums;
    const ha_kernels *kernels = s->w->climb.plan->kernels;
    int64_t d = s->w->climb.whole->problem->head_dim, dv = s->w->climb.whole->problem->head_dim_v;
    int64_t key = item * HA_TASK_ROWS, n = ha_min(HA_TASK_ROWS, s->kh.layout->nk - key);
    ha_out_rows dk = s->kh.dk, dv_rows = s->kh.dv;
    (void)thread;
    add(sums->k + key * d, sums->part_k + key * d, n * d, s->first);
    add(sums->v + key * dv, sums->part_v + key * dv, n * dv, s->first);
    if (!s->last)
        return;
    dk.first = dv_rows.first = key;
    kernels->store_rows(&dk, sums->k + key * d, d, sums->ones, n, d);
    kernels->store_rows(&dv_rows, sums->v + key * dv, dv, sums->ones, n, dv);
}

static void add_part(void *arg, ha_team *team)
{
    summing *s = arg;
    ha_parallel_for(team, (s->kh.layout->nk + HA_TASK_ROWS - 1) / HA_TASK_ROWS, add_chunk, s);
}

static ha_out_rows part_rows(float *base, int64_t stride)
{
    return (ha_out_rows){.base = base, .stride = stride, .dtype = HYPERATTN_F32};
}

static void gradients_of_head(const work *w, const ha_gradients *t, int64_t head)
{
    const ha_climb *climb = &w->climb;
    const hyperattn_problem *p = climb->whole->problem;
    ha_plan plan = climb->plan->alone[climb->climbers[head].step];
    const ha_some some = {&head, 1, part_rows(w->sums.part_k, p->head_dim),
                          part_rows(w->sums.part_v, p->head_dim_v)};
    int64_t group = p->nheads / p->nheads_kv;
    summing s = {.w = w, .first = head % group == 0, .last = head % group == group - 1};
    plan.profile = climb->whole->profile;
    ha_backward_some(&plan, t, &some, climb->below);
    ha_aim_backward(&s.kh, plan.data, &plan, t, head);
    ha_with_team(climb->plan->nthreads[1], add_part, &s);
}

void ha_choose_backward(const ha_plan *whole, const ha_gradients *t, void *workspace)
{
    work w = begin(whole);
    take_workspace(&w, workspace, 1);
    const ha_tensors forward = {.q = t->q, .k = t->k, .v = t->v, .out = w.out};
    w.climb.t = &forward;
    ha_climb_run(&w.climb);
    for (int i = 0; i < HA_TASK_ROWS; i++)
        w.sums.ones[i] = 1;
    for (int64_t head = 0; head < w.climb.nheads; head++)
        gradients_of_head(&w, t, head);
}
