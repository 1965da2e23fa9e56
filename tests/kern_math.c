/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of exp2, project, the sums and signs of projections, and the peak loops.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kern.h"

/* ---- exp2 ------------------------------------------------------------------------------------ */

#define MOST_ULP 2.0

/* Error in units in the last place of the result, and Inf where a rule is broken: 0 gives 1, -Inf
 * and everything below -126.5 gives 0, NaN gives NaN. A subnormal result has no more than its own
 * rounding to lose, and -126.5 itself may give 0. */
static double exp2_error(float x, float y)
{
    if (isnan(x))
        return isnan(y) ? 0 : HUGE_VAL;
    if (x < -126.5f)
        return y == 0 && !signbit(y) ? 0 : HUGE_VAL;
    if (x > -0x1p-26f) /* 2^x is nearer to 1 than to any other f32, and 1 where x is 0 */
        return y == 1 ? 0 : x == 0 ? HUGE_VAL : fabs(y - 1.0) * 0x1p24;
    if (x == -126.5f && y == 0)
        return 0;
    double exact = exp2(x);
    if (exact < 0x1p-126)
        return fabs(y - exact) <= 0x1p-149 ? 0 : HUGE_VAL;
    int exponent;
    frexp(exact, &exponent);
    return ldexp(fabs(y - exact), 24 - exponent);
}

/* Every stride-th float from -0 to -Inf and beyond, NaNs. */
static const char *exp2_sweep(const kern_run *run, uint32_t start, uint32_t stride)
{
    enum { BATCH = 4096 };
    static float x[BATCH], y[BATCH];
    double worst = 0;
    float worst_x = 0, worst_y = 1;
    for (uint64_t at = start; at < UINT64_C(0x80000000);) {
        int n = 0;
        for (; n < BATCH && at < UINT64_C(0x80000000); n++, at += stride)
            x[n] = y[n] = kern_float(UINT32_C(0x80000000) | (uint32_t)at);
        run->table->exp2(y, n);
        for (int i = 0; i < n; i++) {
            double error = exp2_error(x[i], y[i]);
            if (error > worst) {
                worst = error;
                worst_x = x[i];
                worst_y = y[i];
            }
        }
    }
    printf("  exp2 at %s: at most %.3f ulp, at %a\n", run->level, worst, (double)worst_x);
    if (worst <= MOST_ULP)
        return NULL;
    return failure("2^%a is %a, expected %a: %.3f ulp", (double)worst_x, (double)worst_y,
                   exp2(worst_x), worst);
}

static const char *exp2_sweep_case(const kern_run *run, rng *r, const void *shape)
{
    (void)shape;
    return run->all ? exp2_sweep(run, 0, 1) : exp2_sweep(run, (uint32_t)rng_below(r, 1021), 1021);
}

static const char *exp2_corners_case(const kern_run *run, rng *r, const void *shape)
{
    (void)r;
    (void)shape;
    static const float x[] = {0, -0.0f, -INFINITY, NAN, -NAN, -0x1p-149f, -0x1p-126f, -0.5f, -1, -2,
                              -125, -126, -126.25f, -126.5f, -0x1.fa0002p6f, -127, -127.5f, -128,
                              -149, -150, -1e10f, -0x1.fffffep127f};
    kern_worst w = {0};
    for (int i = 0; i < COUNT(x); i++) {
        float y = x[i];
        run->table->exp2(&y, 1);
        if (exp2_error(x[i], y) > MOST_ULP)
            kern_near(&w, "exp2 of corner", i, 0, x[i] < -126.5f ? 0 : exp2(x[i]), y, 0);
    }
    return kern_verdict(&w);
}

typedef struct array_shape {
    int64_t n;
    placement at;
} array_shape;

static const char *exp2_array_case(const kern_run *run, rng *r, const void *arg)
{
    const array_shape *shape = arg;
    guarded g = kern_floats(shape->n, shape->at);
    float x[128], *y = (float *)g.data;
    for (int64_t i = 0; i < shape->n; i++)
        x[i] = y[i] = (float)(-130 * rng_uniform(r));
    run->table->exp2(y, shape->n);
    kern_worst w = {0};
    for (int64_t i = 0; i < shape->n; i++)
        if (exp2_error(x[i], y[i]) > MOST_ULP)
            kern_near(&w, "exp2", i, 0, exp2(x[i]), y[i], 0);
    const char *why = kern_verdict(&w);
    if (!why)
        why = guarded_check(&g);
    guarded_free(&g);
    return why;
}

