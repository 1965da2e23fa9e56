/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/choose.h"

#include <math.h>

#include "algo/ladder.h"
#include "cpu/call.h"
#include "cpu/checked.h"
#include "int64.h"
#include "report.h"

/* A query head on its way up. */
typedef struct climber {
    int step, tried;
    int settled;
    double error;
} climber;

/* Gradients of k and v of one key head, summed over the query heads that read it. */
typedef struct key_sums {
    float *part_k, *part_v; /* of one query head: [nk][head_dim], [nk][head_dim_v] */
    float *k, *v;           /* of those so far */
    float *ones;            /* [HA_TASK_ROWS] */
} key_sums;

typedef struct work {
    const ha_plan *whole;
    const ha_cpu_plan *plan;
    const ha_tensors *t;
    int64_t nheads; /* of all sequences */
    int step;       /* that is gone through */
    /* in the workspace */
    climber *climbers;   /* [nheads] */
    int64_t *list;       /* [nheads]: those that are on the step */
    int64_t n;
    int64_t *some;       /* [nheads]: key heads all of whose query heads are, then other heads */
    ha_measure m;
    uint32_t *row;       /* [nheads][most]: their checked rows */
    float *exact;        /* [nheads][most][head_dim_v] */
    double *diff, *norm; /* [nheads][most] */
    key_sums sums;       /* backward: */
    void *out;           /* what forward gave */
    void *below;         /* for the steps' calls */
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

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void carve(ha_carver *c, work *w, int backward)
{
    const ha_cpu_plan *plan = w->plan;
    int64_t rows, most = w->m.most;
    size_t below = 0;
    if (__builtin_mul_overflow(w->nheads, most, &rows))
        c->wraps = 1, rows = 0;
    w->climbers = ha_carve(c, w->nheads, sizeof *w->climbers);
    w->list = ha_carve(c, w->nheads, sizeof *w->list);
    w->some = ha_carve(c, w->nheads, sizeof *w->some);
    w->row = ha_carve(c, rows, sizeof *w->row);
    w->exact = ha_carve(c, rows, (size_t)plan->problem->head_dim_v * sizeof *w->exact);
    w->diff = ha_carve(c, rows, sizeof *w->diff);
    w->norm = ha_carve(c, rows, sizeof *w->norm);
    ha_measure_carve(c, &w->m);
    for (int64_t i = 0; i < w->m.in_flight; i++) {
        ha_check none, *check = c->base ? &w->m.checks[i] : &none;
        ha_check_carve_states(c, &w->m, check);
    }
    if (backward) {
        carve_sums(c, plan, &w->sums);
        w->out = ha_carve(c, 1, w->whole->bytes.out);
    }
    for (int i = 0; i < w->whole->ladder->nsteps; i++) {
        below = larger(below, plan->steps[i].workspace);
        below = larger(below, plan->alone[i].workspace);
        below = larger(below, backward ? plan->alone[i].workspace_backward : 0);
    }
    w->below = ha_carve(c, 1, below);
}

static work begin(const ha_plan *whole)
{
    work w = {.whole = whole, .plan = whole->data};
    const hyperattn_problem *p = whole->problem;
    w.nheads = p->batch * p->nheads;
    ha_measure_open(&w.m, whole, ha_trial_rows(w.plan->max.nq));
    return w;
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

/* ---- exact rows ------------------------------------------------------------------------------ */

static const ha_layout *layout_of(const work *w, int64_t head)
{
    return ha_layout_of(w->plan, head / w->whole->problem->nheads);
}

/* The exact rows of all heads that do not begin with EXACT. */
static void compute_exact_rows(void *arg, ha_team *team)
{
    work *w = arg;
    ha_measure *m = &w->m;
    const ha_cpu_plan *plan = w->plan;
    const ha_measured t = {w->t->q, w->t->k, w->t->v, w->t->out};
    int last = w->whole->ladder->nsteps - 1;
    m->team = team;
    for (int64_t next = 0; next < plan->nkey_heads;) {
        for (m->nchecks = 0; m->nchecks < m->in_flight && next < plan->nkey_heads; next++) {
            ha_check *c = &m->checks[m->nchecks];
            int64_t head = next * plan->group;
            if (w->climbers[head].step == last)
                continue;
            ha_aim_measure(&c->kh, &m->plan, w->whole, &t, next);
            c->rows = ha_trial_rows(c->kh.layout->nq);
            c->row = w->row + head * m->most;
            c->exact = w->exact + head * m->most * plan->problem->head_dim_v;
            m->nchecks++;
        }
        ha_check_rows(m);
    }
}

static void begin_climb(void *arg, ha_team *team)
{
    work *w = arg;
    for (int64_t head = 0; head < w->nheads; head++) {
        const ha_layout *l = layout_of(w, head);
        w->climbers[head] = (climber){
            .step = ha_ladder_next(w->whole->ladder, -1, 0, l->nq, l->nk), .error = NAN};
    }
    compute_exact_rows(w, team);
}

/* ---- one step -------------------------------------------------------------------------------- */

/* Compares the checked rows of one head with its exact ones. */
static void compare_head(void *arg, int64_t i, int thread)
{
    const work *w = arg;
    const ha_measure *m = &w->m;
    const ha_measured t = {w->t->q, w->t->k, w->t->v, w->t->out};
    int64_t head = w->list[i], dv = w->whole->problem->head_dim_v, group = w->plan->group;
    float *x = m->threads[thread].x;
    ha_key_head kh;
    ha_aim_measure(&kh, w->plan, w->whole, &t, head / group);
    int64_t rows = ha_trial_rows(kh.layout->nq);
    for (int64_t r = 0; r < rows; r++) {
        const float *exact = w->exact + (head * m->most + r) * dv;
        double diff = 0, norm = 0;
        ha_rows out = ha_head_rows(&kh.o, head % group);
        out.first = w->row[head * m->most + r];
        m->plan.arith->load_q(x, &out, 1, dv);
        for (int64_t e = 0; e < dv; e++) {
            double apart = (double)x[e] - exact[e];
            diff += apart * apart;
            norm += (double)exact[e] * exact[e];
        }
        w->diff[head * m->most + r] = diff;
        w->norm[head * m->most + r] = norm;
    }
}

/* Heads that meet the target stay, the others go up. */
static void judge(void *arg, ha_team *team)
{
    work *w = arg;
    const ha_ladder *ladder = w->whole->ladder;
    ha_parallel_for(team, w->n, compare_head, w);
    for (int64_t i = 0; i < w->n; i++) {
        climber *c = &w->climbers[w->list[i]];
        const ha_layout *l = layout_of(w, w->list[i]);
        int64_t first = w->list[i] * w->m.most;
        const ha_trial trial = {w->diff + first, w->norm + first, ha_trial_rows(l->nq), l->nq};
        c->error = ha_trial_error(&trial);
        c->settled = ha_trial_meets(&trial, ladder, w->step);
        if (!c->settled)
            c->step = ha_ladder_next(ladder, w->step, c->error, l->nq, l->nk);
    }
}

static int is_on_step(const work *w, int64_t head)
{
    return w->climbers[head].step == w->step && !w->climbers[head].settled;
}

static void list_heads(work *w)
{
    w->n = 0;
    for (int64_t head = 0; head < w->nheads; head++)
        if (is_on_step(w, head))
            w->list[w->n++] = head;
}

/* Key heads all of whose query heads are on the step. */
static int64_t list_groups(const work *w)
{
    int64_t n = 0, group = w->plan->group;
    for (int64_t number = 0; number < w->plan->nkey_heads; number++) {
        int64_t there = 0;
        for (int64_t i = 0; i < group; i++)
            there += is_on_step(w, number * group + i);
        if (there == group)
            w->some[n++] = number;
    }
    return n;
}

/* Those of list without the query heads of n key heads of some, in their place. */
static int64_t list_others(const work *w, int64_t n)
{
    int64_t others = 0, taken = 0, group = w->plan->group;
    int64_t *end = w->some + n;
    for (int64_t i = 0; i < w->n; i++) {
        while (taken < n && w->some[taken] < w->list[i] / group)
            taken++;
        if (taken == n || w->some[taken] != w->list[i] / group)
            end[others++] = w->list[i];
    }
    return others;
}

static void run_some(const work *w, const ha_plan *step, const int64_t *number, int64_t n)
{
    ha_plan plan = *step;
    const ha_some some = {.number = number, .n = n};
    plan.profile = w->whole->profile; /* stage times count as the call's */
    if (n)
        ha_forward_some(&plan, w->t, &some, w->below);
}

/* Heads that share a key head also share what is made of its keys; bits do not depend on that. */
static void run_step(const work *w)
{
    int64_t groups = list_groups(w), others = list_others(w, groups);
    run_some(w, &w->plan->steps[w->step], w->some, groups);
    run_some(w, &w->plan->alone[w->step], w->some + groups, others);
}

static void climb(work *w)
{
    int last = w->whole->ladder->nsteps - 1;
    ha_with_team(w->m.plan.nthreads[0], begin_climb, w);
    for (w->step = 0; w->step <= last; w->step++) {
        list_heads(w);
        if (!w->n)
            continue;
        run_step(w);
        for (int64_t i = 0; i < w->n; i++)
            w->climbers[w->list[i]].tried++;
        if (w->step < last)
            ha_with_team(w->m.plan.nthreads[0], judge, w);
    }
}

/* ---- forward --------------------------------------------------------------------------------- */

static void report(const work *w, hyperattn_choice *per_head, size_t size)
{
    const ha_ladder *ladder = w->whole->ladder;
    for (int64_t head = 0; head < w->nheads; head++) {
        const climber *c = &w->climbers[head];
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
            choice.rows_checked = ha_trial_rows(layout_of(w, head)->nq);
        }
        ha_choice_write(per_head, size, &choice, head);
    }
}

hyperattn_status ha_choose_forward(const ha_plan *whole, const ha_tensors *t, void *workspace,
                                   hyperattn_choice *per_head, size_t size)
{
    work w = begin(whole);
    w.t = t;
    take_workspace(&w, workspace, 0);
    climb(&w);
    if (per_head)
        report(&w, per_head, size);
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
    const ha_kernels *kernels = s->w->plan->kernels;
    int64_t d = s->w->whole->problem->head_dim, dv = s->w->whole->problem->head_dim_v;
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
    const hyperattn_problem *p = w->whole->problem;
    ha_plan plan = w->plan->alone[w->climbers[head].step];
    const ha_some some = {&head, 1, part_rows(w->sums.part_k, p->head_dim),
                          part_rows(w->sums.part_v, p->head_dim_v)};
    int64_t group = p->nheads / p->nheads_kv;
    summing s = {.w = w, .first = head % group == 0, .last = head % group == group - 1};
    plan.profile = w->whole->profile;
    ha_backward_some(&plan, t, &some, w->below);
    ha_aim_backward(&s.kh, plan.data, &plan, t, head);
    ha_with_team(w->plan->nthreads[1], add_part, &s);
}

void ha_choose_backward(const ha_plan *whole, const ha_gradients *t, void *workspace)
{
    work w = begin(whole);
    take_workspace(&w, workspace, 1);
    const ha_tensors forward = {.q = t->q, .k = t->k, .v = t->v, .out = w.out};
    w.t = &forward;
    climb(&w);
    for (int i = 0; i < HA_TASK_ROWS; i++)
        w.sums.ones[i] = 1;
    for (int64_t head = 0; head < w.nheads; head++)
        gradients_of_head(&w, t, head);
}
