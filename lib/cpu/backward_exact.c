/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/backward_exact.h"

#include <math.h>

#include "cpu/clock.h"
#include "cpu/grad.h"
#include "cpu/pairs.h"
#include "int64.h"

/* One thread's buffers. */
typedef struct ha_pair_thread {
    ha_grad grad;
    float *logw; /* [HA_GRAD_ROWS keys] */
} ha_pair_thread;

/* Leaves of one class, which share no keys. */
typedef struct stage {
    ha_call *call;
    const ha_backward_exact *b;
    const ha_sums *sums;
    int64_t class;
} stage;

ha_copies ha_copies_of(const ha_cpu_plan *plan, const ha_layout *layout)
{
    if (!layout->nleaves)
        return (ha_copies){1, 1};
    const ha_grid g = ha_largest_grid(plan, layout);
    return (ha_copies){g.row_copies, g.key_copies};
}

/* Counters of one leaf: the last step that is done, of each seat of the rows, then of the keys. */
static int64_t counters(const ha_cpu_plan *plan, const ha_layout *layout)
{
    const ha_grid g = ha_largest_grid(plan, layout);
    return ha_row_seats(&g) + ha_key_seats(&g);
}

void ha_backward_exact_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                             ha_backward_exact *b)
{
    int64_t most = 0;
    for (int64_t i = 0; i < plan->nlayouts; i++) {
        const ha_layout *l = &plan->layouts[i];
        most = ha_max(most, l->nleaves ? l->nleaves * counters(plan, l) : 0);
    }
    b->progress = ha_carve(c, plan->in_flight, sizeof *b->progress);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        atomic_int_least64_t *none, **progress = c->base ? &b->progress[i] : &none;
        *progress = ha_carve(c, most, sizeof **progress);
    }
    b->threads = ha_carve(c, nthreads, sizeof *b->threads);
    for (int i = 0; most && i < nthreads; i++) {
        ha_pair_thread none, *t = c->base ? &b->threads[i] : &none;
        ha_grad_carve(c, plan, &t->grad);
        t->logw = ha_carve(c, ha_round_up(ha_keys_held(plan, HA_GRAD_ROWS), plan->arith->nr),
                           sizeof *t->logw);
    }
}

/* ---- a pair ---------------------------------------------------------------------------------- */

/* Rows [first, end) of the leaf, of one head, against keys [key, key_end) of the sequence. */
typedef struct pair {
    const ha_cpu_plan *plan;
    const ha_key_head *kh;
    const ha_sums *sums;
    const ha_leaf *leaf;
    int64_t head, first, end;
    int64_t key, key_end;
    int64_t row_copy, key_copy;
} pair;

/* Packs and runs part of a pair. Returns 0 if it must be cut into rows: a NaN or Inf that a row
 * does not see would reach it, as 0 * NaN, through the sums over rows or keys. */
static int run_pair(const pair *p, ha_pair_thread *t, int cut)
{
    const ha_cpu_plan *plan = p->plan;
    int causal = plan->problem->causal;
    int64_t limit = ha_leaf_limit(p->kh->layout, p->leaf, causal, p->first) - p->key;
    int64_t keys = ha_min(p->key_end, p->key + limit + causal * (p->end - 1 - p->first)) - p->key;
    if (keys <= 0)
        return 1;
    const ha_query_rows at = {p->kh, p->head, NULL, p->leaf->q0 + p->first, p->end - p->first};
    ha_rows k = p->kh->k, v = p->kh->v;
    k.first = v.first = p->key;
    int finite = ha_grad_pack_rows(plan, &t->grad, &at);
    finite &= ha_grad_pack_keys(plan, &t->grad, &k, &v, keys);
    if (!finite && !cut && limit < keys)
        return 0;
    ha_grad_load_rows(plan, &t->grad, p->sums, &at);
    int64_t padded = ha_round_up(keys, plan->arith->nr);
    for (int64_t j = 0; j < padded; j++)
        t->logw[j] = j < keys ? 0 : -INFINITY;
    const ha_grad_block block = {
        .rows = at.rows,
        .keys = keys,
        .limit = limit,
        .slope = limit < keys,
        .logw = t->logw,
        .dq = ha_sum_q(plan, p->kh, p->sums, p->row_copy, p->head, at.first),
        .dk = ha_sum_k(plan, p->kh, p->sums, p->key_copy, p->key),
        .dv = ha_sum_v(plan, p->kh, p->sums, p->key_copy, p->key),
    };
    ha_grad_tiles(plan, &t->grad, &block);
    return 1;
}

