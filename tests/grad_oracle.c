/* SPDX-License-Identifier: Apache-2.0 */
#include "grad_oracle.h"

#include <math.h>
#include <stdlib.h>

/* What a row's terms give: one entry each. */
typedef struct row_grad {
    double *p;         /* weights */
    double *dp;        /* dout.v */
    double *size;      /* the same without signs */
    double *ds;        /* gradient of the score */
    double *p_slip;    /* error of p, in units of eps */
    double *ds_slip;   /* the same of ds */
} row_grad;

/* One query row. */
typedef struct row {
    const head_data *x;
    const pattern_row *columns;
    row_terms terms;
    int64_t i;
    hyperattn_dtype low; /* the type in which everything is stored; HYPERATTN_F32: in none */
    double lse, delta, delta_size;
    double *dout; /* [dv] */
    row_grad grad;
} row;

/* Weights below f32's normal range count as 0: in units of eps. */
#define SUBNORMAL 0x1p-103

static double *zeros(int64_t n)
{
    return calloc((size_t)n + 1, sizeof(double));
}

static double keep(const row *r, double x)
{
    return r->low == HYPERATTN_F32 ? x : stored(x, r->low);
}

/* ---- a row's terms --------------------------------------------------------------------------- */

static void row_begin(row *r)
{
    const head_data *x = r->x;
    hyper_counts counts = {0};
    int64_t n = r->columns->nentries;
    r->terms = row_terms_of(x, r->i, r->columns, &counts);
    r->grad = (row_grad){zeros(n), zeros(n), zeros(n), zeros(n), zeros(n), zeros(n)};
    r->dout = zeros(x->dv);
    for (int64_t c = 0; c < x->dv; c++)
        r->dout[c] = tensors_get(x->t, T_DOUT, x->b, x->h, r->i, c);
}

static void row_end(row *r)
{
    double *all[] = {r->grad.p, r->grad.dp, r->grad.size, r->grad.ds, r->grad.p_slip,
                     r->grad.ds_slip, r->dout};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    row_terms_free(&r->terms);
}

/* The given lse, and delta from the given out. */
static void given(row *r, const oracle *forward)
{
    const head_data *x = r->x;
    int64_t at = tensors_row(x->t, x->b, x->h, r->i);
    r->lse = forward ? forward->lse[at] : (double)tensors_lse(x->t, x->b, x->h, r->i);
    for (int64_t c = 0; c < x->dv; c++) {
        double out = forward ? forward->out[at * x->dv + c]
                             : tensors_get(x->t, T_OUT, x->b, x->h, r->i, c);
        r->delta += r->dout[c] * out;
        r->delta_size += fabs(r->dout[c] * out);
    }
}

static void weights(row *r)
{
    const head_data *x = r->x;
    double worst = 0; /* relative error of a weight: the cap depends on all scores */
    for (int64_t e = 0; e < r->columns->nentries; e++) {
        const double *v = x->v + r->columns->entries[e].key * x->dv;
        for (int64_t c = 0; c < x->dv; c++) {
            r->grad.dp[e] += r->dout[c] * v[c];
            r->grad.size[e] += fabs(r->dout[c] * v[c]);
        }
        r->grad.dp[e] = keep(r, r->grad.dp[e]);
        r->grad.p[e] = keep(r, exp(r->terms.log[e] - r->lse));
        r->grad.p_slip[e] = 8 + 2 * fabs(r->lse) + fabs(r->columns->entries[e].log) +
                            head_slack(x, r->i, r->columns->entries[e].key);
        worst = fmax(worst, r->grad.p_slip[e]);
    }
    for (int64_t e = 0; e < r->columns->nentries; e++) {
        double relative = r->terms.capped[e] ? 2 * worst : r->grad.p_slip[e];
        r->grad.p_slip[e] = relative * r->grad.p[e] + SUBNORMAL;
    }
}

/* The plain implementation: stored scores, their softmax, and delta from the stored weights. */
static void plain_weights(row *r)
{
    for (int64_t e = 0; e < r->terms.nentries; e++)
        r->terms.log[e] = keep(r, r->terms.log[e]);
    for (int64_t p = 0; p < r->terms.nparts; p++)
        r->terms.raised[p] = keep(r, r->terms.raised[p]);
    r->lse = row_terms_lse(&r->terms);
    weights(r);
    for (int64_t e = 0; e < r->terms.nentries; e++)
        r->delta += r->grad.p[e] * r->grad.dp[e];
}

