/* SPDX-License-Identifier: Apache-2.0 */
#include "multipole_oracle.h"

#include <math.h>
#include <stdlib.h>

#include "multipole_terms.h"

/* to += weight * from; size: of the weight, in place of its sign. */
static void add_sums(const sums *to, int64_t at, const double *from, int64_t n, double weight,
                     double size)
{
    add(to->value + at, weight, from, n);
    for (int64_t c = 0; c < n; c++)
        to->size[at + c] += size * fabs(from[c]);
}

/* ---- all rows -------------------------------------------------------------------------------- */

/* What is done with a row, whose terms have scores, and behind the rows of a bundle, or of none. */
typedef struct visitor {
    void (*row)(void *arg, head *one, int64_t row);
    void (*bundle)(void *arg, head *one, const bundle_model *m);
    void (*head)(void *arg, head *one);
    void *arg;
} visitor;

static void visit_row(const visitor *v, head *one, const bundle_model *m, int64_t i, int64_t row)
{
    list_terms(one, m, i, row);
    score_terms(one, row);
    v->row(v->arg, one, row);
}

static void visit_head(const visitor *v, head *one, const multipole_model *m)
{
    char *has_past = zeros(one->x.nq, 1);
    for (int64_t x = 0; x < m->n; x++) {
        const bundle_choices *c = m->bundles[x].choices;
        if (c->b != one->x.b || c->h != one->x.h)
            continue;
        build_columns(one, &m->bundles[x]);
        for (int64_t i = 0; i < c->nrows; i++) {
            visit_row(v, one, &m->bundles[x], i, c->rows[i]);
            has_past[c->rows[i]] = 1;
        }
        if (v->bundle)
            v->bundle(v->arg, one, &m->bundles[x]);
    }
    for (int64_t row = 0; row < one->x.nq; row++)
        if (!has_past[row])
            visit_row(v, one, NULL, 0, row);
    free(has_past);
}

static void visit(const tensors *t, const multipole_model *m, const visitor *v)
{
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            int64_t nk = tensors_nrows(t, T_K, b);
            head one = head_new(t, b, h, m->sinks < nk ? m->sinks : nk);
            visit_head(v, &one, m);
            if (v->head)
                v->head(v->arg, &one);
            head_free(&one);
        }
}

/* ---- forward --------------------------------------------------------------------------------- */

static void forward_row(void *arg, head *one, int64_t row)
{
    oracle *o = arg;
    const head_data *x = &one->x;
    int64_t at = tensors_row(x->t, x->b, x->h, row), dv = x->dv;
    o->lse[at] = one->lse;
    weigh_terms(one, one->lse);
    for (int64_t e = 0; e < one->nterms; e++) {
        const term *i = &one->terms[e];
        double slip = i->slip * fabs(one->p[e]);
        add(o->out + at * dv, one->p[e], x->v + i->value * dv, dv);
        add(o->slip + at * dv, slip, one->value_size + i->value * dv, dv);
        o->lse_slip[at] += slip;
    }
}

oracle multipole_forward(const tensors *t, const multipole_model *m)
{
    oracle o = {.rows = t->rows, .dv = t->full.head_dim_v};
    o.out = zeros(o.rows * o.dv, sizeof *o.out);
    o.slip = zeros(o.rows * o.dv, sizeof *o.slip);
    o.lse = zeros(o.rows, sizeof *o.lse);
    o.lse_slip = zeros(o.rows, sizeof *o.lse_slip);
    o.nkeys = zeros(o.rows, sizeof *o.nkeys);
    const visitor v = {.row = forward_row, .arg = &o};
    visit(t, m, &v);
    return o;
}

/* ---- gradients ------------------------------------------------------------------------------- */

typedef struct backward {
    const tensors *t;
    const oracle *forward;
    sums sum[3]; /* of q, k and v, at tensors_at() */
} backward;

/* dout.v - delta, and the same without signs. */
typedef struct slope {
    double value, size;
} slope;

static slope dot_slope(const double *a, const double *b, int64_t n)
{
    slope s = {0, 0};
    for (int64_t c = 0; c < n; c++) {
        s.value += a[c] * b[c];
        s.size += fabs(a[c] * b[c]);
    }
    return s;
}

