/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/checked.h"

#include <math.h>

#include "cpu/exact.h"
#include "int64.h"

/* Checked rows of one query head in a slice. */
typedef struct piece {
    ha_query_rows at;
    ha_softmax s;
} piece;

static piece piece_of(const ha_measure *m, const ha_check *c, const ha_softmax *s, int64_t slice,
                      int64_t head)
{
    int64_t first = slice * m->step, rows = ha_max(0, ha_min(m->step, c->rows - first));
    const ha_query_rows at = {&c->kh, head, c->row + head * m->most + first, 0, rows};
    return (piece){at, ha_softmax_from(&m->plan, s, head * ha_slice_padded(m))};
}

/* Rows of a tile under a causal mask: checked rows lie far apart, and a tile takes the keys of its
 * last one. */
#define CAUSAL_ROWS 16

static int64_t tile_rows(const ha_measure *m)
{
    const ha_arith *a = m->plan.arith;
    return m->plan.problem->causal ? ha_min(a->br, ha_round_up(CAUSAL_ROWS, a->mr)) : a->br;
}

/* The key behind the last one that a row sees. */
static int64_t limit_of(const ha_measure *m, const ha_check *c, int64_t row)
{
    const ha_layout *l = c->kh.layout;
    return m->plan.problem->causal ? ha_max(0, row + 1 + l->nk - l->nq) : l->nk;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* Rows [r, r + tile_rows) of a piece against keys [x, x + n) of the pack, which begins at key
 * `first`. */
static void attend_rows(const ha_measure *m, const ha_check *c, const ha_check_thread *t,
                        const piece *p, int64_t r, int64_t first, int64_t x, int64_t n, int careful)
{
    const ha_arith *a = m->plan.arith;
    int64_t rows = ha_min(tile_rows(m), p->at.rows - r);
    int64_t low = limit_of(m, c, ha_row_of(&p->at, r)) - first - x;
    int64_t high = limit_of(m, c, ha_row_of(&p->at, r + rows - 1)) - first - x;
    if (high <= 0)
        return;
    ha_tile tile = ha_tile_at(&m->plan, &p->s, r, rows, &t->pack, x, ha_min(n, high));
    tile.logw = t->logw + x;
    if (low < n) {
        for (int64_t i = 0; i < ha_round_up(rows, a->mr); i++) {
            int64_t row = ha_row_of(&p->at, r + ha_min(i, rows - 1));
            t->limit[i] = (int32_t)ha_max(-1, ha_min(n, limit_of(m, c, row) - first - x));
        }
        tile.limit = t->limit;
        tile.careful = careful;
    }
    a->attend(&tile);
}

/* Keys [begin, end) against all rows of the slice. */
static void attend_keys(const ha_measure *m, const ha_check *c, ha_check_thread *t, int64_t slice,
                        int64_t begin, int64_t end)
{
    const hyperattn_problem *p = m->plan.problem;
    const ha_arith *a = m->plan.arith;
    for (int64_t first = begin; first < end; first += HA_BATCH_KEYS) {
        int64_t n = ha_min(HA_BATCH_KEYS, end - first), padded = ha_round_up(n, a->nr);
        ha_rows k = c->kh.k, v = c->kh.v;
        k.first = v.first = first;
        for (int64_t j = 0; j < padded; j++)
            t->logw[j] = j < n ? 0 : -INFINITY;
        t->pack.keys = n;
        a->pack_k(t->pack.k, &k, n, p->head_dim);
        int finite = a->pack_v(t->pack.v, padded / a->pair, 0, &v, n, p->head_dim_v);
        for (int64_t head = 0; head < m->plan.group; head++) {
            const piece at = piece_of(m, c, &t->rows, slice, head);
            for (int64_t x = 0; x < n; x += a->bc)
                for (int64_t r = 0; r < at.at.rows; r += tile_rows(m))
                    attend_rows(m, c, t, &at, r, first, x, ha_min(a->bc, n - x), !finite);
        }
    }
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static ha_states item_states(const ha_measure *m, const ha_check *c, int64_t slice, int64_t range)
{
    int64_t rows = m->plan.group * ha_slice_padded(m);
    return ha_states_from(&m->plan, &c->states, (range * m->slices + slice) * rows);
}

/* Last key that any row of a slice sees. */
static int64_t slice_limit(const ha_measure *m, const ha_check *c, int64_t slice)
{
    int64_t last = ha_min(c->rows, (slice + 1) * m->step) - 1, limit = 0;
    for (int64_t head = 0; head < m->plan.group; head++)
        limit = ha_max(limit, limit_of(m, c, c->row[head * m->most + last]));
    return limit;
}

/* One slice of the rows against one range of the keys, segment by segment. */
static void run_range(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    ha_check_thread *t = &m->threads[thread];
    int64_t slice = i % m->slices, range = i / m->slices % m->ranges;
    const ha_check *c = &m->checks[i / m->slices / m->ranges];
    const ha_states states = item_states(m, c, slice, range);
    int64_t nk = c->kh.layout->nk, rows = m->plan.group * ha_slice_padded(m);
    if (slice * m->step >= c->rows)
        return;
    int64_t end = ha_min(ha_part_begin(nk, range + 1, m->ranges), slice_limit(m, c, slice));
    for (int64_t head = 0; head < m->plan.group; head++) {
        piece p = piece_of(m, c, &t->rows, slice, head);
        ha_softmax_load_q(&m->plan, &p.s, &p.at);
    }
    ha_softmax sum = {.m = states.m, .l = states.l, .acc = states.acc};
    ha_softmax_clear(&m->plan, &sum, rows);
    for (int64_t x = ha_part_begin(nk, range, m->ranges); x < end; x += HA_SEGMENT_KEYS) {
        const ha_states segment = {t->rows.m, t->rows.l, t->rows.acc};
        ha_softmax_clear(&m->plan, &t->rows, rows);
        attend_keys(m, c, t, slice, x, ha_min(end, x + HA_SEGMENT_KEYS));
        ha_softmax_add(&m->plan, &sum, &segment, rows);
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Compares row i of a piece, whose sums are final, with row `out`. */
static void compare_row(const ha_measure *m, const piece *p, int64_t i, const float *out,
                        double *diff, double *norm)
{
    const float *acc = p->s.acc + i * m->plan.ldacc;
    double scale = p->s.l[i] == 0 ? 0 : 1 / (double)p->s.l[i];
    *diff = *norm = 0;
    for (int64_t e = 0; e < m->plan.problem->head_dim_v; e++) {
        double exact = acc[e] * scale, apart = out[e] - exact;
        *diff += apart * apart;
        *norm += exact * exact;
    }
}

/* The rows of a piece of a trial, whose sums are final. */
static void keep_piece(const ha_measure *m, const ha_check *c, const piece *p, int64_t first)
{
    int64_t dv = m->plan.problem->head_dim_v;
    float *exact = c->exact + (p->at.head * m->most + first) * dv;
    for (int64_t i = 0; i < p->at.rows; i++) {
        float scale = p->s.l[i] == 0 ? 0 : 1 / p->s.l[i];
        for (int64_t e = 0; e < dv; e++)
            exact[i * dv + e] = p->s.acc[i * m->plan.ldacc + e] * scale;
    }
}

static void finish_piece(const ha_measure *m, const ha_check *c, ha_check_thread *t, const piece *p,
                         int64_t first)
{
    const hyperattn_problem *problem = m->plan.problem;
    const ha_arith *a = m->plan.arith;
    const ha_rows out = ha_rows_at(&c->kh.o, &p->at);
    int64_t place = p->at.head * m->most + first;
    float *lse = c->lse_log2 + p->at.head * m->panels * HA_CHECK_PANEL + first;
    for (int64_t i = 0; i < p->at.rows; i++) {
        ha_rows one = out;
        one.index = NULL;
        one.first = ha_row_of(&p->at, i);
        a->load_q(t->x, &one, 1, problem->head_dim_v);
        compare_row(m, p, i, t->x, &c->diff[place + i], &c->norm[place + i]);
        lse[i] = p->s.l[i] == 0 ? INFINITY : p->s.m[i] + log2f(p->s.l[i]);
    }
}

/* The ranges of a slice become one, and its rows are compared and packed. */
static void finish_slice(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    const hyperattn_problem *problem = m->plan.problem;
    const ha_check *c = &m->checks[i / m->slices];
    int64_t slice = i % m->slices, first = slice * m->step;
    int64_t rows = m->plan.group * ha_slice_padded(m);
    size_t panel = ha_k_bytes(m->plan.arith, HA_CHECK_PANEL, problem->head_dim) / sizeof(float);
    const ha_states whole = item_states(m, c, slice, 0);
    ha_softmax sum = {.m = whole.m, .l = whole.l, .acc = whole.acc};
    for (int64_t range = 1; first < c->rows && range < m->ranges; range++) {
        const ha_states other = item_states(m, c, slice, range);
        ha_softmax_add(&m->plan, &sum, &other, rows);
    }
    for (int64_t head = 0; head < m->plan.group; head++) {
        piece p = piece_of(m, c, &sum, slice, head);
        if (c->exact) {
            keep_piece(m, c, &p, first);
            continue;
        }
        finish_piece(m, c, &m->threads[thread], &p, first);
        for (int64_t r = 0; r < p.at.rows; r += HA_CHECK_PANEL) {
            ha_rows q = ha_rows_at(&c->kh.q, &p.at);
            q.index += r;
            int64_t place = head * m->panels + (first + r) / HA_CHECK_PANEL;
            m->plan.arith->pack_k(c->panel + (size_t)place * panel, &q,
                                  ha_min(HA_CHECK_PANEL, p.at.rows - r), problem->head_dim);
        }
    }
}

static void draw(const ha_measure *m, const ha_check *c, int64_t head)
{
    uint64_t seed = m->plan.params->seed;
    uint32_t *row = c->row + head * m->most, number = (uint32_t)(c->kh.query0 + head);
    if (c->exact) {
        ha_draw_trial_rows(row, seed, number, c->kh.layout->nq, c->rows);
        return;
    }
    ha_draw_checked_rows(row, seed, number, c->kh.layout->nq, c->rows);
    for (int64_t r = 0; r < m->panels * HA_CHECK_PANEL; r++)
        c->lse_log2[head * m->panels * HA_CHECK_PANEL + r] = INFINITY;
}

void ha_check_rows(ha_measure *m)
{
    for (int64_t i = 0; i < m->nchecks; i++)
        for (int64_t head = 0; head < m->plan.group; head++)
            draw(m, &m->checks[i], head);
    ha_parallel_for(m->team, m->nchecks * m->slices * m->ranges, run_range, m);
    ha_parallel_for(m->team, m->nchecks * m->slices, finish_slice, m);
}
