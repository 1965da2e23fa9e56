/* SPDX-License-Identifier: Apache-2.0 */
#include "kern_source.h"

#include <math.h>

const uint32_t rows_lower_halves[ROWS_LOWER_HALVES] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};

/* ---- what is packed -------------------------------------------------------------------------- */

/* The bf16 nearest to x, of two the even one: a multiple of the spacing at x's size. */
static uint32_t nearest_bf16(float x)
{
    if (isnan(x))
        return 0x7fc0;
    int exponent = x != 0 && isfinite(x) ? ilogbf(x) : 0;
    double spacing = ldexp(1, (exponent < -126 ? -126 : exponent) - 7);
    double value = isfinite(x) ? nearbyint((double)x / spacing) * spacing : (double)x;
    float bf16 = (float)(fabs(value) < 0x1p128 ? value : copysign(INFINITY, value));
    return kern_bits(bf16) >> 16;
}

int64_t source_row(const source *s, int64_t i)
{
    return s->rows.index ? s->rows.index[i] : s->rows.first + i;
}

float source_value(const source *s, int64_t i, int64_t c)
{
    if (i >= s->count || c >= s->n)
        return 0;
    return (float)element_get(s->rows.base, source_row(s, i) * s->rows.stride + c, s->rows.dtype);
}

uint32_t source_packed(const source *s, const ha_arith *a, int64_t i, int64_t c)
{
    if (i >= s->count || c >= s->n)
        return 0;
    if (a->pair == 2 && s->rows.dtype == HYPERATTN_BF16)
        return ((const uint16_t *)s->rows.base)[source_row(s, i) * s->rows.stride + c];
    float value = source_value(s, i, c);
    return a->pair == 2 ? nearest_bf16(value) : kern_bits(value);
}

static int finite_packed(const source *s, const ha_arith *a, int64_t i, int64_t c)
{
    uint32_t bits = source_packed(s, a, i, c);
    return isfinite(kern_float(a->pair == 2 ? bits << 16 : bits)) != 0;
}

int source_finite(const source *s, const ha_arith *a)
{
    int finite = 1;
    for (int64_t i = 0; i < s->count; i++)
        for (int64_t c = 0; c < s->n; c++)
            finite &= finite_packed(s, a, i, c);
    return finite;
}

/* ---- a source -------------------------------------------------------------------------------- */

static void put_bits(source *s, int64_t at, uint32_t bits)
{
    if (s->rows.dtype == HYPERATTN_F32)
        ((uint32_t *)s->data.data)[at] = bits;
    else
        ((uint16_t *)s->data.data)[at] = (uint16_t)bits;
}

static uint32_t random_bits(rng *r, hyperattn_dtype dtype)
{
    uint32_t bits = (uint32_t)rng_next(r);
    if (dtype == HYPERATTN_F32 && rng_below(r, 2))
        bits = (bits & 0xffff0000) | rows_lower_halves[rng_below(r, ROWS_LOWER_HALVES)];
    return bits;
}

/* Value c of row i, the count-th that is put. */
static void put_value(source *s, const ha_arith *a, rng *r, rows_values values, int64_t i,
                      int64_t c, uint32_t count)
{
    hyperattn_dtype dtype = s->rows.dtype;
    int64_t at = source_row(s, i) * s->rows.stride + c;
    element_put(s->data.data, at, dtype, rng_gauss(r));
    if (values == EVERY_PATTERN)
        put_bits(s, at, dtype != HYPERATTN_F32 ? count
                        : count << 16 | rows_lower_halves[(count >> 16) % ROWS_LOWER_HALVES]);
    else if (values != ORDINARY && rng_below(r, 2))
        put_bits(s, at, random_bits(r, dtype));
    if (values == FINITE && !finite_packed(s, a, i, c))
        element_put(s->data.data, at, dtype, 0);
    /* That one marks f32 which a kernel has not written, and those are compared as numbers. */
    if (a->pair == 1 && is_signalling(s->data.data, at, dtype))
        element_put(s->data.data, at, dtype, NAN);
}

source source_new(const rows_shape *shape, const ha_arith *a, rng *r)
{
    int64_t before = rng_below(r, 3), total = before + shape->rows + rng_below(r, 3);
    source s = {.count = shape->rows, .n = shape->n};
    s.rows.stride = shape->n + rng_below(r, 4);
    s.rows.dtype = shape->dtype;
    s.rows.first = before;
    int64_t elements = (total - 1) * s.rows.stride + shape->n;
    s.data = guarded_new((size_t)elements * dtype_size(shape->dtype), shape->at);
    s.rows.base = s.data.data;
    fill_signalling(s.data.data, elements, shape->dtype);
    if (shape->indexed) {
        s.index = guarded_new((size_t)shape->rows * 4, shape->at);
        uint32_t *index = (uint32_t *)s.index.data;
        for (int64_t i = 0; i < shape->rows; i++)
            index[i] = (uint32_t)rng_below(r, total);
        s.rows.index = index;
        guarded_read_only(&s.index);
    }
    uint32_t count = 0;
    for (int64_t i = 0; i < shape->rows; i++)
        for (int64_t c = 0; c < shape->n; c++)
            put_value(&s, a, r, shape->values, i, c, count++);
    guarded_read_only(&s.data);
    return s;
}

void source_free(source *s)
{
    guarded_free(&s->data);
    guarded_free(&s->index);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void try_rows(const kern_run *run, kern_case *verify, const rows_shape *s)
{
    kern_try(run, verify, s, "%s, %lld rows of %lld, %s, %s", dtype_name(s->dtype),
             (long long)s->rows, (long long)s->n, s->indexed ? "by index" : "consecutive",
             kern_placement(s->at));
}

void kern_sweep_rows(const kern_run *run, kern_case *verify, rows_shape s, int block, int most)
{
    const int counts[] = {1, block - 1, block, block + 1, 2 * block, most};
    for (int d = 0; d < KERN_DIMS; d++)
        for (int at = 0; at < PLACEMENTS; at++)
            for (int n = 0; n < 2; n++) {
                s.n = kern_dims[d];
                s.at = (placement)at;
                s.rows = counts[(d + 3 * n + at) % COUNT(counts)];
                s.indexed = n;
                try_rows(run, verify, &s);
            }
    for (s.rows = 1; s.rows <= most; s.rows++) {
        s.at = (placement)(s.rows % PLACEMENTS);
        s.indexed = s.rows % 2;
        s.n = s.rows % 4 < 2 ? 17 : 32;
        try_rows(run, verify, &s);
    }
}
