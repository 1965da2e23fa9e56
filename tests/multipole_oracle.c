/* SPDX-License-Identifier: Apache-2.0 */
#include "multipole_oracle.h"

#include <math.h>
#include <stdlib.h>

#include "algo/multipole.h"

/* What f32 may cost a term, in units of eps, beside the slack of its score. */
#define SLIP 32

/* lib/cpu/bundle.c: the least part of a merged column that must be left when keys are taken out;
 * and how near to it f32 could decide otherwise. */
#define LEAST_REST 0x1p-14
#define NEAR 0.05

/* lib/cpu/private.c: the same of a row's sum. Below it, the row attends to all keys. */
#define LEAST_SUM 0x1p-10

typedef struct term {
    int64_t key, value; /* whose score and whose value: a key, or nk + number of a column */
    double log, sign;
    double slip; /* what f32 may make of it, in units of eps; before it has a score, of SLIP */
} term;

/* Values, and the same sums without signs. */
typedef struct sums {
    double *value, *size;
} sums;

/* One query head. Its keys and values are followed by those of the columns of one bundle. */
typedef struct head {
    head_data x;
    int64_t sinks;
    term *terms; /* of one row */
    double *p;   /* their parts of it */
    int64_t nterms;
    double lse;
    sums dk, dv;
} head;

/* ---- life ------------------------------------------------------------------------------------ */

static void *zeros(int64_t n, size_t size)
{
    return calloc((size_t)n + 1, size);
}

static sums sums_new(int64_t n)
{
    return (sums){zeros(n, sizeof(double)), zeros(n, sizeof(double))};
}

static void sums_free(sums *s)
{
    free(s->value);
    free(s->size);
}

/* A bundle has no more columns than its past has keys, and a row no more private keys. */
static head head_new(const tensors *t, int64_t b, int64_t h, int64_t sinks)
{
    head one = {.x = head_load(t, b, h), .sinks = sinks};
    head_data *x = &one.x;
    x->k = realloc(x->k, (size_t)(2 * x->nk * x->d + 1) * sizeof *x->k);
    x->v = realloc(x->v, (size_t)(2 * x->nk * x->dv + 1) * sizeof *x->v);
    one.terms = zeros(4 * x->nk, sizeof *one.terms);
    one.p = zeros(4 * x->nk, sizeof *one.p);
    one.dk = sums_new(2 * x->nk * x->d);
    one.dv = sums_new(2 * x->nk * x->dv);
    return one;
}

static void head_free(head *one)
{
    head_unload(&one->x);
    free(one->terms);
    free(one->p);
    sums_free(&one->dk);
    sums_free(&one->dv);
}

static double log_add(double a, double b)
{
    double top = fmax(a, b);
    return top == -INFINITY ? top : top + log(exp(a - top) + exp(b - top));
}

/* to += weight * from */
static void add(double *to, double weight, const double *from, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        to[c] += weight * from[c];
}

/* The same; size: of the weight, in place of its sign. */
static void add_sums(const sums *to, int64_t at, const double *from, int64_t n, double weight,
                     double size)
{
    add(to->value + at, weight, from, n);
    for (int64_t c = 0; c < n; c++)
        to->size[at + c] += size * fabs(from[c]);
}

/* ---- a row's terms --------------------------------------------------------------------------- */

static void add_term(head *one, int64_t key, int64_t value, double log, double sign, double slip)
{
    one->terms[one->nterms++] = (term){key, value, log, sign, slip};
}

static void add_keys(head *one, int64_t first, int64_t end)
{
    for (int64_t j = first; j < end; j++)
        add_term(one, j, j, 0, 1, 1);
}