void kern_exp2(const kern_run *run)
{
    for (int at = 0; at < PLACEMENTS; at++)
        for (int n = 1; n <= 70; n++) {
            array_shape s = {n, (placement)at};
            kern_try(run, exp2_array_case, &s, "%d numbers, %s", n, kern_placement(s.at));
        }
    kern_try(run, exp2_corners_case, NULL, "corners");
    kern_try(run, exp2_sweep_case, NULL, run->all ? "every float <= 0" : "floats <= 0");
}

/* ---- project --------------------------------------------------------------------------------- */

typedef struct project_shape {
    int rows, head_dim, r;
    placement at;
} project_shape;

static float *gauss_rows(int64_t n, rng *r, float *dst)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = (float)rng_gauss(r);
    return dst;
}

/* Sums against float64, and columns behind the directions' vectors left alone. */
static const char *check_projections(const ha_arith *a, const project_shape *s, const float *proj,
                                     int64_t ld, const float *x, const float *g)
{
    kern_worst w = {0};
    int64_t written = ha_round_up(s->r, a->lanes);
    for (int64_t i = 0; i < s->rows; i++) {
        for (int64_t j = 0; j < s->r; j++) {
            double sum = 0, size = 0;
            for (int64_t c = 0; c < s->head_dim; c++) {
                double term = (double)x[i * s->head_dim + c] * g[j * s->head_dim + c];
                sum += term;
                size += fabs(term);
            }
            kern_near(&w, "proj", i, j, sum, proj[i * ld + j], (s->head_dim + 1) * 0x1p-24 * size);
        }
        for (int64_t j = written; j < ld; j++)
            if (!is_signalling(proj, i * ld + j, HYPERATTN_F32))
                return failure("proj[%lld][%lld], behind the last vector, was written",
                               (long long)i, (long long)j);
    }
    return kern_verdict(&w);
}

enum { MOST_DIRECTIONS = 144 };

static const char *project_case(const kern_run *run, rng *r, const void *arg)
{
    const project_shape *s = arg;
    const ha_arith *a = run->arith;
    static float rows[64 * 256], directions[MOST_DIRECTIONS * 256];
    ha_rows x = {gauss_rows(s->rows * s->head_dim, r, rows), s->head_dim, NULL, 0, HYPERATTN_F32};
    ha_rows g = {gauss_rows(s->r * s->head_dim, r, directions), s->head_dim, NULL, 0,
                 HYPERATTN_F32};
    int64_t ld = ha_round_up(s->r, a->lanes) + rng_below(r, 3);
    /* a query tile, or rows in place */
    int tiled = s->rows % a->mr || rng_below(r, 2);
    int64_t ldx = tiled ? ha_ldq(a, s->head_dim) : s->head_dim;
    guarded tile = kern_floats(ha_round_up(s->rows, a->mr) * ldx, s->at);
    guarded panel = guarded_new(ha_k_bytes(a, s->r, s->head_dim), s->at);
    guarded proj = kern_floats(s->rows * ld, s->at);
    if (tiled)
        a->load_q(tile.data, &x, s->rows, s->head_dim);
    else
        memcpy(tile.data, rows, tile.size);
    a->pack_k(panel.data, &g, s->r, s->head_dim);
    guarded_read_only(&tile);
    guarded_read_only(&panel);
    run->table->project((float *)proj.data, ld, (const float *)tile.data, ldx,
                        (const float *)panel.data, s->rows, s->head_dim, s->r);
    const char *why = check_projections(a, s, (const float *)proj.data, ld, rows, directions);
    if (!why)
        why = guarded_check(&proj);
    guarded_free(&tile);
    guarded_free(&panel);
    guarded_free(&proj);
    return why;
}

static void try_project(const kern_run *run, const project_shape *s)
{
    kern_try(run, project_case, s, "%d rows of %d, %d directions, %s", s->rows, s->head_dim, s->r,
             kern_placement(s->at));
}

void kern_project(const kern_run *run)
{
    for (int d = 0; d < KERN_DIMS; d++)
        for (int at = 0; at < PLACEMENTS; at++) {
            project_shape s = {1 + (7 * d + at) % 48, kern_dims[d],
                               1 + (5 * d + 3 * at) % HA_MAX_PROJS, (placement)at};
            try_project(run, &s);
        }
    for (int n = 1; n <= 48; n++) {
        project_shape s = {n, 19, 1 + n % HA_MAX_PROJS, (placement)(n % PLACEMENTS)};
        try_project(run, &s);
        s.r = 3 * n;
        try_project(run, &s);
    }
}

/* ---- sums and signs of projections ----------------------------------------------------------- */

typedef struct hash_shape {
    int64_t rows;
    int r;
    placement at;
    double odd; /* one number is this; 0: none */
} hash_shape;

