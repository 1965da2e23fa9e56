/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/multipole.h"

#include <string.h>

#include "cpu/clock.h"
#include "int64.h"

/* One thread's buffers. */
typedef struct ha_multipole_thread {
    ha_softmax rows;
    ha_bundle_work bundle;
    ha_key_pack pack;
    ha_picks picks;     /* sinks, then the selected keys */
} ha_multipole_thread;

typedef struct stage {
    ha_call *call;
    const ha_multipole *multipole;
    const ha_states *states;
    int64_t number; /* of the era */
} stage;

void ha_multipole_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_multipole *m)
{
    int64_t rows = ha_rows_held(plan, HA_BUNDLE_ROWS);
    ha_orders_carve(c, plan, nthreads, &m->orders);
    ha_cells_carve(c, plan, nthreads, &m->sets);
    ha_detectors_carve(c, plan, nthreads, &m->detectors);
    if (ha_detects(plan))
        ha_privates_carve(c, plan, nthreads, &m->privates);
    m->threads = ha_carve(c, nthreads, sizeof *m->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_multipole_thread none, *t = c->base ? &m->threads[i] : &none;
        ha_softmax_carve(c, plan, &t->rows, rows);
        ha_bundle_carve(c, plan, &t->bundle);
        ha_key_pack_carve(c, plan, &t->pack);
        ha_picks_carve(c, plan, &t->picks);
    }
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* All rows attend to keys as they are: n of them by index, or from 0 on. */
static void attend_keys(const ha_cpu_plan *plan, ha_multipole_thread *t, const ha_query_rows *at,
                        const uint32_t *keys, int64_t n)
{
    ha_picks *picks = &t->picks;
    picks->kind = HA_EXACT_COLUMNS;
    for (int64_t first = 0; first < n; first += picks->room) {
        picks->n = ha_min(picks->room, n - first);
        for (int64_t j = 0; j < picks->n; j++) {
            picks->key[j] = keys ? keys[first + j] : (uint32_t)(first + j);
            picks->logw[j] = 0;
        }
        const ha_columns c = ha_columns_picked(at->kh, picks);
        ha_columns_pack(plan, &t->pack, &c, 1);
        ha_columns_attend(plan, &t->rows, at->rows, &t->pack, &c, NULL, 1, NULL);
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/* The rows attend to the bundle's columns, which stand for the cells. */
static void attend_columns(const ha_cpu_plan *plan, ha_multipole_thread *t, int64_t rows)
{
    const ha_columns *all = &t->bundle.columns;
    for (int64_t first = 0; first < all->n; first += t->picks.room) {
        ha_columns c = *all;
        c.k.first = c.v.first = first;
        c.n = ha_min(t->picks.room, all->n - first);
        c.logw = t->picks.logw;
        memcpy(c.logw, all->logw + first, (size_t)c.n * sizeof *c.logw);
        ha_columns_pack(plan, &t->pack, &c, 1);
        ha_columns_attend(plan, &t->rows, rows, &t->pack, &c, NULL, 1, NULL);
    }
}

/* ---- eras ------------------------------------------------------------------------------------ */

static int era_of(const stage *st, int64_t place, ha_recipe *r, ha_era *era)
{
    const ha_cpu_plan *plan = st->call->plan;
    const ha_layout *l = st->call->heads[place].layout;
    *r = ha_recipe_of(plan->params, l->nk, plan->problem->causal);
    return ha_era_at(l, r, plan->problem->causal, st->number, era);
}

/* ---- detectors ------------------------------------------------------------------------------- */

/* Keys that one item of coding takes. */
#define CODED_KEYS 1024

static int64_t count_detectors(const void *arg, int64_t place)
{
    const stage *st = arg;
    ha_recipe r;
    ha_era era;
    return era_of(st, place, &r, &era) && era.nq > 0 ? st->call->plan->group : 0;
}

static void begin_detector(void *arg, int64_t place, int64_t head, int thread)
{
    const stage *st = arg;
    const ha_multipole *m = st->multipole;
    const ha_cpu_plan *plan = st->call->plan;
    double start = ha_clock(st->call);
    ha_recipe r;
    ha_era era;
    era_of(st, place, &r, &era);
    ha_detector_begin(plan, &m->detectors, thread,
                      &m->detectors.heads[place * plan->group + head], &st->call->heads[place],
                      head, &m->orders.heads[place], &era);
    ha_clock_add(st->call, thread, HA_STAGE_HASH, start);
}

static int64_t count_codes(const void *arg, int64_t place)
{
    const stage *st = arg;
    ha_recipe r;
    ha_era era;
    if (!era_of(st, place, &r, &era) || era.nq <= 0)
        return 0;
    return (era.end + CODED_KEYS - 1) / CODED_KEYS * st->call->plan->group;
}

static void encode_keys(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_multipole *m = st->multipole;
    const ha_cpu_plan *plan = st->call->plan;
    int64_t index = place * plan->group + item % plan->group;
    const ha_detector *det = &m->detectors.heads[index];
    double start = ha_clock(st->call);
    ha_recipe r;
    ha_era era;
    era_of(st, place, &r, &era);
    int64_t first = item / plan->group * CODED_KEYS, end = ha_min(era.end, first + CODED_KEYS);
    for (int64_t x = first; det->usable && x < end; x += r.cell)
        ha_detector_encode(plan, &m->detectors, thread, det, &st->call->heads[place],
                           &m->sets.cells[index], x / r.cell,
                           ha_past_keys(&m->orders.heads[place], &era, x), ha_min(r.cell, end - x));
    ha_clock_add(st->call, thread, HA_STAGE_HASH, start);
}

/* ---- bundles --------------------------------------------------------------------------------- */

static int64_t count_bundles(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    ha_recipe r;
    ha_era era;
    if (!era_of(st, place, &r, &era))
        return 0;
    return ha_era_bundles(st->call->heads[place].layout, &r, plan->problem->causal, &era) *
           plan->group;
}

static void attend_bundle(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    const ha_key_head *kh = &call->heads[place];
    const ha_order *order = &st->multipole->orders.heads[place];
    ha_multipole_thread *t = &st->multipole->threads[thread];
    int64_t head = item % plan->group;
    const ha_cells *cells = &st->multipole->sets.cells[place * plan->group + head];
    int causal = plan->problem->causal;
    ha_recipe r;
    ha_era era;
    era_of(st, place, &r, &era);
    const ha_bundle b = ha_bundle_at(kh->layout, &r, causal, &era, item / plan->group);
    if (b.rows <= 0)
        return;
    const uint32_t *rows = order->rows + head * kh->layout->nq + b.first;
    const ha_query_rows at = {kh, head, rows, 0, b.rows};
    double clock = ha_clock(call);
    ha_softmax_load_q(plan, &t->rows, &at);
    if (causal)
        ha_softmax_load(plan, &t->rows, &st->states[place], &at);
    else
        ha_softmax_clear(plan, &t->rows, at.rows);
    clock = ha_clock_add(call, thread, HA_STAGE_STATE, clock);
    attend_keys(plan, t, &at, NULL, r.sinks);
    clock = ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
    ha_bundle_load(plan, &t->bundle, &at);
    ha_bundle_columns(plan, &t->bundle, kh, order, cells, &era, b.past);
    clock = ha_clock_add(call, thread, HA_STAGE_GATHER, clock);
    attend_keys(plan, t, &at, t->bundle.selected, t->bundle.nselected);
    clock = ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
    attend_columns(plan, t, at.rows);
    const ha_open_bundle open = {&at, &t->bundle, cells, order, &era, b.past, &t->rows};
    if (ha_detects(plan))
        ha_private_keys(plan, &st->multipole->privates, thread,
                        &st->multipole->detectors.heads[place * plan->group + head], &open);
    clock = ha_clock_add(call, thread, HA_STAGE_SAMPLE, clock);
    ha_softmax_finish(plan, &t->rows, &at);
    ha_clock_add(call, thread, HA_STAGE_STATE, clock);
}

/* Eras of the longest sequence in flight. */
static int64_t eras_of(const ha_call *call)
{
    const ha_cpu_plan *plan = call->plan;
    int64_t most = 0;
    ha_era era;
    for (int64_t i = 0; i < call->nheads; i++) {
        const ha_layout *l = call->heads[i].layout;
        const ha_recipe r = ha_recipe_of(plan->params, l->nk, plan->problem->causal);
        while (ha_era_at(l, &r, plan->problem->causal, most, &era))
            most++;
    }
    return most;
}

void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states)
{
    stage st = {call, m, states, 0};
    int64_t eras = eras_of(call);
    ha_orders_sort(call, &m->orders);
    for (; st.number < eras; st.number++) {
        ha_cells_expand(call, &m->sets, &m->orders, st.number);
        if (ha_detects(call->plan)) {
            ha_for_items(call, count_detectors, begin_detector, &st);
            ha_for_items(call, count_codes, encode_keys, &st);
        }
        ha_for_items(call, count_bundles, attend_bundle, &st);
    }
}