/* What a bundle's row sees of its past. */
static void list_past(head *one, const bundle_model *m, int64_t i)
{
    const bundle_choices *c = m->choices;
    int64_t nk = one->x.nk;
    add_keys(one, 0, one->sinks);
    for (int64_t x = 0; x < c->nselected; x++)
        add_keys(one, c->selected[x], c->selected[x] + 1);
    for (int64_t x = 0; x < m->ncolumns; x++)
        add_term(one, nk + x, nk + x, m->logw[x], 1, m->doubt[x]);
    for (int64_t x = c->begin[i]; x < c->begin[i + 1]; x++) {
        int64_t at = c->private[x], key = c->keys[at], column = m->column[at];
        add_keys(one, key, key + 1);
        if (column >= 0)
            add_term(one, nk + column, key, m->logw[column] + log(m->share[at]), -1,
                     m->doubt[column]);
    }
}

/* Row `row` of a head, which is row i of a bundle, or has no past: m NULL. */
static void list_terms(head *one, const bundle_model *m, int64_t i, int64_t row)
{
    const head_data *x = &one->x;
    int64_t limit = x->t->full.causal ? row + 1 + x->nk - x->nq : x->nk;
    one->nterms = 0;
    add_keys(one, m ? m->choices->past : 0, limit);
    if (m)
        list_past(one, m, i);
}

/* Scores are added to the logarithms of terms, and slacks to their slips; and the row's lse. */
static void score_terms(head *one, int64_t row)
{
    double top = -INFINITY, sum = 0;
    for (int64_t e = 0; e < one->nterms; e++) {
        term *i = &one->terms[e];
        i->log += head_score(&one->x, row, i->key);
        i->slip *= SLIP + head_slack(&one->x, row, i->key);
        top = fmax(top, i->log);
    }
    for (int64_t e = 0; e < one->nterms; e++)
        sum += one->terms[e].sign * exp(one->terms[e].log - top);
    one->lse = one->nterms ? top + log(sum) : -INFINITY;
}

static void weigh_terms(head *one, double lse)
{
    for (int64_t e = 0; e < one->nterms; e++)
        one->p[e] = one->terms[e].sign * exp(one->terms[e].log - lse);
}

/* ---- columns --------------------------------------------------------------------------------- */

/* A bundle whose columns are formed. */
typedef struct forming {
    const head *one;
    const bundle_choices *c;
    bundle_model *m;
    int64_t cell, ncells;
    double *by_era, *by_rows; /* [past]: scores of keys by the two mean queries, */
    double *log;              /* and the logarithms of their weights */
    char *gone;               /* [past]: selected, or a sink: in no column */
} forming;

static double *mean_query(const head_data *x, const int64_t *rows, int64_t first, int64_t n)
{
    double *mean = zeros(x->d, sizeof *mean);
    for (int64_t i = 0; i < n; i++)
        add(mean, 1 / (double)n, x->q + (rows ? rows[i] : first + i) * x->d, x->d);
    return mean;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t c = 0; c < n; c++)
        sum += a[c] * b[c];
    return sum;
}

static double *score_keys(const forming *f, double *query)
{
    const head_data *x = &f->one->x;
    double *score = zeros(f->c->past, sizeof *score);
    for (int64_t at = 0; at < f->c->past; at++)
        score[at] = x->scale * dot(query, x->k + f->c->keys[at] * x->d, x->d);
    free(query);
    return score;
}

static int is_sink(const forming *f, int64_t at)
{
    return f->c->keys[at] < f->one->sinks;
}

/* log sum_j exp(score_j) of the keys of a cell but for sinks. */
static double log_sum(const forming *f, int64_t cell, const double *score)
{
    double sum = -INFINITY;
    for (int64_t at = cell * f->cell; at < f->c->past && at < (cell + 1) * f->cell; at++)
        if (!is_sink(f, at))
            sum = log_add(sum, score[at]);
    return sum;
}

/* A cell's keys weigh what the era's mean query gives them, and together what their expansion
 * says to the bundle's: A + s (m - r).kt. */
