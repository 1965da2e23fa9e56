/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/reach.h"

#include <math.h>

#include "int64.h"

/* Sums that vectors can form side by side. */
#define LANES 16

/* The largest squares so far of a distance from the centre and of a norm. */
typedef struct farthest {
    double apart, norm;
} farthest;

/* What rows are looked at for: their sum, or the farthest of them. */
typedef struct visit {
    const ha_measure *m;
    const ha_check_thread *t;
    double *sum;         /* or NULL: */
    const float *centre;
    farthest *far;
} visit;

/* f32 sums of some rows, before they join doubles. */
static void add_rows(double *sum, float *part, const float *x, int64_t ld, int64_t rows, int64_t n)
{
    for (int64_t e = 0; e < n; e++)
        part[e] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t e = 0; e < n; e++)
            part[e] += x[i * ld + e];
    for (int64_t e = 0; e < n; e++)
        sum[e] += part[e];
}

static farthest row_squares(const float *x, const float *centre, int64_t n)
{
    farthest f = {0, 0};
    for (int64_t e = 0; e < n; e++) {
        double apart = (double)x[e] - centre[e];
        f.apart += apart * apart;
        f.norm += (double)x[e] * x[e];
    }
    return f;
}

static farthest quick_squares(const float *x, const float *centre, int64_t n)
{
    float apart[LANES] = {0}, norm[LANES] = {0};
    farthest f = row_squares(x + n / LANES * LANES, centre + n / LANES * LANES, n % LANES);
    for (int64_t e = 0; e + LANES <= n; e += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            float y = x[e + lane], d = y - centre[e + lane];
            apart[lane] += d * d;
            norm[lane] += y * y;
        }
    for (int lane = 0; lane < LANES; lane++) {
        f.apart += apart[lane];
        f.norm += norm[lane];
    }
    return f;
}

static void look_at(const visit *v, const float *x, int64_t ld, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        farthest f = quick_squares(x + i * ld, v->centre, n);
        if (!isfinite(f.apart) || !isfinite(f.norm)) /* or only too large for f32 */
            f = row_squares(x + i * ld, v->centre, n);
        v->far->apart = ha_larger(f.apart, v->far->apart);
        v->far->norm = ha_larger(f.norm, v->far->norm);
    }
}

/* Rows [begin, end) of a tensor, as f32, some at a time. */
static void visit_rows(const visit *v, ha_rows rows, int64_t begin, int64_t end)
{
    const ha_arith *a = v->m->plan.arith;
    int64_t n = v->m->plan.problem->head_dim_v, padded = ha_ldq(a, n);
    for (int64_t first = begin; first < end; first += HA_CHECK_KEYS) {
        int64_t count = ha_min(HA_CHECK_KEYS, end - first), ld = padded;
        const float *x = v->t->x;
        rows.first = first;
        if (rows.dtype == HYPERATTN_F32) {
            x = ha_row_at(&rows, 0);
            ld = rows.stride;
        } else {
            a->load_q(v->t->x, &rows, count, n);
        }
        if (v->sum)
            add_rows(v->sum, v->t->scores, x, ld, count, n);
        else
            look_at(v, x, ld, count, n);
    }
}

static void sum_part(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    const ha_check *c = &m->checks[i / HA_CHECK_PARTS];
    int64_t part = i % HA_CHECK_PARTS, nk = c->kh.layout->nk, n = m->plan.problem->head_dim_v;
    double *sum = c->sum + part * n;
    const visit v = {.m = m, .t = &m->threads[thread], .sum = sum};
    for (int64_t e = 0; e < n; e++)
        sum[e] = 0;
    visit_rows(&v, c->kh.v, ha_part_begin(nk, part, HA_CHECK_PARTS),
               ha_part_begin(nk, part + 1, HA_CHECK_PARTS));
}

/* The mean of v's rows. */
static void make_centre(const ha_measure *m, const ha_check *c)
{
    int64_t n = m->plan.problem->head_dim_v, nk = c->kh.layout->nk;
    for (int64_t e = 0; e < n; e++) {
        double sum = 0;
        for (int64_t part = 0; part < HA_CHECK_PARTS; part++)
            sum += c->sum[part * n + e];
        c->centre[e] = (float)(sum / (double)ha_max(1, nk));
    }
}

static void look_at_part(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    const ha_check *c = &m->checks[i / HA_CHECK_PARTS];
    int64_t part = i % HA_CHECK_PARTS, nk = c->kh.layout->nk, nq = c->kh.layout->nq;
    farthest f = {0, 0};
    const visit v = {.m = m, .t = &m->threads[thread], .centre = c->centre, .far = &f};
    visit_rows(&v, c->kh.v, ha_part_begin(nk, part, HA_CHECK_PARTS),
               ha_part_begin(nk, part + 1, HA_CHECK_PARTS));
    c->v[part] = (ha_reach){.reach = sqrt(f.apart), .norm = sqrt(f.norm)};
    for (int64_t head = 0; head < m->plan.group; head++) {
        f = (farthest){0, 0};
        visit_rows(&v, ha_head_rows(&c->kh.o, head), ha_part_begin(nq, part, HA_CHECK_PARTS),
                   ha_part_begin(nq, part + 1, HA_CHECK_PARTS));
        c->out[part * m->plan.group + head] =
            (ha_reach){.far = sqrt(f.apart), .out = sqrt(f.norm)};
    }
}

void ha_check_reach(ha_measure *m)
{
    ha_parallel_for(m->team, m->nchecks * HA_CHECK_PARTS, sum_part, m);
    for (int64_t i = 0; i < m->nchecks; i++)
        make_centre(m, &m->checks[i]);
    ha_parallel_for(m->team, m->nchecks * HA_CHECK_PARTS, look_at_part, m);
}

ha_reach ha_check_reach_of(const ha_measure *m, const ha_check *c, int64_t head)
{
    const ha_layout *l = c->kh.layout;
    ha_reach r = {0, 0, 0, 0};
    for (int64_t part = 0; part < HA_CHECK_PARTS; part++) {
        const ha_reach *v = &c->v[part], *out = &c->out[part * m->plan.group + head];
        r.reach = ha_larger(v->reach, r.reach);
        r.norm = ha_larger(v->norm, r.norm);
        r.far = ha_larger(out->far, r.far);
        r.out = ha_larger(out->out, r.out);
    }
    if (m->plan.problem->causal && l->nq > l->nk) { /* rows that see no key are 0 */
        double norm = 0;
        for (int64_t e = 0; e < m->plan.problem->head_dim_v; e++)
            norm += (double)c->centre[e] * c->centre[e];
        r.reach = ha_larger(sqrt(norm), r.reach);
    }
    return r;
}
