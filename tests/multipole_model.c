/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "algo/multipole.h"
#include "multipole_terms.h"

/* lib/cpu/bundle.c: the least part of a merged column that must be left when keys are taken out;
 * and how near to it f32 could decide otherwise. */
#define LEAST_REST 0x1p-14
#define NEAR 0.05

/* lib/cpu/private.c: the same of a row's sum. Below it, the row attends to all keys. */
#define LEAST_SUM 0x1p-10

static double log_add(double a, double b)
{
    double top = fmax(a, b);
    return top == -INFINITY ? top : top + log(exp(a - top) + exp(b - top));
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
    all->crowded += c->nselected == past - r->sinks;
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
