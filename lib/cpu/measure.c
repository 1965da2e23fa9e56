/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/measure.h"

#include <math.h>

#include "context.h"
#include "cpu/checked.h"
#include "cpu/columns.h"
#include "cpu/cpu_backend.h"
#include "cpu/hardness.h"
#include "cpu/reach.h"
#include "int64.h"
#include "status.h"

/* Rows of a group that a slice has about, so that packing its keys costs little beside them. */
#define SLICE_ROWS 256

/* Items of the exact rows of a check, if it has as many slices and ranges. */
#define ITEMS 16

/* Least keys of a range. */
#define RANGE_KEYS 1024

/* Multiply-adds that are worth a thread. */
#define WORK_PER_THREAD 2e6

/* What is kept of every query head until the end. */
typedef struct kept {
    double *diff, *norm; /* [heads][most] */
    int64_t *strip;      /* [heads][most] */
    int64_t *longest;    /* [heads] */
    ha_reach *reach;     /* [heads] */
    double *scratch;     /* [heads * most + 1] */
} kept;

typedef struct work {
    ha_measure m;
    const ha_measured *t;
    kept kept;
    hyperattn_report *total, *per_head;
} work;

/* ---- sizes ----------------------------------------------------------------------------------- */

static void choose_sizes(ha_measure *m, const ha_plan *whole, int64_t rows)
{
    const ha_cpu_plan *plan = whole->data;
    const hyperattn_problem *p = plan->problem;
    m->whole = whole;
    m->plan = *plan;
    m->plan.arith = &plan->kernels->f32;
    m->plan.ldacc = ha_padded_columns(m->plan.arith, p->head_dim_v);
    m->most = ha_min(rows, plan->max.nq);
    m->step = ha_max(HA_CHECK_PANEL, SLICE_ROWS / plan->group / HA_CHECK_PANEL * HA_CHECK_PANEL);
    m->slices = ha_max(1, (m->most + m->step - 1) / m->step);
    m->ranges = ha_max(1, ha_min(ITEMS / m->slices, plan->max.nk / RANGE_KEYS));
    m->panels = (m->most + HA_CHECK_PANEL - 1) / HA_CHECK_PANEL;
}

/* Results do not depend on these. */
static void choose_threads(ha_measure *m)
{
    const hyperattn_problem *p = m->plan.problem;
    int64_t items = m->slices * m->ranges, all = m->whole->device->nthreads;
    double adds = (double)(p->batch * p->nheads) * (double)m->most * (double)m->plan.max.nk *
                  (double)(2 * p->head_dim + p->head_dim_v);
    if (adds / WORK_PER_THREAD < (double)all)
        all = (int64_t)(adds / WORK_PER_THREAD) + 1;
    m->plan.nthreads[0] = (int)all;
    m->in_flight = ha_max(1, ha_min((2 * all + items - 1) / items, m->plan.nkey_heads));
}

void ha_measure_open(ha_measure *m, const ha_plan *whole, int64_t rows)
{
    choose_sizes(m, whole, rows);
    choose_threads(m);
}

/* ---- memory ---------------------------------------------------------------------------------- */

void ha_check_carve_states(ha_carver *c, const ha_measure *m, ha_check *check)
{
    int64_t rows;
    if (__builtin_mul_overflow(m->ranges * m->slices * ha_slice_padded(m), m->plan.group, &rows))
        c->wraps = 1, rows = 0;
    ha_states_carve(c, &m->plan, &check->states, rows);
}

