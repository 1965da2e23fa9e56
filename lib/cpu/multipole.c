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
static void attend_keys(const ha_bundle_walk *walk, ha_multipole_thread *t,
                        const ha_query_rows *at, const uint32_t *keys, int64_t n)
{
    const ha_cpu_plan *plan = walk->call->plan;
    ha_picks *picks = &t->picks;
    picks->kind = HA_EXACT_COLUMNS;
    for (int64_t first = 0; first < n; first += picks->room) {
        picks->n = ha_min(picks->room, n - first);
        for (int64_t j = 0; j < picks->n; j++) {
            picks->key[j] = keys ? keys[first + j] : (uint32_t)(first + j);
            picks->logw[j] = 0;
        }
        const ha_columns c = ha_columns_picked(at->kh, picks);
        ha_columns_pack(plan, &t->pack, &c, walk->with_values);
        ha_columns_attend(plan, &t->rows, at->rows, &t->pack, &c, NULL, walk->with_values, NULL);
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/* The rows attend to the bundle's columns, which stand for the cells. */
static void attend_columns(const ha_bundle_walk *walk, ha_multipole_thread *t, int64_t rows)
{
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_columns *all = &t->bundle.columns;
    for (int64_t first = 0; first < all->n; first += t->picks.room) {
        ha_columns c = *all;
        c.k.first = c.v.first = first;
        c.n = ha_min(t->picks.room, all->n - first);
        c.logw = t->picks.logw;
        memcpy(c.logw, all->logw + first, (size_t)c.n * sizeof *c.logw);
        ha_columns_pack(plan, &t->pack, &c, walk->with_values);
        ha_columns_attend(plan, &t->rows, rows, &t->pack, &c, NULL, walk->with_values, NULL);
    }
}

/* ---- eras ------------------------------------------------------------------------------------ */

int64_t ha_walk_eras(const ha_call *call)
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

int ha_walk_era(const ha_bundle_walk *walk, int64_t place, ha_recipe *r, ha_era *era)
{
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_layout *l = walk->call->heads[place].layout;
    *r = ha_recipe_of(plan->params, l->nk, plan->problem->causal);
    return ha_era_at(l, r, plan->problem->causal, walk->number, era);
}

/* ---- detectors ------------------------------------------------------------------------------- */

/* Keys that one item of coding takes. */
#define CODED_KEYS 1024

static int64_t count_detectors(const void *arg, int64_t place)
{
    const ha_bundle_walk *walk = arg;
    ha_recipe r;
    ha_era era;
    return ha_walk_era(walk, place, &r, &era) && era.nq > 0 ? walk->call->plan->group : 0;
}

static void begin_detector(void *arg, int64_t place, int64_t head, int thread)
{
    const ha_bundle_walk *walk = arg;
    const ha_multipole *m = walk->multipole;
    const ha_cpu_plan *plan = walk->call->plan;
    double start = ha_clock(walk->call);
    ha_recipe r;
    ha_era era;
    ha_walk_era(walk, place, &r, &era);
    ha_detector_begin(plan, &m->detectors, thread,
                      &m->detectors.heads[place * plan->group + head], &walk->call->heads[place],
                      head, &m->orders.heads[place], &era);
    ha_clock_add(walk->call, thread, HA_STAGE_HASH, start);
}

static int64_t count_codes(const void *arg, int64_t place)
{
    const ha_bundle_walk *walk = arg;
    ha_recipe r;
    ha_era era;
    if (!ha_walk_era(walk, place, &r, &era) || era.nq <= 0)
        return 0;
    return (era.end + CODED_KEYS - 1) / CODED_KEYS * walk->call->plan->group;
}

static void encode_keys(void *arg, int64_t place, int64_t item, int thread)
{
    const ha_bundle_walk *walk = arg;
    const ha_multipole *m = walk->multipole;
    const ha_cpu_plan *plan = walk->call->plan;
    int64_t index = place * plan->group + item % plan->group;
    const ha_detector *det = &m->detectors.heads[index];
    double start = ha_clock(walk->call);
    ha_recipe r;
    ha_era era;
    ha_walk_era(walk, place, &r, &era);
    int64_t first = item / plan->group * CODED_KEYS, end = ha_min(era.end, first + CODED_KEYS);
    for (int64_t x = first; det->usable && x < end; x += r.cell)
        ha_detector_encode(plan, &m->detectors, thread, det, &walk->call->heads[place],
                           &m->sets.cells[index], x / r.cell,
                           ha_past_keys(&m->orders.heads[place], &era, x), ha_min(r.cell, end - x));
    ha_clock_add(walk->call, thread, HA_STAGE_HASH, start);
}

void ha_walk_begin_era(ha_bundle_walk *walk)
{
    const ha_multipole *m = walk->multipole;
    ha_cells_expand(walk->call, &m->sets, &m->orders, walk->number);
    if (ha_detects(walk->call->plan)) {
        ha_for_items(walk->call, count_detectors, begin_detector, walk);
        ha_for_items(walk->call, count_codes, encode_keys, walk);
    }
}

/* ---- bundles --------------------------------------------------------------------------------- */

int64_t ha_walk_bundles(const ha_bundle_walk *walk, int64_t place)
{
    const ha_cpu_plan *plan = walk->call->plan;
    ha_recipe r;
    ha_era era;
    if (!ha_walk_era(walk, place, &r, &era))
        return 0;
    return ha_era_bundles(walk->call->heads[place].layout, &r, plan->problem->causal, &era) *
           plan->group;
}

int ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                 ha_walk_bundle *b)
{
    const ha_call *call = walk->call;
    const ha_cpu_plan *plan = call->plan;
    const ha_multipole *m = walk->multipole;
    const ha_key_head *kh = &call->heads[place];
    const ha_order *order = &m->orders.heads[place];
    int64_t head = item % plan->group, index = place * plan->group + head;
    ha_walk_era(walk, place, &b->recipe, &b->era);
    const ha_bundle rows = ha_bundle_at(kh->layout, &b->recipe, plan->problem->causal, &b->era,
                                        item / plan->group);
    if (rows.rows <= 0)
        return 0;
    double clock = ha_clock(call);
    b->at = (ha_query_rows){kh, head, order->rows + head * kh->layout->nq + rows.first, 0,
                            rows.rows};
    b->work = &m->threads[thread].bundle;
    b->detector = ha_detects(plan) && m->detectors.heads[index].usable ? &m->detectors.heads[index]
                                                                       : NULL;
    b->open = (ha_open_bundle){&b->at, b->work, &m->sets.cells[index], order, &b->era, rows.past,
                               &m->threads[thread].rows, NULL, NULL};
    ha_bundle_load(plan, b->work, &b->at);
    ha_bundle_columns(plan, b->work, kh, order, b->open.cells, &b->era, rows.past);
    ha_clock_add(call, thread, HA_STAGE_GATHER, clock);
    return 1;
}

void ha_walk_attend(const ha_bundle_walk *walk, int64_t place, int thread, ha_walk_bundle *b)
{
    const ha_call *call = walk->call;
    const ha_cpu_plan *plan = call->plan;
    ha_multipole_thread *t = &walk->multipole->threads[thread];
    double clock = ha_clock(call);
    ha_softmax_load_q(plan, &t->rows, &b->at);
    if (plan->problem->causal)
        ha_softmax_load(plan, &t->rows, &walk->states[place], &b->at);
    else
        ha_softmax_clear(plan, &t->rows, b->at.rows);
    clock = ha_clock_add(call, thread, HA_STAGE_STATE, clock);
    attend_keys(walk, t, &b->at, NULL, b->recipe.sinks);
    attend_keys(walk, t, &b->at, b->work->selected, b->work->nselected);
    clock = ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
    attend_columns(walk, t, b->at.rows);
    if (b->detector)
        ha_private_keys(plan, &walk->multipole->privates, thread, b->detector, &b->open);
    ha_clock_add(call, thread, HA_STAGE_SAMPLE, clock);
}

/* ---- forward --------------------------------------------------------------------------------- */

static int64_t count_bundles(const void *arg, int64_t place)
{
    return ha_walk_bundles(arg, place);
}

static void attend_bundle(void *arg, int64_t place, int64_t item, int thread)
{
    const ha_bundle_walk *walk = arg;
    ha_walk_bundle b;
    if (!ha_walk_open(walk, place, item, thread, &b))
        return;
    ha_walk_attend(walk, place, thread, &b);
    double clock = ha_clock(walk->call);
    ha_softmax_finish(walk->call->plan, b.open.s, &b.at);
    ha_clock_add(walk->call, thread, HA_STAGE_STATE, clock);
}

void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states)
{
    ha_bundle_walk walk = {call, m, states, 1, 0};
    int64_t eras = ha_walk_eras(call);
    ha_orders_sort(call, &m->orders);
    for (; walk.number < eras; walk.number++) {
        ha_walk_begin_era(&walk);
        ha_for_items(call, count_bundles, attend_bundle, &walk);
    }
}
