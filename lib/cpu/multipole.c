/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/multipole.h"

#include <string.h>

#include "cpu/choices.h"
#include "cpu/clock.h"
#include "int64.h"

/* One thread's buffers. */
typedef struct ha_multipole_thread {
    ha_softmax rows;
    ha_bundle_work bundle;
    ha_hits hits;
    float *earlier;     /* rows before a bundle's leaf, as f32 */
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
        if (ha_detects(plan)) {
            ha_hits_carve(c, plan, &t->hits);
            t->earlier = ha_carve(c, ha_round_up(HA_NEAR_ROWS, plan->kernels->f32.mr) *
                                         ha_cells_ldk(plan), sizeof *t->earlier);
        }
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

/* ---- bundles --------------------------------------------------------------------------------- */

/* The softmax of the bundle's rows over near keys and sinks. */
static void begin_rows(const ha_bundle_walk *walk, int64_t place, int thread,
                       const ha_walk_bundle *b)
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
    attend_keys(walk, t, &b->at, NULL, b->era.recipe.sinks);
    ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
}

/* Rows of the leaf before the bundle's, those that have a past. Returns how many. */
static int64_t earlier_rows(const ha_cpu_plan *plan, const ha_walk_bundle *b, uint32_t *row)
{
    const ha_layout *l = b->era.kh->layout;
    int64_t shift = l->nk - l->nq, leaf = b->era.recipe.leaf, n = 0;
    int64_t begin = (ha_row_of(&b->at, 0) + shift) / leaf * leaf; /* of the bundle's leaf */
    if (!plan->problem->causal)
        return 0;
    for (int64_t x = begin - leaf; x < begin; x += leaf / HA_NEAR_ROWS)
        if (x >= ha_max(0, shift) && ha_near_key(&b->era.recipe, x) > 0)
            row[n++] = (uint32_t)(x - shift);
    return n;
}

/* How much more than their past the rows see, guessed from earlier ones. */
static float guess_near(const ha_bundle_walk *walk, int64_t place, ha_multipole_thread *t,
                        const ha_walk_bundle *b, ha_scanned rows)
{
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_states *states = &walk->states[place];
    float m[HA_NEAR_ROWS], l[HA_NEAR_ROWS];
    uint32_t row[HA_NEAR_ROWS];
    ha_rows q = ha_head_rows(&b->era.kh->q, b->era.head);
    rows.n = earlier_rows(plan, b, row);
    if (rows.n == 0)
        return 0;
    q.index = row;
    plan->kernels->f32.load_q(t->earlier, &q, rows.n, plan->problem->head_dim);
    rows.q = t->earlier;
    for (int64_t i = 0; i < rows.n; i++) {
        int64_t at = b->era.head * b->era.kh->layout->nq + row[i];
        m[i] = states->m[at];
        l[i] = states->l[at];
    }
    return ha_hits_near(plan, &t->hits, &rows, m, l);
}

static void find_hits(const ha_bundle_walk *walk, int64_t place, ha_multipole_thread *t,
                      const ha_walk_bundle *b)
{
    ha_scanned rows = {
        .kh = b->era.kh, .cells = b->era.cells, .det = b->era.detector, .basis = b->era.basis,
        .past = b->past, .q = b->work->q, .finite = b->work->finite, .n = b->work->nrows,
    };
    rows.near = guess_near(walk, place, t, b, rows);
    ha_hits_find(walk->call->plan, &t->hits, &rows);
}

/* The rows that choose for the bundle: its own or, where later ones steer none, rows of the leaf
 * before that have the bundle's place in the order by content. */
static ha_query_rows steering_rows(const ha_walk_bundle *b)
{
    const ha_era_at_work *e = &b->era;
    ha_query_rows at = b->at;
    if (!e->recipe.strict)
        return at;
    at.index = e->order->steering + (at.index - e->order->rows) - e->recipe.leaf;
    at.rows = HA_BUNDLE_ROWS;
    return at;
}

