/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/call.h"

#include "cpu/causal.h"
#include "cpu/choose.h"
#include "int64.h"

static void run_item(void *arg, int64_t i, int thread)
{
    const ha_call *call = arg;
    int64_t item, place = ha_deal_at(&call->deal, i, &item);
    call->body(call->arg, place, item, thread);
}

void ha_for_items(ha_call *call, int64_t (*count)(const void *arg, int64_t place),
                  void (*body)(void *arg, int64_t place, int64_t item, int thread), void *arg)
{
    ha_deal_open(&call->deal, call->nheads);
    for (int64_t i = 0; i < call->nheads; i++)
        ha_deal_add(&call->deal, i, count(arg, i));
    ha_deal_close(&call->deal);
    call->body = body;
    call->arg = arg;
    ha_parallel_for(call->team, call->deal.n, run_item, call);
}

/* ---- workspace ------------------------------------------------------------------------------- */

/* A call and its stages, as they lie in the workspace. */
typedef struct work {
    ha_call call;
    ha_stages stages;
    const ha_plan *whole;
    const ha_tensors *forward; /* one of these two */
    const ha_gradients *backward;
    const ha_some *some;
} work;

static void carve(ha_carver *c, const ha_cpu_plan *plan, int backward, work *w)
{
    w->call.heads = ha_carve(c, plan->in_flight, sizeof *w->call.heads);
    w->call.seconds = ha_carve(c, plan->nthreads[backward], sizeof *w->call.seconds);
    ha_deal_carve(c, &w->call.deal, plan->in_flight);
    if (backward)
        ha_stages_carve_backward(c, plan, &w->stages);
    else
        ha_stages_carve_forward(c, plan, &w->stages);
}

size_t ha_cpu_workspace(const ha_cpu_plan *plan, int backward, int *wraps)
{
    work w = {.whole = NULL};
    ha_carver c = {.base = NULL};
    carve(&c, plan, backward, &w);
    *wraps = c.wraps;
    return c.used;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void aim(const work *w, ha_key_head *kh, int64_t i)
{
    const ha_some *some = w->some;
    int64_t number = some->number ? some->number[i] : i;
    if (w->forward) {
        ha_aim_forward(kh, w->call.plan, w->whole, w->forward, number);
        return;
    }
    ha_aim_backward(kh, w->call.plan, w->whole, w->backward, number);
    if (some->dk.base) {
        kh->dk = some->dk;
        kh->dv = some->dv;
    }
}

/* Goes through the key heads, as many at a time as are in flight. */
static void work_off(void *arg, ha_team *team)
{
    work *w = arg;
    const ha_cpu_plan *plan = w->call.plan;
    int64_t n = w->some->number ? w->some->n : plan->nkey_heads;
    w->call.team = team;
    for (int64_t first = 0; first < n; first += plan->in_flight) {
        w->call.nheads = ha_min(plan->in_flight, n - first);
        for (int64_t i = 0; i < w->call.nheads; i++)
            aim(w, &w->call.heads[i], first + i);
        if (w->backward)
            ha_stages_backward(&w->call, &w->stages);
        else
            ha_stages_forward(&w->call, &w->stages);
    }
}

static void start(work *w, void *workspace)
{
    const ha_cpu_plan *plan = w->whole->data;
    int backward = w->backward != NULL, nthreads = plan->nthreads[backward];
    ha_profile *profile = w->whole->profile;
    ha_carver c = {.base = workspace};
    w->call.plan = plan;
    w->call.profile = profile;
    carve(&c, plan, backward, w);
    for (int i = 0; i < nthreads; i++)
        w->call.seconds[i] = (ha_profile){{0}};
    ha_with_team(nthreads, work_off, w);
    for (int i = 0; profile && i < nthreads; i++)
        for (int stage = 0; stage < HA_STAGES; stage++)
            profile->seconds[stage] += w->call.seconds[i].seconds[stage];
}

void ha_forward_some(const ha_plan *whole, const ha_tensors *t, const ha_some *some,
                     void *workspace)
{
    work w = {.whole = whole, .forward = t, .some = some};
    start(&w, workspace);
}

void ha_backward_some(const ha_plan *whole, const ha_gradients *t, const ha_some *some,
                      void *workspace)
{
    work w = {.whole = whole, .backward = t, .some = some};
    start(&w, workspace);
}

hyperattn_status ha_cpu_forward(const ha_plan *whole, const ha_tensors *t, void *workspace)
{
    const ha_some all = {.number = NULL};
    if (whole->ladder)
        return ha_choose_forward(whole, t, workspace, NULL, 0);
    ha_forward_some(whole, t, &all, workspace);
    return HYPERATTN_OK;
}

hyperattn_status ha_cpu_backward(const ha_plan *whole, const ha_gradients *t,
                                 void *workspace)
{
    const ha_some all = {.number = NULL};
    if (whole->ladder)
        ha_choose_backward(whole, t, workspace);
    else
        ha_backward_some(whole, t, &all, workspace);
    return HYPERATTN_OK;
}