/* A part's scores. The cap is (exact sum + floor) / log_n, so what its entries lose goes to the
 * exact ones; and a raised row sum does not depend on the samples. Where rounding may turn one case
 * into the other, the slip is the whole difference. */
static void part_scores(row *r, int64_t part)
{
    const pattern_part *at = &r->columns->parts[part];
    const double flip = 1 / dtype_eps(HYPERATTN_F32);
    int64_t end = part + 1 < r->columns->nparts ? at[1].exact : r->columns->nentries;
    int raised = r->terms.raised[part] > -INFINITY;
    double delta = raised ? 0 : r->delta, delta_slip = 4 * r->delta_size;
    double through_cap = 0, through_slip = 0;
    if (r->terms.at_floor[part])
        delta_slip += flip * fabs(r->delta);
    for (int64_t e = at->sampled; e < end; e++) {
        double slope = r->grad.dp[e] - delta, slip = 4 * r->grad.size[e] + delta_slip;
        double other = r->terms.at_cap[e] ? flip * fabs(slope) : 0;
        r->grad.ds_slip[e] = r->grad.p[e] * other;
        through_slip += other / at->log_n;
        if (r->terms.capped[e]) {
            through_cap += slope / at->log_n;
            through_slip += (slip + 4 * fabs(slope)) / at->log_n;
            continue;
        }
        r->grad.ds[e] = keep(r, r->grad.p[e] * slope);
        r->grad.ds_slip[e] += r->grad.p_slip[e] * fabs(slope) + r->grad.p[e] * slip;
    }
    for (int64_t e = at->exact; e < at->sampled; e++) {
        double slope = r->grad.dp[e] - r->delta + through_cap;
        double slip = 4 * (r->grad.size[e] + r->delta_size) + through_slip;
        r->grad.ds[e] = keep(r, r->grad.p[e] * slope);
        r->grad.ds_slip[e] = r->grad.p_slip[e] * fabs(slope) + r->grad.p[e] * slip;
    }
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* Where gradients are added up; slip NULL: not wanted. */
typedef struct sums {
    double *value[3], *slip[3];
} sums;

/* to[c] += weight * from[c]; the same of the slips, where an addition costs 4. */
static void add(const sums *to, int part, int64_t at, const double *from, int64_t n, double weight,
                double slip)
{
    double *value = to->value[part] + at;
    for (int64_t c = 0; c < n; c++)
        value[c] += weight * from[c];
    if (!to->slip[part])
        return;
    for (int64_t c = 0; c < n; c++)
        to->slip[part][at + c] += fabs(from[c]) * (slip + 4 * fabs(weight));
}

static void add_row(const row *r, const sums *to)
{
    const head_data *x = r->x;
    int64_t dq = tensors_at(x->t, T_DQ, x->b, x->h, r->i);
    for (int64_t e = 0; e < r->columns->nentries; e++) {
        int64_t j = r->columns->entries[e].key;
        int64_t dk = tensors_at(x->t, T_DK, x->b, x->kv, j);
        int64_t dv = tensors_at(x->t, T_DV, x->b, x->kv, j);
        double ds = x->scale * r->grad.ds[e], slip = fabs(x->scale) * r->grad.ds_slip[e];
        add(to, 0, dq, x->k + j * x->d, x->d, ds, slip);
        add(to, 1, dk, x->q + r->i * x->d, x->d, ds, slip);
        add(to, 2, dv, r->dout, x->dv, r->grad.p[e], r->grad.p_slip[e]);
    }
}

/* Row i of a head; plain: everything stored in the tensors' type. A row without a key, or whose sum
 * is 0, has no gradient. */
static void grad_row(const head_data *x, int64_t i, const pattern_row *columns,
                     const oracle *forward, int plain, const sums *to)
{
    row r = {.x = x, .columns = columns, .i = i,
             .low = plain ? x->t->full.dtype : HYPERATTN_F32};
    row_begin(&r);
    if (plain)
        plain_weights(&r);
    else {
        given(&r, forward);
        weights(&r);
    }
    for (int64_t p = 0; p < columns->nparts; p++)
        part_scores(&r, p);
    if (r.lse != -INFINITY)
        add_row(&r, to);
    row_end(&r);
}

static sums sums_new(const tensors *t, int with_slip)
{
    sums s;
    for (int part = 0; part < 3; part++) {
        s.value[part] = zeros(t->elements[T_DQ + part]);
        s.slip[part] = with_slip ? zeros(t->elements[T_DQ + part]) : NULL;
    }
    return s;
}

static void sum_rows(const tensors *t, const pattern *p, const oracle *forward, int plain,
                     const sums *to)
{
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            head_data x = head_load(t, b, h);
            for (int64_t i = 0; i < x.nq; i++)
                grad_row(&x, i, &p->rows[tensors_row(t, b, h, i)], forward, plain, to);
            head_unload(&x);
        }
}

