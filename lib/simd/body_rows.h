/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows in and out: conversion from and to the three dtypes, query tiles, key and value panels, for
 * f32 arithmetic. Width-generic: written in the vocabulary of a vec_*.h.
 */
#include <string.h>

#include "kernels.h"

#define NR (NRV * VLEN)

/* Rows between one in work and one asked for. */
#define AHEAD 16

/* Asks for row i while earlier ones are at work: rows by index lie anywhere. */
static inline void prefetch_row(const ha_rows *src, int64_t i, int64_t rows, int64_t n)
{
    if (!src->index || i >= rows)
        return;
    const char *row = ha_row_at(src, i);
    int64_t bytes = n * (src->dtype == HYPERATTN_F32 ? 4 : 2);
    for (int64_t b = 0; b < bytes; b += 64)
        __builtin_prefetch(row + b);
}

/* Values [c, c + VLEN) of a row as f32; those from n on are zero and not touched. */
static inline __attribute__((always_inline)) vf load_row(const char *row, hyperattn_dtype dtype,
                                                         int64_t c, int64_t n)
{
    int full = n - c >= VLEN;
    if (dtype == HYPERATTN_F32) {
        const float *p = (const float *)row + c;
        return full ? vload(p) : vload_n(p, (int)(n - c));
    }
    const uint16_t *p = (const uint16_t *)row + c;
    uint16_t tail[VLEN];
    if (!full) {
        memset(tail, 0, sizeof tail);
        memcpy(tail, p, (size_t)(n - c) * 2);
        p = tail;
    }
    return dtype == HYPERATTN_BF16 ? vload_bf16(p) : vload_f16(p);
}

static inline __attribute__((always_inline)) void load_q_as(float *dst, const ha_rows *src,
                                                            int64_t rows, int64_t head_dim,
                                                            hyperattn_dtype dtype)
{
    int64_t ld = ha_round_up(head_dim, VLEN);
    for (int64_t i = 0; i < rows; i++, dst += ld) {
        const char *row = ha_row_at(src, i);
        prefetch_row(src, i + AHEAD, rows, head_dim);
        for (int64_t c = 0; c < ld; c += VLEN)
            vstore(dst + c, load_row(row, dtype, c, head_dim));
    }
    memset(dst, 0, (size_t)((ha_round_up(rows, MR) - rows) * ld) * sizeof *dst);
}

static void load_q(void *dst, const ha_rows *src, int64_t rows, int64_t head_dim)
{
    switch (src->dtype) {
    case HYPERATTN_F32: load_q_as(dst, src, rows, head_dim, HYPERATTN_F32); break;
    case HYPERATTN_BF16: load_q_as(dst, src, rows, head_dim, HYPERATTN_BF16); break;
    case HYPERATTN_F16: load_q_as(dst, src, rows, head_dim, HYPERATTN_F16); break;
    }
}

/* The keys [i, i + VLEN) of nkeys become lanes of a panel, one VLEN x VLEN square after the other.
 * some: not all of them exist. */
static inline __attribute__((always_inline)) void pack_keys(float *dst, const ha_rows *src,
                                                            int64_t i, int64_t nkeys,
                                                            int64_t head_dim, hyperattn_dtype dtype,
                                                            int some)
{
    const char *row[VLEN];
    for (int x = 0; x < VLEN; x++)
        row[x] = ha_row_at(src, some && i + x >= nkeys ? nkeys - 1 : i + x);
    for (int64_t c = 0; c < head_dim; c += VLEN) {
        vf r[VLEN];
        for (int x = 0; x < VLEN; x++)
            r[x] = some && i + x >= nkeys ? vzero() : load_row(row[x], dtype, c, head_dim);
        vtranspose(r);
        int depth = head_dim - c < VLEN ? (int)(head_dim - c) : VLEN;
        for (int x = 0; x < depth; x++)
            vstore(dst + (c + x) * NR, r[x]);
    }
}

static inline __attribute__((always_inline)) void pack_k_as(float *dst, const ha_rows *src,
                                                            int64_t nkeys, int64_t head_dim,
                                                            hyperattn_dtype dtype)
{
    for (int64_t i = 0; i < nkeys; i += NR, dst += head_dim * NR)
        for (int j = 0; j < NR; j += VLEN) {
            for (int x = 0; x < VLEN; x++)
                prefetch_row(src, i + j + x + AHEAD, nkeys, head_dim);
            if (i + j + VLEN <= nkeys)
                pack_keys(dst + j, src, i + j, nkeys, head_dim, dtype, 0);
            else
                pack_keys(dst + j, src, i + j, nkeys, head_dim, dtype, 1);
        }
}

static void pack_k(void *dst, const ha_rows *src, int64_t nkeys, int64_t head_dim)
{
    switch (src->dtype) {
    case HYPERATTN_F32: pack_k_as(dst, src, nkeys, head_dim, HYPERATTN_F32); break;
    case HYPERATTN_BF16: pack_k_as(dst, src, nkeys, head_dim, HYPERATTN_BF16); break;
    case HYPERATTN_F16: pack_k_as(dst, src, nkeys, head_dim, HYPERATTN_F16); break;
    }
}

