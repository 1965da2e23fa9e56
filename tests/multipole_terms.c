/* SPDX-License-Identifier: Apache-2.0 */
#include "multipole_terms.h"

#include <math.h>

/* What f32 may cost a term, in units of eps, beside the slack of its score. */
#define SLIP 32

/* ---- life ------------------------------------------------------------------------------------ */

sums sums_new(int64_t n)
{
    return (sums){zeros(n, sizeof(double)), zeros(n, sizeof(double))};
}

void sums_free(sums *s)
{
    free(s->value);
    free(s->size);
}

/* A bundle has no more columns than its past has keys, and a row no more private keys. */
head head_new(const tensors *t, int64_t b, int64_t h, int64_t sinks)
{
    head one = {.x = head_load(t, b, h), .sinks = sinks};
    head_data *x = &one.x;
    x->k = realloc(x->k, (size_t)(2 * x->nk * x->d + 1) * sizeof *x->k);
    x->v = realloc(x->v, (size_t)(2 * x->nk * x->dv + 1) * sizeof *x->v);
    one.value_size = zeros(2 * x->nk * x->dv, sizeof *one.value_size);
    for (int64_t e = 0; e < x->nk * x->dv; e++)
        one.value_size[e] = fabs(x->v[e]);
    one.terms = zeros(4 * x->nk, sizeof *one.terms);
    one.p = zeros(4 * x->nk, sizeof *one.p);
    one.dk = sums_new(2 * x->nk * x->d);
    one.dv = sums_new(2 * x->nk * x->dv);
    return one;
}

void head_free(head *one)
{
    head_unload(&one->x);
    free(one->value_size);
    free(one->terms);
    free(one->p);
    sums_free(&one->dk);
    sums_free(&one->dv);
}

void build_columns(const head *one, const bundle_model *m)
{
    const head_data *x = &one->x;
    for (int64_t e = 0; e < m->ncolumns * x->d; e++)
        x->k[x->nk * x->d + e] = 0;
    for (int64_t e = 0; e < m->ncolumns * x->dv; e++)
        x->v[x->nk * x->dv + e] = one->value_size[x->nk * x->dv + e] = 0;
    for (int64_t at = 0; at < m->choices->past; at++) {
        int64_t key = m->choices->keys[at], to = x->nk + m->column[at];
        if (m->column[at] < 0)
            continue;
        add(x->k + to * x->d, m->share[at], x->k + key * x->d, x->d);
        add(x->v + to * x->dv, m->share[at], x->v + key * x->dv, x->dv);
        add(one->value_size + to * x->dv, m->share[at], one->value_size + key * x->dv, x->dv);
    }
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

void list_terms(head *one, const bundle_model *m, int64_t i, int64_t row)
{
    const head_data *x = &one->x;
    int64_t limit = x->t->full.causal ? row + 1 + x->nk - x->nq : x->nk;
    one->nterms = 0;
    add_keys(one, m ? m->choices->past : 0, limit);
    if (m)
        list_past(one, m, i);
}

void score_terms(head *one, int64_t row)
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

void weigh_terms(head *one, double lse)
{
    for (int64_t e = 0; e < one->nterms; e++)
        one->p[e] = one->terms[e].sign * exp(one->terms[e].log - lse);
}
