/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of score_rows, sum_rows, log_sum_exp and scan_codes.
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

/* ---- log_sum_exp ----------------------------------------------------------------------------- */

static const char *sum_case(const kern_run *run, rng *r, const void *arg)
{
    int64_t n = *(const int64_t *)arg;
    placement at = (placement)(n % PLACEMENTS);
    guarded w = kern_floats(n, at), x = kern_floats(n, at);
    float scale = (float)rng_gauss(r);
    double want = 0, spread = pow(10, rng_below(r, 3));
    int none = rng_below(r, 8) == 0; /* nothing has a weight */
    for (int64_t j = 0; j < n; j++) {
        ((float *)w.data)[j] = none || rng_below(r, 6) == 0 ? -INFINITY
                                                           : (float)(spread * rng_gauss(r));
        ((float *)x.data)[j] = (float)(spread * rng_gauss(r));
        want += exp2(((float *)w.data)[j] + (double)scale * ((float *)x.data)[j]);
    }
    guarded_read_only(&w);
    guarded_read_only(&x);
    float got = run->table->log_sum_exp((float *)w.data, (float *)x.data, scale, n);
    double slip = 64 * ROUNDING * (1 + spread * (8 + 8 * fabs(scale))) * 2;
    const char *why = NULL;
    if (want > 0 ? !(fabs(got - log2(want)) <= slip) : got != -INFINITY)
        why = failure("%g of %lld terms, not %g", got, (long long)n, log2(want));
    guarded_free(&w);
    guarded_free(&x);
    return why;
}

void kern_log_sum_exp(const kern_run *run)
{
    for (int64_t n = 1; n < 70; n++)
        kern_try(run, sum_case, &n, "%lld terms", (long long)n);
}

/* ---- scan_codes ------------------------------------------------------------------------------ */

typedef struct scan_shape {
    int64_t nsets;
    int blocks, rows;
    int64_t room;
    placement at;
} scan_shape;

typedef struct scan_buffers {
    guarded codes, boxes, q, score, least, unit, hit;
} scan_buffers;

static int code_sum(const uint8_t *block, const int8_t *q, int64_t x)
{
    int sum = 0;
    for (int i = 0; i < HA_CODE; i++)
        sum += q[i] * block[i / 2 * 2 * HA_CODE_KEYS + 2 * x + i % 2];
    return sum;
}

/* By how much a key is above what a hit is at least; slip: what f32 may add or take away. */
static double excess(const ha_scan *t, int row, int64_t j, double *slip)
{
    int64_t cell = j / HA_CODE_KEYS / t->blocks;
    const int8_t *q = t->q + row * HA_CODE;
    double score = (double)t->scale * t->score[row * t->nsets * HA_CODE_KEYS + cell];
    int sum = code_sum(t->codes + j / HA_CODE_KEYS * HA_CODE_BLOCK, q, j % HA_CODE_KEYS);
    for (int i = 0; i < HA_CODE; i++)
        sum -= HA_CODE_MIDDLE * q[i];
    *slip = 4 * ROUNDING * (fabs(score) + fabs(t->least[row])) + 1e-3 * t->unit[row];
    return score + t->unit[row] * sum - t->least[row];
}

/* The boxes that the codes have. */
static void fill_boxes(uint8_t *boxes, const ha_scan *t)
{
    for (int64_t cell = 0; cell < t->nsets * HA_CODE_KEYS; cell++)
        for (int i = 0; i < HA_CODE; i++) {
            int low = 63, high = 0;
            for (int64_t j = cell * t->blocks * HA_CODE_KEYS;
                 j < (cell + 1) * t->blocks * HA_CODE_KEYS; j++) {
                int code = t->codes[j / HA_CODE_KEYS * HA_CODE_BLOCK + i / 2 * 2 * HA_CODE_KEYS +
                                    2 * (j % HA_CODE_KEYS) + i % 2];
                low = code < low ? code : low;
                high = code > high ? code : high;
            }
            uint8_t *box = boxes + cell / HA_CODE_KEYS * 2 * HA_CODE_BLOCK +
                           i / 2 * 2 * HA_CODE_KEYS + 2 * (cell % HA_CODE_KEYS) + i % 2;
            box[0] = (uint8_t)((low + high) / 2);
            box[HA_CODE_BLOCK] = (uint8_t)(high - box[0]);
        }
}

