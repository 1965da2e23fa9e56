/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>

/* One head of one sequence as float64. */
typedef struct head {
    const tensors *t;
    int64_t b, h, nq, nk, d, dv;
    double *q, *k, *v; /* [nq][d], [nk][d], [nk][dv] */
    double *p, *slack; /* of one row: [nk] scores, then weights; [nk] a_k of oracle.h */
} head;

static double *load(const tensors *t, operand which, int64_t b, int64_t h)
{
    int64_t rows = tensors_nrows(t, which, b), dim = tensors_dim(t, which);
    double *x = malloc((size_t)(rows * dim + 1) * sizeof *x);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < dim; c++)
            x[i * dim + c] = tensors_get(t, which, b, h, i, c);
    return x;
}

static head head_new(const tensors *t, int64_t b, int64_t h)
{
    int64_t kv = h / (t->full.nheads / t->full.nheads_kv);
    head one = {.t = t, .b = b, .h = h, .d = t->full.head_dim, .dv = t->full.head_dim_v};
    one.nq = tensors_nrows(t, T_Q, b);
    one.nk = tensors_nrows(t, T_K, b);
    one.q = load(t, T_Q, b, h);
    one.k = load(t, T_K, b, kv);
    one.v = load(t, T_V, b, kv);
    one.p = malloc((size_t)(one.nk + 1) * sizeof *one.p);
    one.slack = malloc((size_t)(one.nk + 1) * sizeof *one.slack);
    return one;
}

static void head_free(head *one)
{
    free(one->q);
    free(one->k);
    free(one->v);
    free(one->p);
    free(one->slack);
}

/* Keys that row i sees: they are the first ones. */
static int64_t keys_seen(const head *one, int64_t i)
{
    int64_t seen = one->nk;
    while (seen > 0 && !tensors_sees(one->t, one->b, i, seen - 1))
        seen--;
    return seen;
}

/* Scores of row i with its n keys, and what their terms add up to without signs. */
static void scores(head *one, int64_t i, int64_t n)
{
    double scale = (double)one->t->full.softmax_scale;
    for (int64_t j = 0; j < n; j++) {
        double sum = 0, size = 0;
        for (int64_t c = 0; c < one->d; c++) {
            double term = one->q[i * one->d + c] * one->k[j * one->d + c];
            sum += term;
            size += fabs(term);
        }
        one->p[j] = scale * sum;
        one->slack[j] = 4 * fabs(scale) * size;
    }
}

/* Turns n scores into softmax weights and returns their lse; NaN if a score is NaN. Scores that
 * are all -inf weigh nothing, as those of masked keys. */
static double softmax(double *p, int64_t n)
{
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        if (p[j] > max)
            max = p[j];
    for (int64_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - (max == -INFINITY ? 0 : max));
    for (int64_t j = 0; j < n && sum != 0; j++)
        p[j] /= sum;
    return max == -INFINITY && sum == 0 ? max : max + log(sum);
}

static void oracle_row(oracle *o, head *one, int64_t i)
{
    int64_t row = tensors_row(one->t, one->b, one->h, i);
    int64_t n = keys_seen(one, i);
    double *out = o->out + row * o->dv, *slip = o->slip + row * o->dv;
    o->nkeys[row] = n;
    if (n == 0) {
        o->lse[row] = -INFINITY;
        return;
    }
    scores(one, i, n);
    o->lse[row] = softmax(one->p, n);
    for (int64_t j = 0; j < n; j++) {
        o->lse_slip[row] += one->p[j] > 0 ? one->p[j] * one->slack[j] : 0; /* not 0 * Inf */
        for (int64_t c = 0; c < o->dv; c++)
            out[c] += one->p[j] * one->v[j * o->dv + c];
    }
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < o->dv; c++) {
            double v = one->v[j * o->dv + c];
            slip[c] += one->p[j] * (fabs(v) + fabs(v - out[c]) * one->slack[j]);
        }
}

/* The plain implementation in a 16-bit type: scores, weights and out are stored in it. */
static double plain_error(const oracle *o, head *one, int64_t i)
{
    hyperattn_dtype dtype = one->t->full.dtype;
    int64_t row = tensors_row(one->t, one->b, one->h, i);
    int64_t n = o->nkeys[row];
    uint16_t low;
    double worst = 0;
    scores(one, i, n);
    for (int64_t j = 0; j < n; j++) {
        element_put(&low, 0, dtype, one->p[j]);
        one->p[j] = element_get(&low, 0, dtype);
    }
    softmax(one->p, n);
    for (int64_t j = 0; j < n; j++) {
        element_put(&low, 0, dtype, one->p[j]);
        one->p[j] = element_get(&low, 0, dtype);
    }
    for (int64_t c = 0; c < o->dv; c++) {
        double sum = 0;
        for (int64_t j = 0; j < n; j++)
            sum += one->p[j] * one->v[j * o->dv + c];
        element_put(&low, 0, dtype, sum);
        worst = fmax(worst, fabs(element_get(&low, 0, dtype) - o->out[row * o->dv + c]));
    }
    return worst;
}

oracle oracle_exact(const tensors *t)
{
    int64_t dv = t->full.head_dim_v;
    size_t rows = (size_t)t->rows, elements = rows * (size_t)dv;
    oracle o = {.rows = t->rows, .dv = dv};
    o.out = calloc(elements + 1, sizeof *o.out);
    o.slip = calloc(elements + 1, sizeof *o.slip);
    o.lse = calloc(rows + 1, sizeof *o.lse);
    o.lse_slip = calloc(rows + 1, sizeof *o.lse_slip);
    o.nkeys = calloc(rows + 1, sizeof *o.nkeys);
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            head one = head_new(t, b, h);
            for (int64_t i = 0; i < one.nq; i++) {
                oracle_row(&o, &one, i);
                if (t->full.dtype != HYPERATTN_F32)
                    o.plain_error = fmax(o.plain_error, plain_error(&o, &one, i));
            }
            head_free(&one);
        }
    return o;
}

