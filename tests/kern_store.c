/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of store_rows, which rounds accumulators to the output's type.
 */
#include <math.h>
#include <string.h>

#include "kern.h"

typedef struct store_shape {
    hyperattn_dtype dtype;
    int64_t rows, dv;
    placement at;
    int indexed;
    int halfway; /* f32 around every 16-bit number and its rounding boundary */
} store_shape;

/* ---- inputs ---------------------------------------------------------------------------------- */

static float odd_value(rng *r)
{
    float x = kern_float((uint32_t)rng_next(r));
    return isnan(x) ? NAN : x;
}

static void fill_accumulators(const store_shape *shape, float *acc, int64_t ldacc, rng *r)
{
    for (int64_t i = 0; i < shape->rows; i++)
        for (int64_t c = 0; c < shape->dv; c++)
            acc[i * ldacc + c] = rng_below(r, 4) ? (float)rng_gauss(r) : odd_value(r);
}

/* Element n: the 16-bit number n / 8, or the middle between it and the next; the f32 beside these,
 * and their negatives. */
static float around(hyperattn_dtype dtype, int64_t n)
{
    const uint16_t h[] = {(uint16_t)(n / 8), (uint16_t)(n / 8 + 1)};
    float at = (float)element_get(h, 0, dtype), next = (float)element_get(h, 1, dtype);
    if (n % 2 && dtype == HYPERATTN_BF16)
        at = kern_float(kern_bits(at) + 0x8000);
    else if (n % 2) /* the largest f16 rounds as if 65536 came next */
        at = at / 2 + (isinf(next) ? copysignf(65536, next) : next) / 2;
    switch (n / 2 % 4) {
    case 0: return at;
    case 1: return nextafterf(at, INFINITY);
    case 2: return nextafterf(at, -INFINITY);
    default: return -at;
    }
}

static void fill_halfway(const store_shape *shape, float *acc, int64_t ldacc)
{
    for (int64_t i = 0; i < shape->rows; i++)
        for (int64_t c = 0; c < shape->dv; c++)
            acc[i * ldacc + c] = around(shape->dtype, i * shape->dv + c);
}

/* ---- one call -------------------------------------------------------------------------------- */

/* Everything that a call sees, and a mark for each element that it should write. */
typedef struct store {
    guarded acc, inv, index, out, written;
    int64_t ldacc, elements;
    ha_out_rows dst;
} store;

#define MOST_INDEXED 128

/* Distinct rows in random order. */
static void choose_rows(uint32_t *index, int64_t rows, int64_t total, rng *r)
{
    uint32_t all[MOST_INDEXED];
    for (int64_t i = 0; i < total; i++)
        all[i] = (uint32_t)i;
    for (int64_t i = 0; i < rows; i++) {
        int64_t other = i + rng_below(r, total - i);
        index[i] = all[other];
        all[other] = all[i];
    }
}

static store store_new(const kern_run *run, const store_shape *shape, rng *r)
{
    int64_t first = rng_below(r, 3), total = first + shape->rows + rng_below(r, 3);
    int64_t stride = shape->dv + rng_below(r, 4);
    store s = {.elements = (total - 1) * stride + shape->dv};
    s.ldacc = ha_padded_columns(&run->table->f32, shape->dv) + 4 * rng_below(r, 3);
    s.acc = kern_floats(shape->rows * s.ldacc, shape->at);
    s.inv = kern_floats(shape->rows, shape->at);
    s.out = guarded_new((size_t)s.elements * dtype_size(shape->dtype), shape->at);
    fill_signalling(s.out.data, s.elements, shape->dtype);
    s.written = guarded_new((size_t)s.elements, AT_END);
    memset(s.written.data, 0, s.written.size);
    s.dst = (ha_out_rows){s.out.data, stride, NULL, first, shape->dtype};
    if (shape->indexed) {
        s.index = guarded_new((size_t)shape->rows * 4, shape->at);
        choose_rows((uint32_t *)s.index.data, shape->rows, total, r);
        s.dst.index = (const uint32_t *)s.index.data;
        guarded_read_only(&s.index);
    }
    float *inv = (float *)s.inv.data;
    for (int64_t i = 0; i < shape->rows; i++)
        inv[i] = shape->halfway || rng_below(r, 3) == 0 ? 1 : (float)rng_uniform(r);
    guarded_read_only(&s.inv);
    if (shape->halfway)
        fill_halfway(shape, (float *)s.acc.data, s.ldacc);
    else
        fill_accumulators(shape, (float *)s.acc.data, s.ldacc, r);
    guarded_read_only(&s.acc);
    return s;
}

