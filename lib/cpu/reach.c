/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/reach.h"

#include <math.h>

#include "int64.h"

/* Hands the rows [begin, end) of a tensor as f32 to a function, some at a time. */
typedef struct visit {
    const ha_measure *m;
    const ha_check_thread *t;
    void (*row)(void *to, const float *x, const double *centre, int64_t n);
    void *to;
    const double *centre;
} visit;

static void visit_rows(const visit *v, ha_rows rows, int64_t begin, int64_t end)
{
    const ha_arith *a = v->m->plan.arith;
    int64_t n = v->m->plan.problem->head_dim_v, ld = ha_ldq(a, n);
    for (int64_t first = begin; first < end; first += HA_CHECK_KEYS) {
        int64_t count = ha_min(HA_CHECK_KEYS, end - first);
        rows.first = first;
        a->load_q(v->t->x, &rows, count, n);
        for (int64_t i = 0; i < count; i++)
            v->row(v->to, v->t->x + i * ld, v->centre, n);
    }
}

static void add_row(void *to, const float *x, const double *centre, int64_t n)
{
    double *sum = to;
    (void)centre;
    for (int64_t e = 0; e < n; e++)
        sum[e] += x[e];
}

/* The largest squares so far of a distance and a norm. */
typedef struct farthest {
    double apart, norm;
} farthest;

static void look_at_row(void *to, const float *x, const double *centre, int64_t n)
{
    farthest *f = to;
    double apart = 0, norm = 0;
    for (int64_t e = 0; e < n; e++) {
        double d = x[e] - centre[e];
        apart += d * d;
        norm += (double)x[e] * x[e];
    }
    f->apart = ha_larger(apart, f->apart);
    f->norm = ha_larger(norm, f->norm);
}

static void sum_part(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    const ha_check *c = &m->checks[i / HA_CHECK_PARTS];
    int64_t part = i % HA_CHECK_PARTS, nk = c->kh.layout->nk, n = m->plan.problem->head_dim_v;
    double *sum = c->sum + part * n;
    const visit v = {m, &m->threads[thread], add_row, sum, NULL};
    for (int64_t e = 0; e < n; e++)
        sum[e] = 0;
    visit_rows(&v, c->kh.v, ha_part_begin(nk, part, HA_CHECK_PARTS),
               ha_part_begin(nk, part + 1, HA_CHECK_PARTS));
}

/* The mean of v's rows, in place of the first part's sum. */
static void make_centre(const ha_measure *m, const ha_check *c)
{
    int64_t n = m->plan.problem->head_dim_v, nk = c->kh.layout->nk;
    for (int64_t e = 0; e < n; e++) {
        for (int64_t part = 1; part < HA_CHECK_PARTS; part++)
            c->sum[e] += c->sum[part * n + e];
        c->sum[e] /= (double)ha_max(1, nk);
    }
}

static void look_at_part(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    const ha_check *c = &m->checks[i / HA_CHECK_PARTS];
    int64_t part = i % HA_CHECK_PARTS, nk = c->kh.layout->nk, nq = c->kh.layout->nq;
    farthest f = {0, 0};
    visit v = {m, &m->threads[thread], look_at_row, &f, c->sum};
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
            norm += c->sum[e] * c->sum[e];
        r.reach = ha_larger(sqrt(norm), r.reach);
    }
    return r;
}
