/* SPDX-License-Identifier: Apache-2.0 */
#include "pattern.h"

#include <math.h>
#include <stdlib.h>

static void *zeros(int64_t n, size_t size)
{
    return calloc((size_t)n + 1, size);
}

/* ---- patterns -------------------------------------------------------------------------------- */

pattern pattern_new(int64_t nrows)
{
    return (pattern){zeros(nrows, sizeof(pattern_row)), nrows};
}

void pattern_free(pattern *p)
{
    for (int64_t i = 0; i < p->nrows; i++) {
        free(p->rows[i].entries);
        free(p->rows[i].parts);
    }
    free(p->rows);
    *p = (pattern){0};
}

/* An array of n elements with room for one more: it grows at each power of two. */
static void *grown(void *array, int64_t n, size_t size)
{
    return n & (n - 1) ? array : realloc(array, (size_t)(2 * n + 1) * size);
}

void pattern_begin(pattern_row *row, double floor, double log_n)
{
    row->parts = grown(row->parts, row->nparts, sizeof *row->parts);
    row->parts[row->nparts++] = (pattern_part){row->nentries, row->nentries, floor, log_n};
}

void pattern_add(pattern_row *row, int64_t key, double log, int sampled)
{
    row->entries = grown(row->entries, row->nentries, sizeof *row->entries);
    row->entries[row->nentries++] = (pattern_entry){key, log};
    if (!sampled)
        row->parts[row->nparts - 1].sampled = row->nentries;
}

static int64_t part_end(const pattern_row *row, int64_t p)
{
    return p + 1 < row->nparts ? row->parts[p + 1].exact : row->nentries;
}

pattern pattern_exact(const tensors *t)
{
    pattern p = pattern_new(t->rows);
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_Q, b); i++) {
                pattern_row *row = &p.rows[tensors_row(t, b, h, i)];
                pattern_begin(row, -1, 1);
                for (int64_t j = 0; j < tensors_nrows(t, T_K, b) && tensors_sees(t, b, i, j); j++)
                    pattern_add(row, j, 0, 0);
            }
    return p;
}

/* ---- heads ----------------------------------------------------------------------------------- */

static double *load(const tensors *t, operand which, int64_t b, int64_t h)
{
    int64_t rows = tensors_nrows(t, which, b), dim = tensors_dim(t, which);
    double *x = zeros(rows * dim, sizeof *x);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < dim; c++)
            x[i * dim + c] = tensors_get(t, which, b, h, i, c);
    return x;
}

head_data head_load(const tensors *t, int64_t b, int64_t h)
{
    head_data x = {.t = t, .b = b, .h = h, .kv = h / (t->full.nheads / t->full.nheads_kv),
                   .nq = tensors_nrows(t, T_Q, b), .nk = tensors_nrows(t, T_K, b),
                   .d = t->full.head_dim, .dv = t->full.head_dim_v,
                   .scale = (double)t->full.softmax_scale};
    x.q = load(t, T_Q, b, h);
    x.k = load(t, T_K, b, x.kv);
    x.v = load(t, T_V, b, x.kv);
    return x;
}

void head_unload(head_data *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
}

double head_score(const head_data *x, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t c = 0; c < x->d; c++)
        sum += x->q[i * x->d + c] * x->k[j * x->d + c];
    return x->scale * sum;
}

double head_slack(const head_data *x, int64_t i, int64_t j)
{
    double size = 0;
    for (int64_t c = 0; c < x->d; c++)
        size += fabs(x->q[i * x->d + c] * x->k[j * x->d + c]);
    return 4 * fabs(x->scale) * size;
}

/* ---- terms ----------------------------------------------------------------------------------- */

static void part_terms(const head_data *x, int64_t i, const pattern_row *row, int64_t p,
                       row_terms *to, hyper_counts *counts)
{
    const pattern_part *part = &row->parts[p];
    double exact_sum = 0, rest = 0, cap = INFINITY;
    for (int64_t e = part->exact; e < part->sampled; e++) {
        to->log[e] = head_score(x, i, row->entries[e].key) + row->entries[e].log;
        exact_sum += exp(to->log[e]);
    }
    if (part->floor >= 0)
        cap = log((exact_sum + part->floor) / part->log_n);
    for (int64_t e = part->sampled; e < part_end(row, p); e++) {
        double s = head_score(x, i, row->entries[e].key) + row->entries[e].log;
        to->capped[e] = s > cap;
        to->log[e] = s > cap ? cap : s;
        rest += exp(to->log[e]);
        to->at_cap[e] = fabs(s - cap) < 1e-5 * (1 + fabs(cap));
        counts->capped += to->capped[e];
    }
    to->raised[p] = rest < part->floor ? log(part->floor - rest) : -INFINITY;
    counts->floored += rest < part->floor;
    to->at_floor[p] = fabs(rest - part->floor) < 1e-5 * (exact_sum + rest);
}