static void add_gradients(const backward *g, head *one, int64_t row, const double *dout,
                          slope delta)
{
    const head_data *x = &one->x;
    int64_t dq = tensors_at(x->t, T_DQ, x->b, x->h, row);
    for (int64_t e = 0; e < one->nterms; e++) {
        const term *i = &one->terms[e];
        double p = one->p[e], size = i->slip * fabs(p);
        const slope dp = dot_slope(dout, x->v + i->value * x->dv, x->dv);
        double ds = x->scale * p * (dp.value - delta.value);
        double ds_size = fabs(x->scale) * size * (dp.size + delta.size);
        add_sums(&g->sum[0], dq, x->k + i->key * x->d, x->d, ds, ds_size);
        add_sums(&one->dk, i->key * x->d, x->q + row * x->d, x->d, ds, ds_size);
        add_sums(&one->dv, i->value * x->dv, dout, x->dv, p, size);
    }
}

/* Of a row with the given lse, and delta from the given out. */
static void backward_row(void *arg, head *one, int64_t row)
{
    const backward *g = arg;
    const head_data *x = &one->x;
    int64_t at = tensors_row(x->t, x->b, x->h, row), dv = x->dv;
    double *dout = zeros(dv, sizeof *dout), *out = zeros(dv, sizeof *out);
    for (int64_t c = 0; c < dv; c++) {
        dout[c] = tensors_get(x->t, T_DOUT, x->b, x->h, row, c);
        out[c] = g->forward ? g->forward->out[at * dv + c]
                            : tensors_get(x->t, T_OUT, x->b, x->h, row, c);
    }
    weigh_terms(one, g->forward ? g->forward->lse[at]
                                : (double)tensors_lse(x->t, x->b, x->h, row));
    add_gradients(g, one, row, dout, dot_slope(dout, out, dv));
    free(dout);
    free(out);
}

/* What a sum's rows from `from` on have gives its row `to` a part; doubt is the column's. */
static void give(const sums *s, int64_t to, int64_t from, int64_t n, double share, double doubt)
{
    for (int64_t c = 0; c < n; c++) {
        s->value[to * n + c] += share * s->value[from * n + c];
        s->size[to * n + c] += share * doubt * s->size[from * n + c];
    }
}

static void clear(const sums *s, int64_t first, int64_t n)
{
    for (int64_t e = first; e < first + n; e++)
        s->value[e] = s->size[e] = 0;
}

/* Columns give theirs to the keys that they stand for. */
static void backward_bundle(void *arg, head *one, const bundle_model *m)
{
    const head_data *x = &one->x;
    (void)arg;
    for (int64_t at = 0; at < m->choices->past; at++) {
        int64_t key = m->choices->keys[at], column = m->column[at];
        if (column < 0)
            continue;
        give(&one->dk, key, x->nk + column, x->d, m->share[at], m->doubt[column]);
        give(&one->dv, key, x->nk + column, x->dv, m->share[at], m->doubt[column]);
    }
    clear(&one->dk, x->nk * x->d, m->ncolumns * x->d);
    clear(&one->dv, x->nk * x->dv, m->ncolumns * x->dv);
}

/* Adds a head's gradients of its keys or values to those of its key head. */
static void add_rows(const backward *g, const head *one, int part, const sums *from, int64_t n)
{
    for (int64_t j = 0; j < one->x.nk; j++) {
        int64_t at = tensors_at(g->t, (operand)(T_DQ + part), one->x.b, one->x.kv, j);
        add(g->sum[part].value + at, 1, from->value + j * n, n);
        add(g->sum[part].size + at, 1, from->size + j * n, n);
    }
}

static void backward_head(void *arg, head *one)
{
    add_rows(arg, one, 1, &one->dk, one->x.d);
    add_rows(arg, one, 2, &one->dv, one->x.dv);
}

grad_oracle multipole_gradients(const tensors *t, const multipole_model *m, const oracle *forward)
{
    backward g = {.t = t, .forward = forward};
    grad_oracle o = {0};
    for (int part = 0; part < 3; part++)
        g.sum[part] = sums_new(t->elements[T_DQ + part]);
    const visitor v = {backward_row, backward_bundle, backward_head, &g};
    visit(t, m, &v);
    for (int part = 0; part < 3; part++) {
        o.value[part] = g.sum[part].value;
        o.slip[part] = g.sum[part].size;
    }
    return o;
}
