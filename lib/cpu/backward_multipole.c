/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/backward_multipole.h"

#include <math.h>
#include <string.h>

#include "cpu/backward_private.h"
#include "cpu/clock.h"
#include "int64.h"

/* Keys of an item that shares out gradients of cells; a multiple of every cell. */
#define SHARED_KEYS 1024

/* One thread's buffers. */
typedef struct ha_multipole_grad_thread {
    ha_grad grad;
    float *logw;            /* of a batch */
    float *dq;              /* [rows of a bundle][ldgrad] */
    ha_column_sums keys;    /* of the sinks, then of the selected keys */
    ha_column_sums columns; /* of the bundle's columns */
    ha_private_grad private;
} ha_multipole_grad_thread;

typedef struct stage {
    ha_bundle_walk walk;
    const ha_backward_multipole *b;
    const ha_sums *sums;
} stage;

/* ---- workspace ------------------------------------------------------------------------------- */

static ha_column_sums carve_sums(ha_carver *c, const ha_cpu_plan *plan, int64_t n)
{
    ha_column_sums s = {.ldk = plan->ldgrad, .ldv = plan->ldacc};
    s.dk = ha_carve(c, n * plan->ldgrad, sizeof *s.dk);
    s.dv = ha_carve(c, n * plan->ldacc, sizeof *s.dv);
    return s;
}

/* What detectors need to find forward's private keys again. */
static void carve_near(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                       ha_backward_multipole *b)
{
    int64_t rows = plan->max.nleaves ? plan->group * plan->max.nq : 0;
    b->states = ha_carve(c, plan->in_flight, sizeof *b->states);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        ha_states none, *s = c->base ? &b->states[i] : &none;
        s->m = ha_carve(c, rows, sizeof *s->m);
        s->l = ha_carve(c, rows, sizeof *s->l);
        s->acc = NULL;
    }
    if (plan->max.nleaves)
        ha_exact_carve(c, plan, nthreads, 0, &b->near);
}

void ha_backward_multipole_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                                 ha_backward_multipole *b)
{
    const ha_bundle_sizes most = ha_largest_bundle(plan);
    int64_t heads = plan->in_flight * plan->group;
    ha_multipole_carve(c, plan, nthreads, &b->decisions);
    if (ha_detects(plan))
        carve_near(c, plan, nthreads, b);
    b->cells = ha_carve(c, heads, sizeof *b->cells);
    for (int64_t i = 0; i < heads; i++) {
        const ha_column_sums cells = carve_sums(c, plan, most.cells);
        if (c->base)
            b->cells[i] = cells;
    }
    b->added = ha_carve(c, plan->in_flight, sizeof *b->added);
    b->threads = ha_carve(c, nthreads, sizeof *b->threads);
    for (int i = 0; i < nthreads; i++) {
        ha_multipole_grad_thread none, *t = c->base ? &b->threads[i] : &none;
        ha_grad_carve(c, plan, &t->grad);
        t->logw = ha_carve(c, ha_round_up(ha_keys_held(plan, HA_BATCH_KEYS), plan->arith->nr),
                           sizeof *t->logw);
        t->dq = ha_carve(c, ha_rows_held(plan, HA_BUNDLE_ROWS) * plan->ldgrad, sizeof *t->dq);
        t->keys = carve_sums(c, plan, most.selected + ha_min(plan->params->num_sinks,
                                                             plan->max.nk));
        t->columns = carve_sums(c, plan, most.columns);
        if (ha_detects(plan))
            ha_private_grad_carve(c, plan, &t->private);
    }
}

/* ---- a bundle -------------------------------------------------------------------------------- */

/* A bundle at work. */
typedef struct job {
    const stage *st;
    const ha_cpu_plan *plan;
    ha_multipole_grad_thread *t;
    const ha_sums *sums; /* of its key head */
    ha_walk_bundle b;
} job;