static void carve_check(ha_carver *c, const ha_measure *m, ha_check *check)
{
    const ha_cpu_plan *plan = &m->plan;
    int64_t group = plan->group, padded = m->panels * HA_CHECK_PANEL;
    size_t panel = ha_k_bytes(plan->arith, HA_CHECK_PANEL, plan->problem->head_dim);
    check->row = ha_carve(c, group * m->most, sizeof *check->row);
    check->exact = NULL;
    ha_check_carve_states(c, m, check);
    check->lse_log2 = ha_carve(c, group * padded, sizeof *check->lse_log2);
    check->panel = ha_carve(c, group * m->panels, panel);
    check->diff = ha_carve(c, group * m->most, sizeof *check->diff);
    check->norm = ha_carve(c, group * m->most, sizeof *check->norm);
    check->light = ha_carve(c, HA_CHECK_PARTS * group * padded, sizeof *check->light);
    check->column = ha_carve(c, HA_CHECK_PARTS * group, sizeof *check->column);
    check->sum = ha_carve(c, HA_CHECK_PARTS * plan->problem->head_dim_v, sizeof *check->sum);
    check->centre = ha_carve(c, plan->problem->head_dim_v, sizeof *check->centre);
    check->v = ha_carve(c, HA_CHECK_PARTS, sizeof *check->v);
    check->out = ha_carve(c, HA_CHECK_PARTS * group, sizeof *check->out);
}

static void carve_thread(ha_carver *c, const ha_measure *m, ha_check_thread *t)
{
    const ha_cpu_plan *plan = &m->plan;
    const ha_arith *a = plan->arith;
    int64_t d = ha_max(plan->problem->head_dim, plan->problem->head_dim_v);
    int64_t keys = ha_round_up(HA_CHECK_KEYS, a->mr);
    ha_softmax_carve(c, plan, &t->rows, plan->group * ha_slice_padded(m));
    ha_key_pack_carve(c, plan, &t->pack);
    t->logw = ha_carve(c, ha_round_up(HA_BATCH_KEYS, a->nr), sizeof *t->logw);
    t->limit = ha_carve(c, ha_round_up(a->br, a->mr), sizeof *t->limit);
    t->x = ha_carve(c, keys * ha_ldq(a, d), sizeof *t->x);
    t->scores = ha_carve(c, ha_max(d, keys * HA_CHECK_PANEL), sizeof *t->scores);
    t->column = ha_carve(c, HA_CHECK_KEYS, sizeof *t->column);
}

void ha_measure_carve(ha_carver *c, ha_measure *m)
{
    m->checks = ha_carve(c, m->in_flight, sizeof *m->checks);
    m->threads = ha_carve(c, m->plan.nthreads[0], sizeof *m->threads);
    for (int i = 0; i < m->plan.nthreads[0]; i++) {
        ha_check_thread none, *t = c->base ? &m->threads[i] : &none;
        carve_thread(c, m, t);
    }
}

static void carve(ha_carver *c, work *w)
{
    ha_measure *m = &w->m;
    kept *k = &w->kept;
    const hyperattn_problem *p = m->plan.problem;
    int64_t heads = p->batch * p->nheads, rows;
    if (__builtin_mul_overflow(heads, m->most, &rows) || rows == INT64_MAX)
        c->wraps = 1, rows = 0;
    k->diff = ha_carve(c, rows, sizeof *k->diff);
    k->norm = ha_carve(c, rows, sizeof *k->norm);
    k->strip = ha_carve(c, rows, sizeof *k->strip);
    k->longest = ha_carve(c, heads, sizeof *k->longest);
    k->reach = ha_carve(c, heads, sizeof *k->reach);
    k->scratch = ha_carve(c, rows + 1, sizeof *k->scratch);
    ha_measure_carve(c, m);
    for (int64_t i = 0; i < m->in_flight; i++) {
        ha_check none, *check = c->base ? &m->checks[i] : &none;
        carve_check(c, m, check);
    }
}

/* ---- reports --------------------------------------------------------------------------------- */

/* Rows [first, first + n) of what is kept, of nheads heads from head on. */
static ha_error interval(const work *w, int64_t first, int64_t n, int64_t head, int64_t nheads)
{
    const kept *k = &w->kept;
    const ha_checked c = {k->diff + first, k->norm + first,     k->strip + first, n,
                          k->reach + head, k->longest + head, nheads};
    for (int64_t h = head; h < head + nheads; h++) /* a row of out is not finite */
        if (isnan(k->reach[h].out) || isinf(k->reach[h].out))
            return (ha_error){NAN, NAN, NAN};
    return ha_error_interval(&c, k->scratch);
}