row_terms row_terms_of(const head_data *x, int64_t i, const pattern_row *row, hyper_counts *counts)
{
    row_terms terms = {zeros(row->nentries, sizeof(double)), zeros(row->nentries, 1),
                       zeros(row->nparts, sizeof(double)), zeros(row->nentries, 1),
                       zeros(row->nparts, 1), row->nentries, row->nparts};
    for (int64_t p = 0; p < row->nparts; p++)
        part_terms(x, i, row, p, &terms, counts);
    return terms;
}

void row_terms_free(row_terms *terms)
{
    free(terms->log);
    free(terms->capped);
    free(terms->raised);
    free(terms->at_cap);
    free(terms->at_floor);
}

double row_terms_lse(const row_terms *terms)
{
    double top = -INFINITY, sum = 0;
    for (int64_t e = 0; e < terms->nentries; e++)
        top = fmax(top, terms->log[e]);
    for (int64_t p = 0; p < terms->nparts; p++)
        top = fmax(top, terms->raised[p]);
    double base = top == -INFINITY ? 0 : top;
    for (int64_t e = 0; e < terms->nentries; e++)
        sum += exp(terms->log[e] - base);
    for (int64_t p = 0; p < terms->nparts; p++)
        sum += exp(terms->raised[p] - base);
    return top == -INFINITY && sum == 0 ? top : base + log(sum);
}

double stored(double x, hyperattn_dtype dtype)
{
    uint16_t low;
    element_put(&low, 0, dtype, x);
    return element_get(&low, 0, dtype);
}

/* ---- forward --------------------------------------------------------------------------------- */

/* The largest error of a plain implementation that stores scores, weights and out in the type. */
static double plain_error(const oracle *o, const head_data *x, int64_t at, const pattern_row *row,
                          row_terms *terms)
{
    hyperattn_dtype dtype = x->t->full.dtype;
    double worst = 0;
    for (int64_t e = 0; e < row->nentries; e++)
        terms->log[e] = stored(terms->log[e], dtype);
    for (int64_t p = 0; p < row->nparts; p++)
        terms->raised[p] = stored(terms->raised[p], dtype);
    double lse = row_terms_lse(terms);
    for (int64_t c = 0; c < o->dv; c++) {
        double sum = 0;
        for (int64_t e = 0; e < row->nentries; e++)
            sum += stored(exp(terms->log[e] - lse), dtype) *
                   x->v[row->entries[e].key * x->dv + c];
        worst = fmax(worst, fabs(stored(sum, dtype) - o->out[at * o->dv + c]));
    }
    return worst;
}

static void forward_row(oracle *o, const head_data *x, int64_t i, const pattern_row *row,
                        hyper_counts *counts)
{
    int64_t at = tensors_row(x->t, x->b, x->h, i);
    row_terms terms = row_terms_of(x, i, row, counts);
    double *out = o->out + at * o->dv, *slip = o->slip + at * o->dv;
    o->lse[at] = row_terms_lse(&terms);
    o->nkeys[at] = (int64_t)sqrt((double)row->nentries);
    for (int64_t e = 0; e < row->nentries; e++) {
        double p = exp(terms.log[e] - o->lse[at]);
        for (int64_t c = 0; c < o->dv; c++)
            out[c] += p * x->v[row->entries[e].key * x->dv + c];
    }
    for (int64_t e = 0; e < row->nentries; e++) {
        double p = exp(terms.log[e] - o->lse[at]), a = head_slack(x, i, row->entries[e].key);
        o->lse_slip[at] += p * a;
        for (int64_t c = 0; c < o->dv; c++) {
            double v = x->v[row->entries[e].key * x->dv + c];
            slip[c] += p * (fabs(v) + fabs(v - out[c]) * a);
        }
    }
    if (x->t->full.dtype != HYPERATTN_F32)
        o->plain_error = fmax(o->plain_error, plain_error(o, x, at, row, &terms));
    row_terms_free(&terms);
}

oracle pattern_forward(const tensors *t, const pattern *p, hyper_counts *counts)
{
    oracle o = {.rows = t->rows, .dv = t->full.head_dim_v};
    o.out = zeros(o.rows * o.dv, sizeof *o.out);
    o.slip = zeros(o.rows * o.dv, sizeof *o.slip);
    o.lse = zeros(o.rows, sizeof *o.lse);
    o.lse_slip = zeros(o.rows, sizeof *o.lse_slip);
    o.nkeys = zeros(o.rows, sizeof *o.nkeys);
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            head_data x = head_load(t, b, h);
            for (int64_t i = 0; i < x.nq; i++)
                forward_row(&o, &x, i, &p->rows[tensors_row(t, b, h, i)], counts);
            head_unload(&x);
        }
    return o;
}