void grad_oracle_plain(grad_oracle *g, const tensors *t, const pattern *p)
{
    sums low = sums_new(t, 0);
    sum_rows(t, p, NULL, 1, &low);
    for (int part = 0; part < 3; part++) {
        for (int64_t at = 0; at < t->elements[T_DQ + part]; at++)
            g->plain_error[part] = fmax(g->plain_error[part],
                                        fabs(stored(low.value[part][at], t->full.dtype) -
                                             g->value[part][at]));
        free(low.value[part]);
    }
}

grad_oracle grad_oracle_of(const tensors *t, const pattern *p, const oracle *forward)
{
    grad_oracle g = {0};
    sums s = sums_new(t, 1);
    sum_rows(t, p, forward, 0, &s);
    for (int part = 0; part < 3; part++) {
        g.value[part] = s.value[part];
        g.slip[part] = s.slip[part];
    }
    return g;
}

void grad_oracle_free(grad_oracle *g)
{
    for (int part = 0; part < 3; part++) {
        free(g->value[part]);
        free(g->slip[part]);
    }
    *g = (grad_oracle){0};
}

/* ---- comparison ------------------------------------------------------------------------------ */

/* How far got is from want, in units of the tolerance; more than 1 is wrong. */
static double excess(double got, double want, double tolerance)
{
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got) ? 0 : INFINITY;
    if (got == want)
        return 0;
    return isinf(want) || isinf(got) || isnan(tolerance) ? INFINITY : fabs(got - want) / tolerance;
}

static double tolerance(const grad_oracle *g, const tensors *t, int part, int64_t at,
                        grad_rule rule)
{
    double eps = dtype_eps(HYPERATTN_F32), want = fabs(g->value[part][at]);
    double f32 = eps * (8 * want + g->slip[part][at]) + 1e-37; /* subnormal numbers may be lost */
    if (t->full.dtype == HYPERATTN_F32)
        return f32;
    double low = dtype_eps(t->full.dtype) * want / 2;
    low += t->full.dtype == HYPERATTN_F16 ? 0x1p-25 : 0; /* half the spacing of subnormal ones */
    return f32 + low + (rule == GRAD_PLAIN ? 2 * g->plain_error[part] : 0);
}

typedef struct worst {
    double excess, got, want;
    int part;
    int64_t b, h, i, c;
} worst;

static void compare_row(const grad_oracle *g, const tensors *t, grad_rule rule, double loosen,
                        worst here, worst *w)
{
    operand which = (operand)(T_DQ + here.part);
    int64_t at = tensors_at(t, which, here.b, here.h, here.i);
    for (here.c = 0; here.c < tensors_dim(t, which); here.c++, at++) {
        here.got = element_get(t->mem[which].data, at, t->full.dtype);
        here.want = g->value[here.part][at];
        here.excess = excess(here.got, here.want, loosen * tolerance(g, t, here.part, at, rule));
        if (here.excess > w->excess)
            *w = here;
    }
}

const char *grad_compare(const grad_oracle *g, const tensors *t, grad_rule rule, double loosen)
{
    static const char *const names[] = {"dq", "dk", "dv"};
    worst w = {0};
    for (int part = 0; part < 3; part++)
        for (int64_t b = 0; b < t->full.batch; b++)
            for (int64_t h = 0; h < tensors_heads(t, (operand)(T_DQ + part)); h++)
                for (int64_t i = 0; i < tensors_nrows(t, (operand)(T_DQ + part), b); i++)
                    compare_row(g, t, rule, loosen,
                                (worst){.part = part, .b = b, .h = h, .i = i}, &w);
    if (w.excess <= 1)
        return NULL;
    return failure("%s of sequence %lld, head %lld, row %lld, column %lld is %.9g, not %.9g: "
                   "%.3g times the tolerance",
                   names[w.part], (long long)w.b, (long long)w.h, (long long)w.i, (long long)w.c,
                   w.got, w.want, w.excess);
}
