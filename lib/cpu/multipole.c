/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/multipole.h"

#include <string.h>

#include "cpu/clock.h"
#include "int64.h"

/* One thread's buffers. */
typedef struct ha_multipole_thread {
    ha_softmax rows;
    ha_bundle_work bundle;
    ha_hits hits;
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
        if (ha_detects(plan))
            ha_hits_carve(c, plan, &t->hits);
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

/* What an item works on: an era of one query head. */
typedef struct era_at {
    const ha_key_head *kh;
    const ha_order *order;
    const ha_cells *cells;
    const ha_detector *det; /* or NULL */
    int64_t head, number;
    ha_recipe recipe;
    ha_era era;
    float *query;           /* its mean */
} era_at;

static era_at era_of(const stage *st, int64_t place, int64_t head, int64_t number)
{
    const ha_cpu_plan *plan = st->call->plan;
    const ha_multipole *m = st->multipole;
    const ha_key_head *kh = &st->call->heads[place];
    int64_t index = place * plan->group + head;
    era_at at = {.kh = kh, .order = &m->orders.heads[place], .cells = &m->sets.cells[index],
                 .det = ha_detects(plan) ? &m->detectors.heads[index] : NULL, .head = head,
                 .number = number};
    at.recipe = ha_recipe_of(plan->params, kh->layout->nk, plan->problem->causal);
    at.era = ha_era_at(kh->layout, &at.recipe, plan->problem->causal, number);
    at.query = at.cells->query + number * ha_cells_ldk(plan);
    return at;
}

static int64_t count_eras(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    return ha_eras_of(st->call->heads[place].layout, plan->problem->causal) * plan->group;
}

/* What the era's queries are like. */
static void begin_era(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_multipole *m = st->multipole;
    const ha_cpu_plan *plan = st->call->plan;
    const era_at at = era_of(st, place, item % plan->group, item / plan->group);
    double start = ha_clock(st->call);
    if (at.era.nq == 0)
        return;
    ha_cells_mean(plan, &m->sets, thread, at.kh, at.head, &at.era, at.query);
    if (at.det)
        ha_detector_begin(plan, &m->detectors, thread, &at.det->eras[at.number], at.kh, at.head,
                          at.order, &at.era);
    ha_clock_add(st->call, thread, HA_STAGE_HASH, start);
}

/* ---- cells ----------------------------------------------------------------------------------- */

static int has_era(const stage *st, int64_t place)
{
    const ha_layout *l = st->call->heads[place].layout;
    return st->number < ha_eras_of(l, st->call->plan->problem->causal);
}

/* Cells of an item: those of a panel. */
static int64_t item_cells(const ha_cpu_plan *plan)
{
    return plan->kernels->f32.nr;
}

static int64_t cells_of(const era_at *at)
{
    return (at->era.end + at->recipe.cell - 1) / at->recipe.cell;
}

static int64_t count_cells(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    if (!has_era(st, place))
        return 0;
    const era_at at = era_of(st, place, 0, st->number);
    int64_t items = (cells_of(&at) + item_cells(plan) - 1) / item_cells(plan);
    return at.era.nq ? items * plan->group : 0;
}

static void expand_cells(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_multipole *m = st->multipole;
    const ha_cpu_plan *plan = st->call->plan;
    const era_at at = era_of(st, place, item % plan->group, st->number);
    const ha_era_basis *directions = at.det ? &at.det->eras[at.number] : NULL;
    int64_t first = item / plan->group * item_cells(plan);
    int64_t end = ha_min(first + item_cells(plan), cells_of(&at));
    double start = ha_clock(st->call);
    for (int64_t x = first; x < end; x++) {
        const ha_cell cell = ha_cell_at(&at.recipe, at.order, &at.era, x);
        ha_cells_expand(plan, &m->sets, thread, at.kh, at.cells, &cell, at.query, at.recipe.sinks);
    }
    if (directions && directions->usable) {
        ha_detector_open(plan, at.det, at.cells, first, end - first);
        for (int64_t x = first; x < end; x++) {
            const ha_cell cell = ha_cell_at(&at.recipe, at.order, &at.era, x);
            ha_detector_encode(plan, &m->detectors, thread, at.det, directions, at.kh, at.cells,
                               &cell);
        }
    }
    ha_clock_add(st->call, thread, HA_STAGE_HASH, start);
}

/* ---- bundles --------------------------------------------------------------------------------- */

static int64_t count_bundles(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    if (!has_era(st, place))
        return 0;
    const era_at at = era_of(st, place, 0, st->number);
    return ha_era_bundles(at.kh->layout, &at.recipe, plan->problem->causal, &at.era) * plan->group;
}

/* NULL: the era has no detector. */
static ha_hits *find_hits(const ha_cpu_plan *plan, ha_multipole_thread *t, const era_at *e,
                                const ha_bundle *b)
{
    if (!e->det || !e->det->eras[e->number].usable)
        return NULL;
    const ha_scanned rows = {
        .kh = e->kh, .cells = e->cells, .det = e->det, .basis = &e->det->eras[e->number],
        .past = b->past, .q = t->bundle.q, .finite = t->bundle.finite, .n = b->rows, .m = t->rows.m, .l = t->rows.l,
    };
    ha_hits_find(plan, &t->hits, &rows);
    return &t->hits;
}

static void attend_bundle(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    const ha_cpu_plan *plan = call->plan;
    ha_multipole_thread *t = &st->multipole->threads[thread];
    int causal = plan->problem->causal;
    const era_at e = era_of(st, place, item % plan->group, st->number);
    const ha_bundle b = ha_bundle_at(e.kh->layout, &e.recipe, causal, &e.era, item / plan->group);
    if (b.rows <= 0)
        return;
    const uint32_t *rows = e.order->rows + e.head * e.kh->layout->nq + b.first;
    const ha_query_rows at = {e.kh, e.head, rows, 0, b.rows};
    double clock = ha_clock(call);
    ha_softmax_load_q(plan, &t->rows, &at);
    if (causal)
        ha_softmax_load(plan, &t->rows, &st->states[place], &at);
    else
        ha_softmax_clear(plan, &t->rows, at.rows);
    clock = ha_clock_add(call, thread, HA_STAGE_STATE, clock);
    attend_keys(plan, t, &at, NULL, e.recipe.sinks);
    clock = ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
    ha_bundle_load(plan, &t->bundle, &at);
    ha_hits *hits = find_hits(plan, t, &e, &b);
    clock = ha_clock_add(call, thread, HA_STAGE_HASH, clock);
    ha_bundle_columns(plan, &t->bundle, e.kh, e.order, e.cells, &e.era, b.past, hits);
    clock = ha_clock_add(call, thread, HA_STAGE_GATHER, clock);
    attend_keys(plan, t, &at, t->bundle.selected, t->bundle.nselected);
    clock = ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
    attend_columns(plan, t, at.rows);
    const ha_open_bundle open = {&at, &t->bundle, e.cells, e.order, &e.era, hits, &t->rows};
    if (hits)
        ha_private_keys(plan, &st->multipole->privates, thread, &open);
    clock = ha_clock_add(call, thread, HA_STAGE_SAMPLE, clock);
    ha_softmax_finish(plan, &t->rows, &at);
    ha_clock_add(call, thread, HA_STAGE_STATE, clock);
}

void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states)
{
    stage st = {call, m, states, 0};
    int64_t eras = 0;
    for (int64_t i = 0; i < call->nheads; i++)
        eras = ha_max(eras, ha_eras_of(call->heads[i].layout, call->plan->problem->causal));
    ha_orders_sort(call, &m->orders);
    ha_for_items(call, count_eras, begin_era, &st);
    for (; st.number < eras; st.number++) {
        ha_for_items(call, count_cells, expand_cells, &st);
        ha_for_items(call, count_bundles, attend_bundle, &st);
    }
}