static void clear(const ha_column_sums *s, int64_t n)
{
    memset(s->dk, 0, (size_t)(n * s->ldk) * sizeof *s->dk);
    memset(s->dv, 0, (size_t)(n * s->ldv) * sizeof *s->dv);
}

/* The packed rows against n keys and values, by their index or from their first on. logw: NULL for
 * weights of 1. Their gradients are added to dk and dv, row by row. */
static void run_keys(const job *j, int64_t rows, ha_rows k, ha_rows v, const float *logw,
                     int64_t n, float *dk, float *dv)
{
    const ha_cpu_plan *plan = j->plan;
    ha_multipole_grad_thread *t = j->t;
    int64_t room = ha_keys_held(plan, HA_BATCH_KEYS);
    for (int64_t first = 0; first < n; first += room) {
        int64_t keys = ha_min(room, n - first), padded = ha_round_up(keys, plan->arith->nr);
        for (int64_t x = 0; x < padded; x++)
            t->logw[x] = x >= keys ? -INFINITY : logw ? logw[first + x] : 0;
        ha_grad_pack_keys(plan, &t->grad, &k, &v, keys);
        const ha_grad_block block = {
            .rows = rows, .keys = keys, .logw = t->logw, .dq = t->dq,
            .dk = dk + first * plan->ldgrad, .dv = dv + first * plan->ldacc,
        };
        ha_grad_tiles(plan, &t->grad, &block);
        if (k.index)
            k.index = v.index = k.index + keys;
        k.first = v.first = k.first + keys;
    }
}

/* Adds rows of dq to their sums. */
static void keep_rows(const job *j, const ha_query_rows *at)
{
    int64_t ld = j->plan->ldgrad;
    for (int64_t i = 0; i < at->rows; i++) {
        float *sum = ha_sum_q(j->plan, at->kh, j->sums, 0, at->head, ha_row_of(at, i));
        ha_add_multiple(sum, j->t->dq + i * ld, 1, ld);
    }
}

static ha_private_taker taker_of(const job *j)
{
    const ha_grad *g = &j->t->grad;
    return (ha_private_taker){j->plan, &j->t->private, &j->b.at, j->b.work, g->lse, g->delta,
                              j->t->dq, j->t->columns};
}

/* The gradients of all that the bundle sees of its past, in the thread's buffers. */
static void run_bundle(job *j, int thread)
{
    const ha_cpu_plan *plan = j->plan;
    ha_multipole_grad_thread *t = j->t;
    const ha_bundle_work *w = j->b.work;
    const ha_key_head *kh = j->b.at.kh;
    int64_t rows = j->b.at.rows, sinks = j->b.era.recipe.sinks;
    ha_grad_pack_rows(plan, &t->grad, &j->b.at);
    ha_grad_load_rows(plan, &t->grad, j->sums, &j->b.at);
    memset(t->dq, 0, (size_t)(rows * plan->ldgrad) * sizeof *t->dq);
    clear(&t->keys, sinks + w->nselected);
    clear(&t->columns, w->columns.n);
    if (j->b.hits) {
        ha_private_taker taker = taker_of(j);
        ha_private_grad_begin(&taker);
        j->b.take = ha_private_grad_take;
        j->b.take_arg = &taker;
        ha_walk_attend(&j->st->walk, thread, &j->b);
        ha_private_grad_end(&taker);
    }
    double start = ha_clock(j->st->walk.call);
    ha_rows k = kh->k, v = kh->v;
    run_keys(j, rows, k, v, NULL, sinks, t->keys.dk, t->keys.dv);
    k.index = v.index = w->selected;
    run_keys(j, rows, k, v, NULL, w->nselected, t->keys.dk + sinks * t->keys.ldk,
             t->keys.dv + sinks * t->keys.ldv);
    run_keys(j, rows, w->columns.k, w->columns.v, w->columns.logw, w->columns.n, t->columns.dk,
             t->columns.dv);
    keep_rows(j, &j->b.at);
    ha_clock_add(j->st->walk.call, thread, HA_STAGE_BLOCK, start);
}

