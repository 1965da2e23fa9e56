/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of score_rows and sum_rows.
 */
#include <math.h>

#include "kern_source.h"

#define ROUNDING 0x1p-24

/* ---- score_rows ------------------------------------------------------------------------------ */

/* Rows as f32.load_q makes them: zeros behind the columns. */
static guarded query_rows(rng *r, int rows, int64_t columns, int64_t ldq, placement at)
{
    guarded q = guarded_new((size_t)(rows * ldq) * 4, at);
    for (int i = 0; i < rows; i++)
        for (int64_t c = 0; c < ldq; c++)
            ((float *)q.data)[i * ldq + c] =
                c >= columns ? 0 : rng_below(r, 40) ? (float)rng_gauss(r) : NAN;
    guarded_read_only(&q);
    return q;
}

static void check_scores(kern_worst *w, const source *k, const ha_scores *t)
{
    for (int64_t j = 0; j < t->nkeys; j++)
        for (int i = 0; i < t->rows; i++) {
            double sum = 0, size = 0;
            for (int64_t c = 0; c < t->columns; c++) {
                double term = (double)t->q[i * t->ldq + c] * (double)source_value(k, j, c);
                sum += term;
                size += isfinite(term) ? fabs(term) : 0;
            }
            if (size < 0x1p126) /* else f32 may overflow, or not */
                kern_near(w, "score", i, j, sum * (double)t->scale, t->s[j * t->rows + i],
                          ROUNDING * (double)(t->columns + 3) * size + 0x1p-140);
        }
}

static const char *score_rows_case(const kern_run *run, rng *r, const void *arg)
{
    static const int row_counts[] = {1, 2, 4};
    rows_shape shape = *(const rows_shape *)arg;
    shape.values = rng_below(r, 2) ? ORDINARY : ANYTHING;
    source k = source_new(&shape, run->arith, r);
    int rows = row_counts[rng_below(r, 3)];
    int64_t ldq = ha_ldq(&run->table->f32, shape.n) + rng_below(r, 2) * run->arith->lanes;
    guarded q = query_rows(r, rows, shape.n, ldq, shape.at);
    guarded s = kern_floats(ha_round_up(shape.rows * rows, HA_SCORES_PAD), shape.at);
    const ha_scores t = {(float *)s.data, (const float *)q.data, ldq, k.rows, shape.rows,
                         shape.n, rows, rng_below(r, 2) ? 1 : -0.37f};
    run->table->score_rows(&t);
    kern_worst w = {0};
    check_scores(&w, &k, &t);
    const char *why = kern_verdict(&w);
    if (!why)
        why = guarded_check(&s);
    guarded_free(&s);
    guarded_free(&q);
    source_free(&k);
    return why;
}

/* ---- sum_rows -------------------------------------------------------------------------------- */

static void check_sums(kern_worst *w, const source *x, const float *weights, int64_t ldw,
                       const float *sum)
{
    for (int64_t c = 0; c < x->n; c++) {
        double want = 0, size = 0;
        for (int64_t j = 0; j < x->count; j++) {
            double term = (double)weights[j * ldw] * (double)source_value(x, j, c);
            want += term;
            size += isfinite(term) ? fabs(term) : 0;
        }
        if (size < 0x1p127)
            kern_near(w, "sum", 0, c, want, sum[c],
                      ROUNDING * (double)(x->count + 2) * size + 0x1p-140);
    }
}

/* A weight of its own for each row, every other float, or one for all. */
static const char *sum_rows_case(const kern_run *run, rng *r, const void *arg)
{
    rows_shape shape = *(const rows_shape *)arg;
    shape.values = rng_below(r, 2) ? ORDINARY : ANYTHING;
    source x = source_new(&shape, run->arith, r);
    int64_t ldw = rng_below(r, 3), nweights = (shape.rows - 1) * ldw + 1;
    guarded weights = kern_floats(nweights, shape.at);
    for (int64_t j = 0; j < shape.rows; j++)
        ((float *)weights.data)[j * ldw] = rng_below(r, 8) ? (float)rng_gauss(r) : 0;
    guarded_read_only(&weights);
    guarded sum = kern_floats(ha_round_up(shape.n, run->table->f32.lanes), shape.at);
    run->table->sum_rows((float *)sum.data, &x.rows, (const float *)weights.data, ldw, shape.rows,
                         shape.n);
    kern_worst w = {0};
    check_sums(&w, &x, (const float *)weights.data, ldw, (const float *)sum.data);
    const char *why = kern_verdict(&w);
    if (!why)
        why = guarded_check(&sum);
    guarded_free(&sum);
    guarded_free(&weights);
    source_free(&x);
    return why;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void sweep(const kern_run *run, kern_case *verify)
{
    for (int dtype = 0; dtype < 3; dtype++) {
        const rows_shape shape = {.dtype = (hyperattn_dtype)dtype};
        kern_sweep_rows(run, verify, shape, run->arith->lanes, 40);
    }
}

void kern_score_rows(const kern_run *run)
{
    sweep(run, score_rows_case);
}

void kern_sum_rows(const kern_run *run)
{
    sweep(run, sum_rows_case);
}
