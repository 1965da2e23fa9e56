/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/vnorm.h"

#include "algo/hyper.h"
#include "cpu/clock.h"
#include "int64.h"

typedef struct stage {
    ha_call *call;
    const ha_vnorm *v;
    const ha_sortlsh *sort;
    int wave;
} stage;

static int is_wanted(const ha_cpu_plan *plan)
{
    return plan->params->sampling == HYPERATTN_SAMPLING_VNORM;
}

void ha_vnorm_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_vnorm *v)
{
    const ha_arith *f32 = &plan->kernels->f32;
    int64_t rows = ha_round_up(ha_keys_held(plan, HA_TASK_ROWS), f32->mr);
    v->heads = ha_carve(c, plan->in_flight, sizeof *v->heads);
    v->as_f32 = ha_carve(c, nthreads, sizeof *v->as_f32);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_masses none = {0}, *m = c->base ? &v->heads[i] : &none;
        *m = none;
        if (!is_wanted(plan))
            continue;
        m->norm = ha_carve(c, plan->max.nk, sizeof *m->norm);
        m->mass = ha_carve(c, plan->max.nk, sizeof *m->mass);
    }
    for (int i = 0; is_wanted(plan) && i < nthreads; i++) {
        float *none, **as_f32 = c->base ? &v->as_f32[i] : &none;
        *as_f32 = ha_carve(c, rows * ha_ldq(f32, plan->problem->head_dim_v), sizeof **as_f32);
    }
}

static int64_t count_chunks(const void *arg, int64_t place)
{
    const stage *st = arg;
    return (st->call->heads[place].layout->nk + HA_TASK_ROWS - 1) / HA_TASK_ROWS;
}

static void norms(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_arith *f32 = &call->plan->kernels->f32;
    int64_t d_v = call->plan->problem->head_dim_v;
    const ha_key_head *kh = &call->heads[place];
    const float *row = st->v->as_f32[thread];
    ha_rows v = kh->v;
    double start = ha_clock(call);
    v.first = item * HA_TASK_ROWS;
    int64_t n = ha_min(HA_TASK_ROWS, kh->layout->nk - v.first);
    f32->load_q(st->v->as_f32[thread], &v, n, d_v);
    for (int64_t j = 0; j < n; j++, row += ha_ldq(f32, d_v)) {
        double sum = 0;
        for (int64_t c = 0; c < d_v; c++)
            sum += (double)row[c] * (double)row[c];
        st->v->heads[place].norm[v.first + j] = (float)sum;
    }
    ha_clock_add(call, thread, HA_STAGE_HASH, start);
}

void ha_vnorm_norms(ha_call *call, const ha_vnorm *v)
{
    stage st = {.call = call, .v = v};
    if (!is_wanted(call->plan))
        return;
    ha_for_items(call, count_chunks, norms, &st);
}

static int64_t count_rects(const void *arg, int64_t place)
{
    const stage *st = arg;
    int64_t nrects;
    ha_wave_rects(st->call->heads[place].layout, st->wave, &nrects);
    return nrects;
}

/* Running sums of one rectangle. A block mask's rectangles all begin at the same key, and the last
 * is the longest: its sums are those of the others. */
static void sum_rect(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    int64_t nrects;
    const ha_masses *m = &st->v->heads[place];
    const ha_rect *rect = ha_wave_rects(call->heads[place].layout, st->wave, &nrects) + item;
    double sum = 0, start = ha_clock(call);
    if (call->plan->params->block_mask && item != nrects - 1)
        return;
    for (int64_t x = 0; x < rect->nk; x++)
        m->mass[rect->k0 + x] = sum +=
            (double)m->norm[ha_key_at(rect, st->sort->heads[place].korder, x)];
    ha_clock_add(call, thread, HA_STAGE_SORT, start);
}

void ha_vnorm_sum(ha_call *call, const ha_vnorm *v, const ha_sortlsh *sort, int wave)
{
    stage st = {call, v, sort, wave};
    if (!is_wanted(call->plan))
        return;
    ha_for_items(call, count_rects, sum_rect, &st);
}
