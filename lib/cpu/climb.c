/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/climb.h"

#include <math.h>

#include "cpu/call.h"
#include "int64.h"

/* ---- workspace ------------------------------------------------------------------------------- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

ha_climb ha_climb_begin(const ha_plan *whole)
{
    ha_climb w = {.whole = whole, .plan = whole->data};
    const hyperattn_problem *p = whole->problem;
    w.nheads = p->batch * p->nheads;
    ha_measure_open(&w.m, whole, ha_trial_rows(w.plan->max.nq));
    return w;
}

void ha_climb_carve(ha_carver *c, ha_climb *w, int backward)
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
    for (int i = 0; i < w->whole->ladder->nsteps; i++) {
        below = larger(below, plan->steps[i].workspace);
        below = larger(below, plan->alone[i].workspace);
        below = larger(below, backward ? plan->alone[i].workspace_backward : 0);
    }
    w->below = ha_carve(c, 1, below);
}

/* ---- exact rows ------------------------------------------------------------------------------ */

const ha_layout *ha_climb_layout(const ha_climb *w, int64_t head)
{
    return ha_layout_of(w->plan, head / w->whole->problem->nheads);
}

/* The exact rows of all heads that do not begin with EXACT. */
static void compute_exact_rows(void *arg, ha_team *team)
{
    ha_climb *w = arg;
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
    ha_climb *w = arg;
    for (int64_t head = 0; head < w->nheads; head++) {
        const ha_layout *l = ha_climb_layout(w, head);
        w->climbers[head] = (ha_climber){
            .step = ha_ladder_next(w->whole->ladder, -1, 0, l->nq, l->nk), .error = NAN};
    }
    compute_exact_rows(w, team);
}

/* ---- one step -------------------------------------------------------------------------------- */

/* Compares the checked rows of one head with its exact ones. */
static void compare_head(void *arg, int64_t i, int thread)
{
    const ha_climb *w = arg;
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
    ha_climb *w = arg;
    const ha_ladder *ladder = w->whole->ladder;
    ha_parallel_for(team, w->n, compare_head, w);
    for (int64_t i = 0; i < w->n; i++) {
        ha_climber *c = &w->climbers[w->list[i]];
        const ha_layout *l = ha_climb_layout(w, w->list[i]);
        int64_t first = w->list[i] * w->m.most;
        const ha_trial trial = {w->diff + first, w->norm + first, ha_trial_rows(l->nq), l->nq};
        c->error = ha_trial_error(&trial);
        c->settled = ha_trial_meets(&trial, ladder, w->step);
        if (!c->settled)
            c->step = ha_ladder_next(ladder, w->step, c->error, l->nq, l->nk);
    }
}

static int is_on_step(const ha_climb *w, int64_t head)
{
    return w->climbers[head].step == w->step && !w->climbers[head].settled;
}

static void list_heads(ha_climb *w)
{
    w->n = 0;
    for (int64_t head = 0; head < w->nheads; head++)
        if (is_on_step(w, head))
            w->list[w->n++] = head;
}

/* Key heads all of whose query heads are on the step. */
static int64_t list_groups(const ha_climb *w)
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
static int64_t list_others(const ha_climb *w, int64_t n)
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

static void run_some(const ha_climb *w, const ha_plan *step, const int64_t *number, int64_t n)
{
    ha_plan plan = *step;
    const ha_some some = {.number = number, .n = n};
    plan.profile = w->whole->profile; /* stage times count as the call's */
    if (n)
        ha_forward_some(&plan, w->t, &some, w->below);
}

/* Heads that share a key head also share what is made of its keys; bits do not depend on that. */
static void run_step(const ha_climb *w)
{
    int64_t groups = list_groups(w), others = list_others(w, groups);
    run_some(w, &w->plan->steps[w->step], w->some, groups);
    run_some(w, &w->plan->alone[w->step], w->some + groups, others);
}

void ha_climb_run(ha_climb *w)
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