static void store_free(store *s)
{
    guarded_free(&s->acc);
    guarded_free(&s->inv);
    guarded_free(&s->index);
    guarded_free(&s->out);
    guarded_free(&s->written);
}

/* ---- checking -------------------------------------------------------------------------------- */

static uint32_t bits_at(const void *array, int64_t at, hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? ((const uint32_t *)array)[at] : ((const uint16_t *)array)[at];
}

static void check_element(kern_worst *w, const store *s, int64_t at, float expected, int64_t i,
                          int64_t c)
{
    const void *out = s->out.data;
    hyperattn_dtype dtype = s->dst.dtype;
    if (isnan(expected) && isnan(element_get(out, at, dtype)) && !is_signalling(out, at, dtype))
        return;
    float rounded;
    element_put(&rounded, 0, dtype, expected);
    kern_same_bits(w, "out", i, c, bits_at(&rounded, 0, dtype), bits_at(out, at, dtype),
                   2 * (int)dtype_size(dtype));
}

static const char *check_rows(const store *s, const store_shape *shape)
{
    const float *acc = (const float *)s->acc.data, *inv = (const float *)s->inv.data;
    kern_worst w = {0};
    for (int64_t i = 0; i < shape->rows; i++) {
        int64_t row = s->dst.index ? (int64_t)s->dst.index[i] : s->dst.first + i;
        for (int64_t c = 0; c < shape->dv; c++) {
            s->written.data[row * s->dst.stride + c] = 1;
            check_element(&w, s, row * s->dst.stride + c, acc[i * s->ldacc + c] * inv[i], i, c);
        }
    }
    return kern_verdict(&w);
}

static const char *check_rest(const store *s)
{
    for (int64_t i = 0; i < s->elements; i++)
        if (!s->written.data[i] && !is_signalling(s->out.data, i, s->dst.dtype))
            return failure("element %lld of the tensor is in no row and was written", (long long)i);
    return guarded_check(&s->out);
}

static const char *store_case(const kern_run *run, rng *r, const void *arg)
{
    const store_shape *shape = arg;
    store s = store_new(run, shape, r);
    run->table->store_rows(&s.dst, (const float *)s.acc.data, s.ldacc, (const float *)s.inv.data,
                           shape->rows, shape->dv);
    const char *why = check_rows(&s, shape);
    if (!why)
        why = check_rest(&s);
    store_free(&s);
    return why;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void try_store(const kern_run *run, const store_shape *s)
{
    kern_try(run, store_case, s, "%s, %lld rows of %lld, %s, %s%s", dtype_name(s->dtype),
             (long long)s->rows, (long long)s->dv, s->indexed ? "by index" : "consecutive",
             kern_placement(s->at), s->halfway ? ", rounding boundaries" : "");
}

void kern_store_rows(const kern_run *run)
{
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++) {
        store_shape s = {.dtype = (hyperattn_dtype)dtype};
        for (int d = 0; d < KERN_DIMS; d++)
            for (int n = 0; n < 2 * PLACEMENTS; n++) {
                s.dv = kern_dims[d];
                s.rows = 1 + (d * 5 + n * 7) % 48;
                s.indexed = n % 2;
                s.at = (placement)(n / 2);
                try_store(run, &s);
            }
        for (s.dv = 1; s.dv <= 80; s.dv++) {
            s.rows = 5;
            s.indexed = s.dv % 2;
            s.at = (placement)(s.dv % PLACEMENTS);
            try_store(run, &s);
        }
        if (dtype != HYPERATTN_F32) {
            store_shape all = {(hyperattn_dtype)dtype, 1024, 512, AT_END, 0, 1};
            try_store(run, &all);
        }
    }
}