/* The pair of seats x and y. */
static void work_pair(pair p, const ha_grid *g, ha_pair_thread *t, int64_t x, int64_t y)
{
    p.head = x % g->rows / g->head;
    p.key = p.leaf->k0 + y % g->keys * g->step;
    p.key_end = ha_min(p.key + g->step, p.kh->layout->nk);
    p.row_copy = x / g->rows;
    p.key_copy = y / g->keys;
    ha_block_rows(g, x % g->rows, &p.first, &p.end);
    if (run_pair(&p, t, 0))
        return;
    for (pair row = p; row.first < p.end; row.first++) {
        row.end = row.first + 1;
        run_pair(&row, t, 1);
    }
}

/* ---- all pairs ------------------------------------------------------------------------------- */

static int64_t classes_of(const ha_layout *l)
{
    return ha_min(l->leaf_classes, l->nleaves);
}

/* Leaves of the class that a sequence has. */
static int64_t class_leaves(const ha_layout *l, int64_t class)
{
    return class < classes_of(l) ? (l->nleaves - class + l->leaf_classes - 1) / l->leaf_classes : 0;
}

static int64_t width_of(const ha_grid *g)
{
    return ha_min(ha_row_seats(g), ha_key_seats(g));
}

static int64_t count_pairs(const void *arg, int64_t place)
{
    const stage *st = arg;
    const ha_layout *l = st->call->heads[place].layout;
    int64_t leaves = class_leaves(l, st->class);
    if (!leaves)
        return 0;
    const ha_grid g = ha_largest_grid(st->call->plan, l);
    return ha_grid_steps(&g) * width_of(&g) * leaves;
}

/* Items go through the steps; in each, through the pairs; of each, through the leaves. */
static void pair_item(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_layout *l = kh->layout;
    const ha_grid most = ha_largest_grid(plan, l);
    int64_t leaves = class_leaves(l, st->class), x, y;
    int64_t number = st->class + item % leaves * l->leaf_classes;
    item /= leaves;
    int64_t s = item / width_of(&most) + 1, i = item % width_of(&most);
    const ha_grid g = ha_grid_of(plan, l, &l->leaves[number]);
    if (!ha_pair_at(&g, s, i, &x, &y))
        return;
    atomic_int_least64_t *row_done =
        st->b->progress[place] + number * (ha_row_seats(&most) + ha_key_seats(&most));
    atomic_int_least64_t *key_done = row_done + ha_row_seats(&most);
    const pair p = {.plan = plan, .kh = kh, .sums = &st->sums[place], .leaf = &l->leaves[number]};
    double start = ha_clock(st->call);
    ha_await(&row_done[x], ha_row_step_before(&g, x, s));
    ha_await(&key_done[y], ha_key_step_before(&g, y, s));
    work_pair(p, &g, &st->b->threads[thread], x, y);
    atomic_store_explicit(&row_done[x], s, memory_order_release);
    atomic_store_explicit(&key_done[y], s, memory_order_release);
    ha_clock_add(st->call, thread, HA_STAGE_LEAF, start);
}

void ha_backward_exact_run(ha_call *call, const ha_backward_exact *b, const ha_sums *sums)
{
    int64_t classes = 0;
    for (int64_t i = 0; i < call->nheads; i++) {
        const ha_layout *l = call->heads[i].layout;
        int64_t n = l->nleaves ? l->nleaves * counters(call->plan, l) : 0;
        classes = ha_max(classes, classes_of(l));
        for (int64_t x = 0; x < n; x++)
            atomic_init(&b->progress[i][x], 0);
    }
    for (stage st = {call, b, sums, 0}; st.class < classes; st.class++)
        ha_for_items(call, count_pairs, pair_item, &st);
}