/* ---- sums of a key head ---------------------------------------------------------------------- */

static ha_column_sums key_sums(const job *j)
{
    return (ha_column_sums){j->sums->dk, j->sums->dv, j->plan->ldgrad, j->plan->ldacc};
}

/* Shares out the columns: those of candidates to their keys, the others to their cells. */
static void add_columns(const job *j, const ha_column_sums *cells)
{
    const ha_bundle_work *w = j->b.work;
    const ha_column_sums keys = key_sums(j), *columns = &j->t->columns;
    int64_t cell = j->b.era.recipe.cell, past = j->b.past;
    for (int64_t x = 0; x < (past + cell - 1) / cell; x++) {
        int32_t column = w->column[x], first = w->place[x];
        if (column < 0)
            continue;
        if (first < 0)
            ha_columns_add(cells, x, columns, column, exp2f(w->share[x]));
        for (int64_t i = first; first >= 0 && i < first + ha_min(cell, past - x * cell); i++) {
            ha_columns_ask_for(&keys, w->keys[ha_min(i + HA_ROWS_AHEAD, w->nkeys - 1)]);
            if (!w->gone[i])
                ha_columns_add(&keys, w->keys[i], columns, column,
                               exp2f(w->key_score[i] - w->column_mass[column]));
        }
    }
    for (int64_t x = 0; x < w->napart; x++) { /* what their cells will give them is not theirs */
        int64_t position = w->apart[x], number = position / cell;
        int32_t column = w->column[number];
        if (column >= 0)
            ha_columns_add(&keys, w->apart_key[x], columns, column,
                           -exp2f(j->b.era.cells->share[position] + w->share[number]));
    }
}

/* The rows that attend to all keys exactly: those of their past. */
static void add_exact(const job *j)
{
    const ha_cpu_plan *plan = j->plan;
    ha_private_grad *g = &j->t->private;
    ha_query_rows at = j->b.at;
    for (int64_t i = 0; i < g->nexact; i++)
        g->exact[i] = (uint32_t)ha_row_of(&j->b.at, g->exact[i]);
    at.index = g->exact;
    at.rows = g->nexact;
    ha_grad_pack_rows(plan, &j->t->grad, &at);
    ha_grad_load_rows(plan, &j->t->grad, j->sums, &at);
    memset(j->t->dq, 0, (size_t)(at.rows * plan->ldgrad) * sizeof *j->t->dq);
    run_keys(j, at.rows, at.kh->k, at.kh->v, NULL, j->b.past, j->sums->dk, j->sums->dv);
    keep_rows(j, &at);
}

static void add_bundle(const job *j, const ha_column_sums *cells)
{
    const ha_bundle_work *w = j->b.work;
    const ha_column_sums keys = key_sums(j), *from = &j->t->keys;
    int64_t sinks = j->b.era.recipe.sinks;
    for (int64_t x = 0; x < sinks + w->nselected; x++)
        ha_columns_add(&keys, x < sinks ? x : w->selected[x - sinks], from, x, 1);
    add_columns(j, cells);
    if (!j->b.hits)
        return;
    const ha_private_taker taker = taker_of(j);
    ha_private_grad_add(&taker, j->sums);
    if (j->t->private.nexact)
        add_exact(j);
}

/* ---- eras ------------------------------------------------------------------------------------ */

static int64_t count_bundles(const void *arg, int64_t place)
{
    const stage *st = arg;
    return ha_walk_bundles(&st->walk, place);
}