static void fill_scan(const scan_buffers *b, ha_scan *t, rng *r)
{
    int ends = rng_below(r, 4) == 0;
    for (size_t i = 0; i < b->codes.size; i++)
        b->codes.data[i] = (uint8_t)(ends ? 1 + 62 * rng_below(r, 2) : 1 + rng_below(r, 63));
    for (int i = 0; i < t->rows * HA_CODE; i++)
        ((int8_t *)b->q.data)[i] =
            (int8_t)(ends ? 62 * rng_below(r, 2) - 31 : rng_below(r, 63) - 31);
    for (int64_t i = 0; i < t->rows * t->nsets * HA_CODE_KEYS; i++)
        ((float *)b->score.data)[i] =
            rng_below(r, 9) ? (float)(1e3 * rng_gauss(r)) : rng_below(r, 2) ? NAN : 1e9f;
    for (int i = 0; i < t->rows; i++) {
        ((float *)b->least.data)[i] = rng_below(r, 9) ? (float)(3e3 * rng_gauss(r)) : NAN;
        ((float *)b->unit.data)[i] = 0.3f + 0.1f * (float)i;
    }
    fill_boxes(b->boxes.data, t);
}

/* Hits must be those keys that are so by more than a unit, may be those that nearly are, and no
 * others; in order, and no more than there is room for. */
static const char *check_hits(const ha_scan *t, int row)
{
    int64_t keys = t->nsets * HA_CODE_KEYS * t->blocks * HA_CODE_KEYS, x = 0;
    const uint32_t *hit = t->hit + row * t->room;
    double slip;
    for (int64_t j = 0; j < keys; j++) {
        double above = excess(t, row, j, &slip);
        int is_hit = x < t->found[row] && hit[x] == j;
        if (is_hit && !(above > -2 * t->unit[row] - slip))
            return failure("row %d: key %lld is a hit at %g", row, (long long)j, above);
        if (!is_hit && above > slip && x < t->room)
            return failure("row %d: key %lld is no hit at %g", row, (long long)j, above);
        x += is_hit;
    }
    return x == t->found[row] ? NULL : failure("row %d: hits are out of order", row);
}

static const char *scan_case(const kern_run *run, rng *r, const void *arg)
{
    const scan_shape *s = arg;
    int64_t cells = s->nsets * HA_CODE_KEYS, found[HA_SCAN_ROWS];
    scan_buffers b = {
        .codes = guarded_new((size_t)(cells * s->blocks * HA_CODE_BLOCK), s->at),
        .boxes = guarded_new((size_t)(s->nsets * 2 * HA_CODE_BLOCK), s->at),
        .q = guarded_new((size_t)(s->rows * HA_CODE), s->at),
        .score = kern_floats(s->rows * cells, s->at),
        .least = kern_floats(s->rows, s->at),
        .unit = kern_floats(s->rows, s->at),
        .hit = kern_floats(s->rows * s->room, s->at),
    };
    ha_scan t = {
        .codes = b.codes.data, .boxes = b.boxes.data, .nsets = s->nsets, .blocks = s->blocks,
        .rows = s->rows, .q = (int8_t *)b.q.data, .score = (float *)b.score.data,
        .least = (float *)b.least.data, .unit = (float *)b.unit.data,
        .scale = rng_below(r, 2) ? 0.7f : -0.7f,
        .hit = (uint32_t *)b.hit.data, .room = s->room, .found = found,
    };
    const char *why = NULL;
    fill_scan(&b, &t, r);
    guarded *given[] = {&b.codes, &b.boxes, &b.q, &b.score, &b.least, &b.unit};
    for (int i = 0; i < COUNT(given); i++)
        guarded_read_only(given[i]);
    run->table->scan_codes(&t);
    for (int row = 0; row < s->rows && !why; row++)
        why = check_hits(&t, row);
    why = why ? why : guarded_check(&b.hit);
    for (int i = 0; i < COUNT(given); i++)
        guarded_free(given[i]);
    guarded_free(&b.hit);
    return why;
}

void kern_scan_codes(const kern_run *run)
{
    static const int64_t rooms[] = {1, 40, 100000};
    for (int sets = 1; sets < 4; sets++)
        for (int blocks = 1; blocks <= 8; blocks *= 2)
            for (int room = 0; room < COUNT(rooms); room++) {
                int rows = 1 + (7 * sets + 5 * blocks + room) % HA_SCAN_ROWS;
                const scan_shape s = {sets, blocks, rows,
                                      rooms[room] < 1000 ? rooms[room]
                                                         : (int64_t)sets * blocks * HA_CODE_BLOCK,
                                      (placement)((sets + room) % PLACEMENTS)};
                kern_try(run, scan_case, &s, "%d rows, %d sets of cells of %d blocks, room for %d",
                         rows, sets, blocks, (int)s.room);
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