static inline __attribute__((always_inline)) int pack_v_as(void *dst, int64_t vpanel,
                                                           int64_t vfirst, const ha_rows *src,
                                                           int64_t nkeys, int64_t columns,
                                                           hyperattn_dtype dtype)
{
    ha_panels panels = ha_column_panels(columns, VLEN, NR);
    int64_t pad = ha_round_up(nkeys, NR) - nkeys, width;
    vf odd = vzero(); /* becomes NaN with the first value that is not finite */
    for (int64_t i = 0; i < nkeys; i++) {
        const char *row = ha_row_at(src, i);
        prefetch_row(src, i + AHEAD, nkeys, columns);
        for (int64_t c = 0; c < columns; c += width) {
            width = ha_panel_width(&panels, c);
            float *p = (float *)dst + c * vpanel + (vfirst + i) * width;
            for (int64_t j = 0; j < width; j += VLEN) {
                vf x = load_row(row, dtype, c + j, columns);
                odd = vfma(x, vzero(), odd);
                vstore(p + j, x);
            }
        }
    }
    for (int64_t c = 0; c < columns; c += width) {
        width = ha_panel_width(&panels, c);
        memset((float *)dst + c * vpanel + (vfirst + nkeys) * width, 0, (size_t)(pad * width) * 4);
    }
    return vhsum(odd) == 0;
}

static int pack_v(void *dst, int64_t vpanel, int64_t vfirst, const ha_rows *src, int64_t nkeys,
                  int64_t columns)
{
    switch (src->dtype) {
    case HYPERATTN_F32: return pack_v_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_F32);
    case HYPERATTN_BF16: return pack_v_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_BF16);
    case HYPERATTN_F16: break;
    }
    return pack_v_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_F16);
}

/* Values [c, n) of a row in its dtype, at most VLEN of them; nothing behind n is written. */
static inline void store_row(char *row, hyperattn_dtype dtype, int64_t c, int64_t n, vf x)
{
    int left = n - c < VLEN ? (int)(n - c) : VLEN;
    if (dtype == HYPERATTN_F32) {
        if (left == VLEN) /* masked stores are slow on some processors */
            vstore((float *)row + c, x);
        else
            vstore_n((float *)row + c, x, left);
        return;
    }
    uint16_t half[VLEN];
    if (dtype == HYPERATTN_BF16)
        vstore_bf16(half, x);
    else
        vstore_f16(half, x);
    memcpy((uint16_t *)row + c, half, (size_t)left * 2);
}

static void store_rows(const ha_out_rows *dst, const float *acc, int64_t ldacc, const float *inv,
                       int64_t rows, int64_t columns)
{
    ha_rows at = {dst->base, dst->stride, dst->index, dst->first, dst->dtype};
    for (int64_t i = 0; i < rows; i++, acc += ldacc) {
        char *row = (char *)dst->base + ((const char *)ha_row_at(&at, i) - (const char *)dst->base);
        vf w = vset1(inv[i]);
        for (int64_t c = 0; c < columns; c += VLEN)
            store_row(row, dst->dtype, c, columns, vmul(vload(acc + c), w));
    }
}

static inline __attribute__((always_inline)) void dot_rows_as(float *dot, const ha_rows *a,
                                                              hyperattn_dtype atype,
                                                              const ha_rows *b,
                                                              hyperattn_dtype btype, int64_t rows,
                                                              int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        const char *x = ha_row_at(a, i), *y = ha_row_at(b, i);
        prefetch_row(a, i + AHEAD, rows, n);
        prefetch_row(b, i + AHEAD, rows, n);
        vf sum[2] = {vzero(), vzero()};
        int64_t c = 0;
        for (; c + 2 * VLEN <= n; c += 2 * VLEN)
            for (int s = 0; s < 2; s++)
                sum[s] = vfma(load_row(x, atype, c + s * VLEN, n),
                              load_row(y, btype, c + s * VLEN, n), sum[s]);
        for (; c < n; c += VLEN)
            sum[0] = vfma(load_row(x, atype, c, n), load_row(y, btype, c, n), sum[0]);
        dot[i] = vhsum(vadd(sum[0], sum[1]));
    }
}

static void dot_rows(float *dot, const ha_rows *a, const ha_rows *b, int64_t rows, int64_t n)
{
    if (a->dtype != b->dtype) {
        dot_rows_as(dot, a, a->dtype, b, b->dtype, rows, n);
        return;
    }
    switch (a->dtype) {
    case HYPERATTN_F32: dot_rows_as(dot, a, HYPERATTN_F32, b, HYPERATTN_F32, rows, n); break;
    case HYPERATTN_BF16: dot_rows_as(dot, a, HYPERATTN_BF16, b, HYPERATTN_BF16, rows, n); break;
    case HYPERATTN_F16: dot_rows_as(dot, a, HYPERATTN_F16, b, HYPERATTN_F16, rows, n); break;
    }
}