static void move_cell(const forming *f, int64_t cell)
{
    int64_t first = cell * f->cell, end = fmin(first + f->cell, f->c->past);
    double a = log_sum(f, cell, f->by_era), moved = 0;
    for (int64_t at = first; at < end; at++)
        if (!is_sink(f, at))
            moved += exp(f->by_era[at] - a) * (f->by_rows[at] - f->by_era[at]);
    for (int64_t at = first; at < end; at++)
        f->log[at] = f->by_era[at] + moved;
}

/* Its column, of whose keys those that are gone are taken out. Nothing is left of it where the
 * others are too small a part of the whole. */
static void finish_column(const forming *f, multipole_model *all, int64_t number, int merged)
{
    bundle_model *m = f->m;
    double whole = -INFINITY, left = -INFINITY;
    for (int64_t at = 0; at < f->c->past; at++) {
        if (m->column[at] != number || is_sink(f, at))
            continue;
        whole = log_add(whole, f->log[at]);
        if (!f->gone[at])
            left = log_add(left, f->log[at]);
        all->taken += merged && f->gone[at];
    }
    double rest = exp(left - whole);
    all->ambiguous += merged && fabs(rest / LEAST_REST - 1) < NEAR;
    int none = left == -INFINITY || (merged && rest <= LEAST_REST);
    m->logw[number] = left;
    m->doubt[number] = merged ? 1 / rest : 1;
    for (int64_t at = 0; at < f->c->past; at++) {
        if (m->column[at] != number)
            continue;
        if (none || f->gone[at])
            m->column[at] = -1;
        else {
            m->share[at] = exp(f->log[at] - left);
            m->logw[number] -= m->share[at] * f->by_rows[at]; /* s m.kt */
        }
    }
    m->ncolumns += !none;
    all->dropped += none && merged && whole > -INFINITY;
}

static void join(const forming *f, int64_t cell)
{
    for (int64_t at = cell * f->cell; at < f->c->past && at < (cell + 1) * f->cell; at++)
        f->m->column[at] = f->m->ncolumns;
}

static void form_columns(const forming *f, multipole_model *all, int64_t far_cell)
{
    char *candidate = zeros(f->ncells, 1);
    for (int64_t x = 0; x < f->c->ncandidates; x++) {
        int64_t cell = f->c->candidates[x];
        candidate[cell] = 1;
        for (int64_t at = cell * f->cell; at < f->c->past && at < (cell + 1) * f->cell; at++)
            f->log[at] = f->by_rows[at];
        join(f, cell);
        finish_column(f, all, f->m->ncolumns, 0);
    }
    for (int64_t first = 0, per = far_cell / f->cell; first < f->ncells; first += per) {
        int64_t joined = 0;
        for (int64_t cell = first; cell < f->ncells && cell < first + per; cell++) {
            if (candidate[cell])
                continue;
            move_cell(f, cell);
            join(f, cell);
            all->merged += joined++ > 0;
        }
        finish_column(f, all, f->m->ncolumns, 1);
    }
    free(candidate);
}

/* Keys and values of columns, behind those of the head. */
static void build_columns(const head *one, const bundle_model *m)
{
    const head_data *x = &one->x;
    for (int64_t e = 0; e < m->ncolumns * x->d; e++)
        x->k[x->nk * x->d + e] = 0;
    for (int64_t e = 0; e < m->ncolumns * x->dv; e++)
        x->v[x->nk * x->dv + e] = 0;
    for (int64_t at = 0; at < m->choices->past; at++) {
        int64_t key = m->choices->keys[at], to = x->nk + m->column[at];
        if (m->column[at] < 0)
            continue;
        add(x->k + to * x->d, m->share[at], x->k + key * x->d, x->d);
        add(x->v + to * x->dv, m->share[at], x->v + key * x->dv, x->dv);
    }
}

