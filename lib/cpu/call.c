/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/call.h"

#include "cpu/causal.h"
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

/* Goes through the key heads of the batch, as many at a time as are in flight. */
static void work_off(void *arg, ha_team *team)
{
    work *w = arg;
    const ha_cpu_plan *plan = w->call.plan;
    w->call.team = team;
    for (int64_t first = 0; first < plan->nkey_heads; first += plan->in_flight) {
        w->call.nheads = ha_min(plan->in_flight, plan->nkey_heads - first);
        for (int64_t i = 0; i < w->call.nheads; i++)
            if (w->backward)
                ha_aim_backward(&w->call.heads[i], plan, w->whole, w->backward, first + i);
            else
                ha_aim_forward(&w->call.heads[i], plan, w->whole, w->forward, first + i);
        if (w->backward)
            ha_stages_backward(&w->call, &w->stages);
        else
            ha_stages_forward(&w->call, &w->stages);
    }
}

static hyperattn_status start(work *w, void *workspace)
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
    return HYPERATTN_OK;
}

hyperattn_status ha_cpu_forward(const ha_plan *whole, const ha_tensors *t, void *workspace)
{
    work w = {.whole = whole, .forward = t};
    return start(&w, workspace);
}

hyperattn_status ha_cpu_backward(const ha_plan *whole, const ha_gradients *t,
                                 void *workspace)
{
    work w = {.whole = whole, .backward = t};
    return start(&w, workspace);
}