void oracle_free(oracle *o)
{
    free(o->out);
    free(o->slip);
    free(o->lse);
    free(o->lse_slip);
    free(o->nkeys);
    *o = (oracle){0};
}

void oracle_store(const oracle *o, tensors *t)
{
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++) {
                int64_t row = tensors_row(t, b, h, i);
                ((float *)t->lse.data)[row] = (float)o->lse[row];
                for (int64_t c = 0; c < o->dv; c++)
                    tensors_put(t, T_OUT, b, h, i, c, o->out[row * o->dv + c]);
            }
}

/* ---- comparison ---------------------------------------------------------------------------- */

/* How far got is from want, in units of the tolerance; more than 1 is wrong. */
static double excess(double got, double want, double tolerance)
{
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got) ? 0 : INFINITY;
    if (got == want)
        return 0;
    return isinf(want) || isinf(got) ? INFINITY : fabs(got - want) / tolerance;
}

static double out_tolerance(const oracle *o, hyperattn_dtype dtype, int64_t row, int64_t c)
{
    double eps = dtype_eps(HYPERATTN_F32), out = fabs(o->out[row * o->dv + c]);
    double tolerance = 8 * (1 + (double)o->nkeys[row]) * eps * out;
    tolerance += eps * o->slip[row * o->dv + c];
    if (dtype != HYPERATTN_F32)
        tolerance += 2 * o->plain_error + dtype_eps(dtype) * out;
    return tolerance + 1e-37; /* below f32's normal range nothing is promised */
}

/* lse is f32 for every dtype, but weights in bf16 products may be rounded before they are summed */
static double lse_tolerance(const oracle *o, hyperattn_dtype dtype, int64_t row)
{
    double eps = dtype_eps(HYPERATTN_F32);
    double tolerance = eps * (8 * (1 + (double)o->nkeys[row]) + fabs(o->lse[row]));
    return tolerance + eps * o->lse_slip[row] + (dtype == HYPERATTN_BF16 ? 0x1p-8 : 0);
}

typedef struct worst {
    double excess, got, want;
    int64_t b, h, i, c; /* c -1: lse */
} worst;

static void compare_row(const oracle *o, const tensors *t, double loosen, worst *w)
{
    int64_t row = tensors_row(t, w->b, w->h, w->i);
    worst here = *w;
    for (here.c = -1; here.c < o->dv; here.c++) {
        double tolerance = here.c < 0 ? lse_tolerance(o, t->full.dtype, row)
                                      : out_tolerance(o, t->full.dtype, row, here.c);
        here.got = here.c < 0 ? (double)tensors_lse(t, w->b, w->h, w->i)
                              : tensors_get(t, T_OUT, w->b, w->h, w->i, here.c);
        here.want = here.c < 0 ? o->lse[row] : o->out[row * o->dv + here.c];
        here.excess = excess(here.got, here.want, loosen * tolerance);
        if (here.excess > w->excess)
            *w = here;
    }
}

const char *oracle_compare(const oracle *o, const tensors *t, double loosen)
{
    worst w = {0};
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++) {
                worst row = {.b = b, .h = h, .i = i};
                compare_row(o, t, loosen, &row);
                if (row.excess > w.excess)
                    w = row;
            }
    if (w.excess <= 1)
        return NULL;
    return failure("%s of sequence %lld, head %lld, row %lld, column %lld is %.9g, not %.9g: "
                   "%.3g times the tolerance",
                   w.c < 0 ? "lse" : "out", (long long)w.b, (long long)w.h, (long long)w.i,
                   (long long)w.c, w.got, w.want, w.excess);
}

double oracle_error(const oracle *o, const tensors *t)
{
    double difference = 0, size = 0;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
                for (int64_t c = 0; c < o->dv; c++) {
                    double want = o->out[tensors_row(t, b, h, i) * o->dv + c];
                    double got = tensors_get(t, T_OUT, b, h, i, c);
                    difference += (got - want) * (got - want);
                    size += want * want;
                }
    return sqrt(difference / size);
}

/* ---- hardness ------------------------------------------------------------------------------ */

/* Adds a row's squared shares to the columns; returns ln of its sum without the large ones. */
static double light_sum(head *one, int64_t i, double weight, double large, double *column)
{
    int64_t n = keys_seen(one, i);
    double light = 0, lse;
    if (n == 0)
        return -INFINITY;
    scores(one, i, n);
    lse = softmax(one->p, n);
    for (int64_t j = 0; j < n; j++) {
        column[j] += weight * one->p[j] * one->p[j];
        light += one->p[j] < large ? one->p[j] : 0;
    }
    return lse + log(light);
}

hardness oracle_hardness(const tensors *t, int64_t b, int64_t h, const uint32_t *row,
                         const int64_t *weight, int64_t n, double large)
{
    head one = head_new(t, b, h);
    double *column = calloc((size_t)one.nk + 1, sizeof *column);
    double least = INFINITY, most = -INFINITY;
    hardness found = {0, 1};
    for (int64_t i = 0; i < n; i++) {
        double sum = light_sum(&one, row[i], (double)weight[i], large, column);
        if (sum > -INFINITY) {
            least = fmin(least, sum);
            most = fmax(most, sum);
        }
    }
    for (int64_t j = 0; j < one.nk; j++)
        found.alpha = fmax(found.alpha, (double)one.nk * column[j]);
    if (most >= least)
        found.kappa = exp(most - least);
    free(column);
    head_free(&one);
    return found;
}