static void work_bundle(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->walk.call;
    const ha_cpu_plan *plan = call->plan;
    atomic_int_least64_t *added = &st->b->added[place];
    job j = {.st = st, .plan = plan, .t = &st->b->threads[thread], .sums = &st->sums[place]};
    int any = ha_walk_open(&st->walk, place, item, thread, &j.b);
    if (any)
        run_bundle(&j, thread);
    double start = ha_clock(call);
    ha_await(added, item);
    if (any)
        add_bundle(&j, &st->b->cells[place * plan->group + item % plan->group]);
    atomic_store_explicit(added, item + 1, memory_order_release);
    ha_clock_add(call, thread, HA_STAGE_STATE, start);
}

/* Items of keys of an era's past from `first` on, a multiple of SHARED_KEYS: all heads of the group
 * after each other. */
static int64_t shares_from(const ha_era *era, int64_t first)
{
    return era->nq ? (era->end - first + SHARED_KEYS - 1) / SHARED_KEYS : 0;
}

static int64_t count_fresh(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_era era = ha_walk_era(&st->walk, place, 0, st->walk.number).era;
    return shares_from(&era, era.fresh);
}

static int64_t count_done(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_era era = ha_walk_era(&st->walk, place, 0, st->walk.number).era;
    return shares_from(&era, era.kept);
}

/* New cells have no gradient yet. */
static void clear_cells(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->walk.call->plan;
    const ha_era_at_work at = ha_walk_era(&st->walk, place, 0, st->walk.number);
    (void)thread;
    int64_t cell = at.recipe.cell, key = at.era.fresh + item * SHARED_KEYS, first = key / cell;
    int64_t end = (ha_min(at.era.end, key + SHARED_KEYS) + cell - 1) / cell;
    for (int64_t head = 0; head < plan->group; head++) {
        ha_column_sums cells = st->b->cells[place * plan->group + head];
        cells.dk += first * cells.ldk;
        cells.dv += first * cells.ldv;
        clear(&cells, end - first);
    }
}

/* Shares out the gradients of cells that the next era does not have to their keys. */
static void share_cells(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->walk.call->plan;
    const ha_sums *s = &st->sums[place];
    const ha_column_sums keys = {s->dk, s->dv, plan->ldgrad, plan->ldacc};
    double start = ha_clock(st->walk.call);
    for (int64_t head = 0; head < plan->group; head++) {
        const ha_era_at_work at = ha_walk_era(&st->walk, place, head, st->walk.number);
        const ha_column_sums *from = &st->b->cells[place * plan->group + head];
        int64_t first = at.era.kept + item * SHARED_KEYS;
        int64_t end = ha_min(at.era.end, first + SHARED_KEYS);
        for (int64_t x = first; x < end; x++) {
            uint32_t key = *ha_past_keys(at.order, &at.era, x);
            int64_t ahead = ha_min(x + HA_ROWS_AHEAD, end - 1), cell = x / at.recipe.cell;
            ha_columns_ask_for(&keys, *ha_past_keys(at.order, &at.era, ahead));
            if ((int64_t)key >= at.recipe.sinks && at.cells->mass[cell] != -INFINITY)
                ha_columns_add(&keys, key, from, cell, exp2f(at.cells->share[x]));
        }
    }
    ha_clock_add(st->walk.call, thread, HA_STAGE_STATE, start);
}

void ha_backward_multipole_run(ha_call *call, const ha_backward_multipole *b, const ha_sums *sums)
{
    stage st = {{call, &b->decisions, b->states, 0, 0}, b, sums};
    int64_t eras = ha_walk_eras(call);
    if (ha_detects(call->plan) && call->plan->max.nleaves)
        ha_exact_sums(call, &b->near, b->states);
    ha_walk_begin(&st.walk);
    for (; st.walk.number < eras; st.walk.number++) {
        ha_walk_begin_era(&st.walk);
        ha_for_items(call, count_fresh, clear_cells, &st);
        for (int64_t i = 0; i < call->nheads; i++)
            atomic_init(&b->added[i], 0);
        ha_for_items(call, count_bundles, work_bundle, &st);
        ha_for_items(call, count_done, share_cells, &st);
    }
}