static void set_error(hyperattn_report *r, const ha_error *e)
{
    r->rel_error = e->value;
    r->rel_error_low = e->low;
    r->rel_error_high = e->high;
}

/* Largest row error of a head's rows. */
static double worst_row(const work *w, int64_t first, int64_t n, double rel_error)
{
    double worst = 0, norm = 0;
    for (int64_t i = first; i < first + n; i++) {
        worst = ha_larger(w->kept.diff[i], worst);
        norm += w->kept.norm[i];
    }
    if (isnan(rel_error))
        return NAN;
    return worst == 0 ? 0 : sqrt(worst / (norm / (double)n));
}

/* Moves what a check has found to what is kept, from row `first` on; returns the row behind. */
static int64_t keep_head(work *w, const ha_check *c, int64_t head, int64_t first)
{
    kept *k = &w->kept;
    int64_t number = c->kh.query0 + head, nq = c->kh.layout->nq;
    hyperattn_report r = {.struct_size = sizeof r};
    k->reach[number] = ha_check_reach_of(&w->m, c, head);
    k->longest[number] = c->rows ? ha_strip_rows(nq, c->rows, 0) : 1;
    for (int64_t i = 0; i < c->rows; i++) {
        k->diff[first + i] = c->diff[head * w->m.most + i];
        k->norm[first + i] = c->norm[head * w->m.most + i];
        k->strip[first + i] = ha_strip_rows(nq, c->rows, i);
    }
    const ha_error e = interval(w, first, c->rows, number, 1);
    set_error(&r, &e);
    r.max_row_error = worst_row(w, first, c->rows, e.value);
    r.alpha = ha_check_alpha(&w->m, c, head);
    r.kappa = ha_check_kappa(&w->m, c, head);
    r.rows_checked = c->rows;
    w->total->max_row_error = ha_larger(r.max_row_error, w->total->max_row_error);
    w->total->alpha = ha_larger(r.alpha, w->total->alpha);
    w->total->kappa = ha_larger(r.kappa, w->total->kappa);
    w->total->rows_checked += r.rows_checked;
    if (w->per_head)
        w->per_head[number] = r;
    return first + c->rows;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void work_off(void *arg, ha_team *team)
{
    work *w = arg;
    ha_measure *m = &w->m;
    int64_t heads = m->plan.problem->batch * m->plan.problem->nheads, row = 0;
    m->team = team;
    for (int64_t first = 0; first < m->plan.nkey_heads; first += m->nchecks) {
        m->nchecks = ha_min(m->in_flight, m->plan.nkey_heads - first);
        for (int64_t i = 0; i < m->nchecks; i++) {
            ha_check *c = &m->checks[i];
            ha_aim_measure(&c->kh, &m->plan, m->whole, w->t, first + i);
            c->rows = ha_min(m->most, c->kh.layout->nq);
        }
        ha_check_rows(m);
        ha_check_hardness(m);
        ha_check_reach(m);
        for (int64_t i = 0; i < m->nchecks; i++)
            for (int64_t head = 0; head < m->plan.group; head++)
                row = keep_head(w, &m->checks[i], head, row);
    }
    const ha_error e = interval(w, 0, row, 0, heads);
    set_error(w->total, &e);
}

hyperattn_status ha_cpu_measure(const ha_plan *whole, const ha_measured *t, int64_t rows,
                                hyperattn_report *total, hyperattn_report *per_head)
{
    work w = {.t = t, .total = total, .per_head = per_head};
    ha_carver c = {.base = NULL};
    ha_measure_open(&w.m, whole, rows);
    carve(&c, &w);
    if (c.wraps)
        return ha_fail(HYPERATTN_EINVAL, "rows is %lld: their memory wraps", (long long)rows);
    void *memory = ha_alloc(whole->device->ctx, c.used);
    if (!memory)
        return HYPERATTN_ENOMEM;
    c = (ha_carver){.base = memory};
    carve(&c, &w);
    ha_with_team(w.m.plan.nthreads[0], work_off, &w);
    ha_free(whole->device->ctx, memory);
    return HYPERATTN_OK;
}