/* What is left of a row's sum by its private keys must be no small part of it. */
static void count_private(head *one, multipole_model *all, const bundle_model *m, int64_t i)
{
    const bundle_choices *c = m->choices;
    if (c->begin[i] == c->begin[i + 1])
        return;
    list_terms(one, m, i, c->rows[i]);
    score_terms(one, c->rows[i]);
    weigh_terms(one, one->lse);
    double gross = 0;
    for (int64_t e = 0; e < one->nterms; e++)
        gross += fmax(0, one->p[e]);
    all->ambiguous += !(1 / gross > (1 + NEAR) * LEAST_SUM);
    all->private += c->begin[i + 1] - c->begin[i];
}

/* ---- models ---------------------------------------------------------------------------------- */

/* Selected keys and sinks; and no key has a column yet. */
static void mark_gone(const forming *f)
{
    char *selected = zeros(f->one->x.nk, 1);
    for (int64_t x = 0; x < f->c->nselected; x++)
        selected[f->c->selected[x]] = 1;
    for (int64_t at = 0; at < f->c->past; at++) {
        f->gone[at] = (char)(is_sink(f, at) || selected[f->c->keys[at]]);
        f->m->column[at] = -1;
    }
    free(selected);
}

static bundle_model model_bundle(head *one, multipole_model *all, const bundle_choices *c,
                                 const ha_recipe *r)
{
    int64_t past = c->past, ncells = (past + r->cell - 1) / r->cell;
    bundle_model m = {.choices = c, .column = zeros(past, sizeof *m.column),
                      .share = zeros(past, sizeof *m.share), .logw = zeros(past, sizeof *m.logw),
                      .doubt = zeros(past, sizeof *m.doubt)};
    forming f = {.one = one, .c = c, .m = &m, .cell = r->cell, .ncells = ncells,
                 .log = zeros(past, sizeof *f.log), .gone = zeros(past, 1)};
    f.by_era = score_keys(&f, mean_query(&one->x, NULL, c->epoch_row0, c->nepoch));
    f.by_rows = score_keys(&f, mean_query(&one->x, c->steering, 0, c->nsteering));
    mark_gone(&f);
    form_columns(&f, all, r->far_cell);
    all->columns += m.ncolumns;
    build_columns(one, &m);
    for (int64_t i = 0; i < c->nrows; i++)
        count_private(one, all, &m, i);
    free(f.by_era);
    free(f.by_rows);
    free(f.log);
    free(f.gone);
    return m;
}

multipole_model multipole_model_of(const tensors *t, const hyperattn_params *params,
                                   const multipole_choices *c)
{
    multipole_model all = {.bundles = zeros(c->n, sizeof *all.bundles), .n = c->n,
                           .sinks = params->num_sinks};
    for (int64_t b = 0; b < t->full.batch; b++) {
        const ha_recipe r = ha_recipe_of(params, tensors_nrows(t, T_Q, b),
                                         tensors_nrows(t, T_K, b), t->full.causal);
        for (int64_t h = 0; h < t->full.nheads; h++) {
            head one = head_new(t, b, h, r.sinks);
            for (int64_t x = 0; x < c->n; x++)
                if (c->bundles[x].b == b && c->bundles[x].h == h)
                    all.bundles[x] = model_bundle(&one, &all, &c->bundles[x], &r);
            head_free(&one);
        }
    }
    return all;
}

void multipole_model_free(multipole_model *m)
{
    for (int64_t x = 0; x < m->n; x++) {
        free(m->bundles[x].column);
        free(m->bundles[x].share);
        free(m->bundles[x].logw);
        free(m->bundles[x].doubt);
    }
    free(m->bundles);
    *m = (multipole_model){0};
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
    const sums out = {o->out, o->slip};
    for (int64_t e = 0; e < one->nterms; e++) {
        const term *i = &one->terms[e];
        add_sums(&out, at * dv, x->v + i->value * dv, dv, one->p[e],
                 i->slip * fabs(one->p[e]));
        o->lse_slip[at] += i->slip * fabs(one->p[e]);
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