static ha_past past_of(const ha_walk_bundle *b)
{
    const ha_era_at_work *e = &b->era;
    return (ha_past){e->kh, e->order, e->cells, &e->era, &e->recipe, b->past,
                     (b->past + e->recipe.cell - 1) / e->recipe.cell};
}

/* The bundle's own rows, behind those that chose for them. */
static void load_own(const ha_bundle_walk *walk, int64_t place, ha_multipole_thread *t,
                     const ha_walk_bundle *b)
{
    ha_bundle_load(walk->call->plan, b->work, &b->at);
    if (!b->hits)
        return;
    const ha_past past = past_of(b);
    find_hits(walk, place, t, b);
    ha_leave_private(b->work, &past, b->hits);
}

int ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                 ha_walk_bundle *b)
{
    const ha_call *call = walk->call;
    const ha_cpu_plan *plan = call->plan;
    ha_multipole_thread *t = &walk->multipole->threads[thread];
    *b = (ha_walk_bundle){.era = ha_walk_era(walk, place, item % plan->group, walk->number),
                          .work = &t->bundle};
    const ha_era_at_work *e = &b->era;
    const ha_bundle rows = ha_bundle_at(e->kh->layout, &e->recipe, plan->problem->causal, &e->era,
                                        item / plan->group);
    if (rows.rows <= 0)
        return 0;
    b->past = rows.past;
    b->at = (ha_query_rows){e->kh, e->head,
                            e->order->rows + e->head * e->kh->layout->nq + rows.first, 0,
                            rows.rows};
    int detects = e->basis && e->basis->usable;
    if (walk->with_values || detects)
        begin_rows(walk, place, thread, b);
    double clock = ha_clock(call);
    b->hits = detects ? &t->hits : NULL;
    b->steering = steering_rows(b);
    ha_bundle_load(plan, b->work, &b->steering);
    ha_bundle_mean(plan, b->work);
    if (detects)
        find_hits(walk, place, t, b);
    clock = ha_clock_add(call, thread, HA_STAGE_HASH, clock);
    const ha_past past = past_of(b);
    ha_bundle_columns(plan, b->work, &past, b->hits);
    if (b->work->all)
        b->hits = NULL;
    clock = ha_clock_add(call, thread, HA_STAGE_GATHER, clock);
    if (e->recipe.strict)
        load_own(walk, place, t, b);
    ha_clock_add(call, thread, HA_STAGE_HASH, clock);
    return 1;
}

void ha_walk_attend(const ha_bundle_walk *walk, int thread, const ha_walk_bundle *b)
{
    const ha_call *call = walk->call;
    ha_multipole_thread *t = &walk->multipole->threads[thread];
    const ha_open_bundle open = {&b->at, b->work, b->era.cells, b->era.order, &b->era.era, b->hits,
                                 &t->rows, b->take, b->take_arg};
    double clock = ha_clock(call);
    attend_keys(walk, t, &b->at, b->work->selected, b->work->nselected);
    clock = ha_clock_add(call, thread, HA_STAGE_BLOCK, clock);
    attend_columns(walk, t, b->at.rows);
    if (b->hits)
        ha_private_keys(call->plan, &walk->multipole->privates, thread, &open);
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
    ha_walk_attend(walk, thread, &b);
    double clock = ha_clock(walk->call);
    ha_softmax_finish(walk->call->plan, &walk->multipole->threads[thread].rows, &b.at);
    ha_clock_add(walk->call, thread, HA_STAGE_STATE, clock);
}

void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states)
{
    ha_bundle_walk walk = {call, m, states, 1, 0};
    int64_t eras = ha_walk_eras(call);
    ha_walk_begin(&walk);
    for (; walk.number < eras; walk.number++) {
        ha_walk_begin_era(&walk);
        ha_for_items(call, count_bundles, attend_bundle, &walk);
    }
}
