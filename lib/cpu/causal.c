/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/causal.h"

/* ---- workspace ------------------------------------------------------------------------------- */

static void carve_wave(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_stages *s)
{
    ha_sortlsh_carve(c, plan, nthreads, &s->sort);
    ha_vnorm_carve(c, plan, nthreads, &s->vnorm);
    ha_taus_carve(c, plan, nthreads, &s->taus);
    ha_wave_carve(c, plan, &s->wave);
}

/* Row states between waves, and between leaves and their past. */
static void carve_states(ha_carver *c, const ha_cpu_plan *plan, ha_stages *s)
{
    int kept = (plan->max.nwaves || plan->max.estimated) && plan->max.nleaves;
    s->states = ha_carve(c, plan->in_flight, sizeof *s->states);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_states none;
        ha_states_carve(c, plan, c->base ? &s->states[i] : &none,
                        kept ? plan->group * plan->max.nq : 0);
    }
}

void ha_stages_carve_forward(ha_carver *c, const ha_cpu_plan *plan, ha_stages *s)
{
    int nthreads = plan->nthreads[0];
    carve_states(c, plan, s);
    if (plan->max.nwaves) {
        carve_wave(c, plan, nthreads, s);
        ha_hyper_carve(c, plan, nthreads, &s->hyper);
    }
    if (plan->max.nleaves) {
        ha_exact_carve(c, plan, nthreads, 1, &s->exact);
        ha_few_carve(c, plan, nthreads, &s->few);
    }
    if (plan->max.estimated)
        ha_multipole_carve(c, plan, nthreads, &s->multipole);
}

void ha_stages_carve_backward(ha_carver *c, const ha_cpu_plan *plan, ha_stages *s)
{
    int nthreads = plan->nthreads[1];
    ha_sums_carve(c, plan, nthreads, &s->sums, &s->factors);
    if (plan->max.nwaves) {
        carve_wave(c, plan, nthreads, s);
        ha_backward_hyper_carve(c, plan, nthreads, &s->backward_hyper);
    }
    if (plan->max.nleaves)
        ha_backward_exact_carve(c, plan, nthreads, &s->backward_exact);
    if (plan->max.estimated)
        ha_backward_multipole_carve(c, plan, nthreads, &s->backward_multipole);
}

/* ---- order ----------------------------------------------------------------------------------- */

static void hash(ha_call *call, ha_stages *s)
{
    ha_sortlsh_hash(call, &s->sort);
    ha_vnorm_norms(call, &s->vnorm);
}

/* Sorts the rectangles of a wave and lists its tasks. */
static void begin_wave(ha_call *call, ha_stages *s, int number)
{
    ha_sortlsh_sort(call, &s->sort, number);
    ha_vnorm_sum(call, &s->vnorm, &s->sort, number);
    ha_approxd_tau(call, &s->taus, &s->sort, &s->vnorm, number);
    s->wave.number = number;
    s->wave.sort = &s->sort;
    s->wave.vnorm = &s->vnorm;
    s->wave.taus = &s->taus;
    ha_wave_list_tasks(call, &s->wave);
}

/* The most waves of any key head in flight. */
static int waves_of(const ha_call *call)
{
    int most = 0;
    for (int64_t i = 0; i < call->nheads; i++)
        if (call->heads[i].layout->nwaves > most)
            most = call->heads[i].layout->nwaves;
    return most;
}

void ha_stages_forward(ha_call *call, ha_stages *s)
{
    const ha_layout *max = &call->plan->max;
    int nwaves = waves_of(call);
    if (nwaves)
        hash(call, s);
    for (int wave = 0; wave < nwaves; wave++) {
        begin_wave(call, s, wave);
        ha_hyper_forward(call, &s->hyper, &s->wave, s->states, !max->nleaves);
    }
    if (max->nleaves) {
        ha_few_forward(call, &s->few);
        ha_exact_forward(call, &s->exact, s->states);
    }
    if (call->plan->max.estimated)
        ha_multipole_forward(call, &s->multipole, s->states);
}

void ha_stages_backward(ha_call *call, ha_stages *s)
{
    int nwaves = waves_of(call);
    ha_sums_prepare(call, s->sums);
    if (nwaves)
        hash(call, s);
    for (int wave = 0; wave < nwaves; wave++) {
        begin_wave(call, s, wave);
        ha_backward_hyper_run(call, &s->backward_hyper, &s->wave, s->sums);
    }
    if (call->plan->max.nleaves)
        ha_backward_exact_run(call, &s->backward_exact, s->sums);
    if (call->plan->max.estimated)
        ha_backward_multipole_run(call, &s->backward_multipole, s->sums);
    ha_sums_finish(call, s->sums, s->factors);
}
