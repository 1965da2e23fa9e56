/* SPDX-License-Identifier: Apache-2.0 */
#include "kern_source.h"

#include <math.h>

int64_t source_row(const source *s, int64_t i)
{
    return s->rows.index ? s->rows.index[i] : s->rows.first + i;
}

static void put_bits(source *s, int64_t at, uint32_t bits)
{
    if (s->rows.dtype == HYPERATTN_F32)
        ((uint32_t *)s->data.data)[at] = bits;
    else
        ((uint16_t *)s->data.data)[at] = (uint16_t)bits;
}

/* Ordinary numbers and random bit patterns: subnormal, huge, Inf, NaN. NaNs are quiet ones, for
 * signalling ones mark what a kernel has not written. */
static void put_value(source *s, int64_t at, rng *r, int kind)
{
    hyperattn_dtype dtype = s->rows.dtype;
    element_put(s->data.data, at, dtype, rng_gauss(r));
    if (kind == ORDINARY || rng_below(r, 2))
        return;
    put_bits(s, at, (uint32_t)rng_next(r));
    double value = element_get(s->data.data, at, dtype);
    if (isnan(value))
        element_put(s->data.data, at, dtype, NAN);
    if (kind == FINITE && !isfinite(value))
        element_put(s->data.data, at, dtype, 0);
}

source source_new(const rows_shape *shape, rng *r, int kind)
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
    uint32_t pattern = 0;
    for (int64_t i = 0; i < shape->rows; i++)
        for (int64_t c = 0; c < shape->n; c++) {
            int64_t at = source_row(&s, i) * s.rows.stride + c;
            if (kind == EVERY_PATTERN)
                put_bits(&s, at, pattern++);
            else
                put_value(&s, at, r, kind);
            if (is_signalling(s.data.data, at, shape->dtype))
                element_put(s.data.data, at, shape->dtype, NAN);
        }
    guarded_read_only(&s.data);
    return s;
}

void source_free(source *s)
{
    guarded_free(&s->data);
    guarded_free(&s->index);
}

uint32_t source_bits(const source *s, int64_t i, int64_t c)
{
    if (i >= s->count || c >= s->n)
        return 0;
    int64_t at = source_row(s, i) * s->rows.stride + c;
    if (s->rows.dtype != HYPERATTN_F32)
        return ((const uint16_t *)s->rows.base)[at];
    return ((const uint32_t *)s->rows.base)[at];
}

float source_value(const source *s, int64_t i, int64_t c)
{
    if (i >= s->count || c >= s->n)
        return 0;
    return (float)element_get(s->rows.base, source_row(s, i) * s->rows.stride + c, s->rows.dtype);
}
