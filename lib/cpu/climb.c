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
    ha_trials_open(&w.trials, whole, ha_trial_rows(w.plan->max.nq));
    if (w.plan->probe)
        ha_trials_open(&w.probe, w.plan->probe, HA_PROBE_TRIAL_ROWS);
    return w;
}

void ha_climb_carve(ha_carver *c, ha_climb *w, int backward)
{
    const ha_cpu_plan *plan = w->plan;
    size_t below = plan->probe ? plan->probe->workspace : 0;
    w->climbers = ha_carve(c, w->nheads, sizeof *w->climbers);
    w->list = ha_carve(c, w->nheads, sizeof *w->list);
    w->some = ha_carve(c, w->nheads, sizeof *w->some);
    ha_trials_carve(c, &w->trials);
    if (plan->probe)
        ha_trials_carve(c, &w->probe);
    for (int i = 0; i < w->whole->ladder->nsteps; i++) {
        below = larger(below, plan->steps[i].workspace);
        below = larger(below, plan->alone[i].workspace);
        below = larger(below, backward ? plan->alone[i].workspace_backward : 0);
    }
    w->below = ha_carve(c, 1, below);
}

/* ---- where heads begin ----------------------------------------------------------------------- */

const ha_layout *ha_climb_layout(const ha_climb *w, int64_t head)
{
    return ha_layout_of(w->plan, head / w->whole->problem->nheads);
}

static void run_some(const ha_climb *w, const ha_plan *step, const int64_t *number, int64_t n)
{
    ha_plan plan = *step;
    const ha_some some = {.number = number, .n = n};
    plan.profile = w->whole->profile; /* stage times count as the call's */
    if (n)
        ha_forward_some(&plan, w->t, &some, w->below);
}

static void place_heads(ha_climb *w)
{
    for (int64_t head = 0; head < w->nheads; head++) {
        const ha_layout *l = ha_climb_layout(w, head);
        w->climbers[head] = (ha_climber){
            .step = ha_ladder_next(w->whole->ladder, -1, 0, l->nq, l->nk), .error = NAN};
    }
}

/* Lists the query heads of the key heads whose last rows are tried. Returns how many key heads. */
static int64_t list_probed(ha_climb *w)
{
    int64_t n = 0, group = w->plan->group;
    w->n = 0;
    for (int64_t number = 0; number < w->plan->nkey_heads; number++) {
        const ha_layout *l = ha_climb_layout(w, number * group);
        if (!ha_ladder_probes(w->whole->ladder, l->nq, l->nk))
            continue;
        w->some[n++] = number;
        for (int64_t i = 0; i < group; i++)
            w->list[w->n++] = number * group + i;
    }
    return n;
}

static void begin_probe(void *arg, ha_team *team)
{
    ha_climb *w = arg;
    ha_trials_begin(&w->probe, team, w->some, w->n / w->plan->group);
}

/* Where one head begins, by its last rows. */
static void place_probed(void *arg, int64_t i, int thread)
{
    const ha_climb *w = arg;
    const ha_layout *l = ha_climb_layout(w, w->list[i]);
    const ha_trial trial = ha_trials_compare(&w->probe, w->list[i], thread);
    w->climbers[w->list[i]].step =
        ha_ladder_begin(w->whole->ladder, ha_trial_error(&trial), l->nq, l->nk);
}

static void judge_probe(void *arg, ha_team *team)
{
    const ha_climb *w = arg;
    ha_parallel_for(team, w->n, place_probed, arg);
}

/* The last rows of the output are written, and later written again. */
static void probe_heads(ha_climb *w)
{
    int64_t n = list_probed(w);
    int nthreads = w->probe.m.plan.nthreads[0];
    const ha_tensors t = {w->t->q, w->t->k, w->t->v, w->t->out, NULL}, *given = w->t;
    w->probe.t = w->t = &t;
    ha_with_team(nthreads, begin_probe, w);
    run_some(w, w->plan->probe, w->some, n);
    ha_with_team(nthreads, judge_probe, w);
    w->t = given;
}

/* The exact rows of the key heads of which a query head does not begin with EXACT. */
static void begin_trials(void *arg, ha_team *team)
{
    ha_climb *w = arg;
    int64_t n = 0, group = w->plan->group;
    for (int64_t number = 0; number < w->plan->nkey_heads; number++) {
        int tried = 0;
        for (int64_t i = 0; i < group; i++)
            tried |= w->climbers[number * group + i].step < w->whole->ladder->nsteps - 1;
        if (tried)
            w->some[n++] = number;
    }
    ha_trials_begin(&w->trials, team, w->some, n);
}

/* ---- one step -------------------------------------------------------------------------------- */

/* A head that meets the target stays, another one goes up. */
static void judge_head(void *arg, int64_t i, int thread)
{
    const ha_climb *w = arg;
    const ha_ladder *ladder = w->whole->ladder;
    ha_climber *c = &w->climbers[w->list[i]];
    const ha_layout *l = ha_climb_layout(w, w->list[i]);
    const ha_trial trial = ha_trials_compare(&w->trials, w->list[i], thread);
    c->error = ha_trial_error(&trial);
    c->settled = ha_trial_meets(&trial, ladder, w->step);
    if (!c->settled)
        c->step = ha_ladder_next(ladder, w->step, c->error, l->nq, l->nk);
}

static void judge(void *arg, ha_team *team)
{
    const ha_climb *w = arg;
    ha_parallel_for(team, w->n, judge_head, arg);
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

/* Heads that share a key head also share what is made of its keys; bits do not depend on that. */
static void run_step(const ha_climb *w)
{
    int64_t groups = list_groups(w), others = list_others(w, groups);
    run_some(w, &w->plan->steps[w->step], w->some, groups);
    run_some(w, &w->plan->alone[w->step], w->some + groups, others);
}

void ha_climb_run(ha_climb *w)
{
    int last = w->whole->ladder->nsteps - 1, nthreads = w->trials.m.plan.nthreads[0];
    w->trials.t = w->t;
    place_heads(w);
    if (w->plan->probe)
        probe_heads(w);
    ha_with_team(nthreads, begin_trials, w);
    for (w->step = 0; w->step <= last; w->step++) {
        list_heads(w);
        if (!w->n)
            continue;
        run_step(w);
        for (int64_t i = 0; i < w->n; i++)
            w->climbers[w->list[i]].tried++;
        if (w->step < last)
            ha_with_team(nthreads, judge, w);
    }
}
