/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of score_rows, sum_rows and scan_codes.
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

/* ---- scan_codes ------------------------------------------------------------------------------ */

typedef struct scan_shape {
    int64_t ncells;
    int blocks;
    int64_t room; /* a part of the hits in a hundred; beyond 100: more than there are */
    placement at;
} scan_shape;

/* The product of key j, as lib/kernels.h says how it lies. */
static int code_product(const ha_scan *t, int64_t j)
{
    const uint8_t *block = t->codes + j / HA_CODE_KEYS * HA_CODE * HA_CODE_KEYS;
    int sum = 0;
    for (int i = 0; i < HA_CODE; i++)
        sum += t->q[i] * block[i / 2 * 2 * HA_CODE_KEYS + 2 * (j % HA_CODE_KEYS) + i % 2];
    return sum;
}

static int is_hit(const ha_scan *t, int64_t j)
{
    int16_t threshold = t->threshold[j / HA_CODE_KEYS / t->blocks];
    return threshold != INT16_MAX && code_product(t, j) > threshold;
}

/* Codes at random or at their ends, and thresholds that some keys reach exactly. */
static void fill_scan(const ha_scan *t, rng *r, guarded *codes, guarded *q, guarded *threshold)
{
    int ends = rng_below(r, 4) == 0;
    for (size_t i = 0; i < codes->size; i++)
        codes->data[i] = (uint8_t)(ends ? 63 * rng_below(r, 2) : rng_below(r, 64));
    for (int i = 0; i < HA_CODE; i++)
        ((int8_t *)q->data)[i] = (int8_t)(ends ? 62 * rng_below(r, 2) - 31 : rng_below(r, 63) - 31);
    for (int64_t c = 0; c < t->ncells; c++) {
        int64_t keys = t->blocks * HA_CODE_KEYS;
        int product = code_product(t, c * keys + rng_below(r, keys));
        ((int16_t *)threshold->data)[c] =
            (int16_t)(rng_below(r, 5) == 0 ? INT16_MAX : rng_below(r, 5) ? product : INT16_MIN);
    }
}

static const char *scan_case(const kern_run *run, rng *r, const void *arg)
{
    const scan_shape *shape = arg;
    int64_t nkeys = shape->ncells * shape->blocks * HA_CODE_KEYS, hits = 0, found = 0;
    guarded codes = guarded_new((size_t)(nkeys * HA_CODE), shape->at);
    guarded q = guarded_new(HA_CODE, shape->at);
    guarded threshold = guarded_new((size_t)shape->ncells * sizeof(int16_t), shape->at);
    ha_scan t = {codes.data, (const int8_t *)q.data, (const int16_t *)threshold.data,
                 shape->ncells, shape->blocks, NULL, 0};
    fill_scan(&t, r, &codes, &q, &threshold);
    for (int64_t j = 0; j < nkeys; j++)
        hits += is_hit(&t, j);
    t.room = shape->room > 100 ? hits + 1 : hits * shape->room / 100;
    guarded hit = kern_floats(t.room, shape->at);
    t.hit = (uint32_t *)hit.data;
    int64_t got = run->table->scan_codes(&t), want = t.room < hits ? t.room : hits;
    const char *why = got == want ? NULL : failure("%lld hits of %lld", (long long)got,
                                                   (long long)want);
    for (int64_t j = 0; j < nkeys && found < want && !why; j++)
        if (is_hit(&t, j) && t.hit[found++] != j)
            why = failure("hit %lld is %u, not %lld", (long long)found - 1, t.hit[found - 1],
                          (long long)j);
    why = why ? why : guarded_check(&hit);
    guarded_free(&codes);
    guarded_free(&q);
    guarded_free(&threshold);
    guarded_free(&hit);
    return why;
}

void kern_scan_codes(const kern_run *run)
{
    static const int64_t rooms[] = {0, 50, 100, 101};
    for (int cells = 1; cells < 12; cells++)
        for (int blocks = 1; blocks <= 8; blocks *= 2)
            for (int room = 0; room < COUNT(rooms); room++) {
                const scan_shape s = {cells, blocks, rooms[room],
                                      (placement)((cells + room) % PLACEMENTS)};
                kern_try(run, scan_case, &s, "%d cells of %d blocks, room for %d %%", cells,
                         blocks, (int)rooms[room]);
            }
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