/* Rows of whole vectors, zero behind the r columns. */
static void fill_hash(const hash_shape *s, rng *r, float *x, int64_t ld, float *base)
{
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t j = 0; j < ld; j++)
            x[i * ld + j] = j < s->r ? (float)(100 + rng_gauss(r)) : 0;
    for (int j = 0; j < HA_MAX_PROJS; j++)
        base[j] = j % 5 ? (float)(100 + rng_gauss(r) / 4) : x[j % s->r];
    if (s->odd != 0)
        x[rng_below(r, s->rows) * ld + rng_below(r, s->r)] = (float)s->odd;
}

static const char *check_bits(const hash_shape *s, const float *x, int64_t ld, const float *base,
                              const uint16_t *bits)
{
    for (int64_t i = 0; i < s->rows; i++)
        for (int j = 0; j < 16; j++)
            if ((bits[i] >> j & 1) != (j < s->r && x[i * ld + j] > base[j]))
                return failure("bit %d of row %lld is %d: %g beside %g", j, (long long)i,
                               bits[i] >> j & 1, (double)x[i * ld + j], (double)base[j]);
    return NULL;
}

static const char *check_sums(const hash_shape *s, const float *x, int64_t ld, const double *sum,
                              int finite)
{
    if (s->odd != 0)
        return finite ? failure("%g counts as finite", s->odd) : NULL;
    if (!finite)
        return failure("finite numbers do not count as such");
    kern_worst w = {0};
    for (int j = 0; j < s->r; j++) {
        double exact = 0, size = 0;
        for (int64_t i = 0; i < s->rows; i++) {
            exact += (double)x[i * ld + j];
            size += fabs((double)x[i * ld + j]);
        }
        kern_near(&w, "sum", 0, j, exact, (float)sum[j], (65 + 2) * 0x1p-24 * size);
    }
    return kern_verdict(&w);
}

static const char *hash_case(const kern_run *run, rng *r, const void *arg)
{
    const hash_shape *s = arg;
    int64_t ld = ha_round_up(s->r, run->arith->lanes);
    float base[HA_MAX_PROJS];
    double sum[HA_MAX_PROJS];
    guarded x = kern_floats(s->rows * ld, s->at);
    guarded bits = guarded_new((size_t)s->rows * 2, s->at);
    const float *rows = (const float *)x.data;
    fill_hash(s, r, (float *)x.data, ld, base);
    guarded_read_only(&x);
    run->table->above_bits((uint16_t *)bits.data, rows, ld, base, s->rows, s->r);
    const char *why = check_bits(s, rows, ld, base, (const uint16_t *)bits.data);
    if (!why)
        why = check_sums(s, rows, ld, sum,
                         run->table->column_sums(sum, rows, ld, s->rows, s->r));
    if (!why)
        why = guarded_check(&bits);
    guarded_free(&x);
    guarded_free(&bits);
    return why;
}

void kern_hash(const kern_run *run)
{
    static const double odd[] = {0, NAN, INFINITY, -INFINITY};
    for (int n = 0; n < 8 * HA_MAX_PROJS; n++) {
        hash_shape s = {1 + 37 * n % 300, 1 + n % HA_MAX_PROJS, (placement)(n % PLACEMENTS),
                        odd[n / HA_MAX_PROJS % COUNT(odd)]};
        kern_try(run, hash_case, &s, "%lld rows, %d columns, %s, with %g", (long long)s.rows, s.r,
                 kern_placement(s.at), s.odd);
    }
}

/* ---- peaks ----------------------------------------------------------------------------------- */

/* Operations are counted per step: whole vectors of multiply-adds, as many for each step. */
static const char *check_peak(double (*peak)(int64_t), int64_t per_vector)
{
    double one = peak(1), many = peak(1000);
    if (one < (double)per_vector || fmod(one, (double)per_vector) != 0 || many != 1000 * one)
        return failure("counts %g operations for a step and %g for 1000, in vectors of %lld", one,
                       many, (long long)per_vector);
    return NULL;
}

static const char *peak_case(const kern_run *run, rng *r, const void *shape)
{
    (void)r;
    (void)shape;
    const ha_kernels *t = run->table;
    const char *why = check_peak(t->f32_peak, 2 * t->f32.lanes);
    if (!why && !t->bf16 != !t->bf16_peak)
        why = failure("bf16 arithmetic and bf16_peak are not both there");
    if (!why && t->bf16_peak)
        why = check_peak(t->bf16_peak, 2 * t->bf16->lanes * t->bf16->pair);
    return why;
}

void kern_peak(const kern_run *run)
{
    kern_try(run, peak_case, NULL, "operations");
}
