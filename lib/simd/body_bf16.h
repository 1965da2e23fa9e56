/* SPDX-License-Identifier: Apache-2.0
 *
 * bf16 arithmetic on 32-bit units of two values, for levels with a bf16 dot product. Besides the
 * vocabulary of a vec_*.h it needs vdot_bf16, vstore_weights, vstore_pairs, vpair_u16 and
 * vunits_bf16.
 */

/* Units [c, c + VLEN) of a row of n bf16 values, as raw bits; values behind n are zero and not
 * touched. A unit is two neighbouring values, so a row of units is the row itself. */
static inline vf load_raw_units(const char *row, int64_t c, int64_t n)
{
    uint16_t tail[2 * VLEN];
    const uint16_t *p = (const uint16_t *)row + 2 * c;
    int64_t left = n - 2 * c;
    if (left < 2 * VLEN) {
        memset(tail, 0, sizeof tail);
        memcpy(tail, p, (size_t)left * 2);
        p = tail;
    }
    return vload((const float *)(const void *)p);
}

/* The same of a row in any dtype, rounded to bf16. */
static inline __attribute__((always_inline)) vf load_units(const char *row, hyperattn_dtype dtype,
                                                           int64_t c, int64_t n)
{
    if (dtype == HYPERATTN_BF16)
        return load_raw_units(row, c, n);
    vf low = load_row(row, dtype, 2 * c, n);
    int64_t high = 2 * c + VLEN;
    return vunits_bf16(low, high < n ? load_row(row, dtype, high, n) : vzero());
}

static inline __attribute__((always_inline)) void load_q_bf16_as(float *q, const ha_rows *src,
                                                                 int64_t rows, int64_t head_dim,
                                                                 hyperattn_dtype dtype)
{
    int64_t depth = (head_dim + 1) / 2, ld = ha_round_up(depth, VLEN);
    for (int64_t i = 0; i < rows; i++, q += ld) {
        prefetch_row(src, i + AHEAD, rows, head_dim);
        for (int64_t c = 0; c < ld; c += VLEN)
            vstore(q + c, load_units(ha_row_at(src, i), dtype, c, head_dim));
    }
    memset(q, 0, (size_t)((ha_round_up(rows, MR) - rows) * ld) * sizeof *q);
}

static void load_q_bf16(void *dst, const ha_rows *src, int64_t rows, int64_t head_dim)
{
    switch (src->dtype) {
    case HYPERATTN_F32: load_q_bf16_as(dst, src, rows, head_dim, HYPERATTN_F32); break;
    case HYPERATTN_BF16: load_q_bf16_as(dst, src, rows, head_dim, HYPERATTN_BF16); break;
    case HYPERATTN_F16: load_q_bf16_as(dst, src, rows, head_dim, HYPERATTN_F16); break;
    }
}

static inline __attribute__((always_inline)) void pack_k_bf16_as(float *panel, const ha_rows *src,
                                                                 int64_t nkeys, int64_t head_dim,
                                                                 hyperattn_dtype dtype)
{
    int64_t depth = (head_dim + 1) / 2;
    for (int64_t i = 0; i < nkeys; i += NR, panel += depth * NR)
        for (int j = 0; j < NR; j += VLEN) {
            for (int x = 0; x < VLEN; x++)
                prefetch_row(src, i + j + x + AHEAD, nkeys, head_dim);
            for (int64_t c = 0; c < depth; c += VLEN) {
                vf r[VLEN];
                for (int x = 0; x < VLEN; x++)
                    r[x] = i + j + x < nkeys
                               ? load_units(ha_row_at(src, i + j + x), dtype, c, head_dim)
                               : vzero();
                vtranspose(r);
                for (int x = 0; x < VLEN && c + x < depth; x++)
                    vstore(panel + (c + x) * NR + j, r[x]);
            }
        }
}

static void pack_k_bf16(void *dst, const ha_rows *src, int64_t nkeys, int64_t head_dim)
{
    switch (src->dtype) {
    case HYPERATTN_F32: pack_k_bf16_as(dst, src, nkeys, head_dim, HYPERATTN_F32); break;
    case HYPERATTN_BF16: pack_k_bf16_as(dst, src, nkeys, head_dim, HYPERATTN_BF16); break;
    case HYPERATTN_F16: pack_k_bf16_as(dst, src, nkeys, head_dim, HYPERATTN_F16); break;
    }
}

/* Values [c, c + VLEN) of two rows as pairs; odd keeps NaN once a value, rounded, is not finite. */
static inline __attribute__((always_inline)) vf load_pair(const ha_rows *src, int64_t i,
                                                          int64_t nkeys, int64_t c,
                                                          int64_t columns, hyperattn_dtype dtype,
                                                          vf *odd)
{
    uint16_t row[2][VLEN];
    memset(row, 0, sizeof row);
    int64_t n = columns - c < VLEN ? columns - c : VLEN;
    for (int x = 0; x < 2; x++) {
        if (i + x >= nkeys)
            continue;
        if (dtype == HYPERATTN_BF16)
            memcpy(row[x], (const uint16_t *)ha_row_at(src, i + x) + c, (size_t)n * 2);
        else
            vstore_bf16(row[x], load_row(ha_row_at(src, i + x), dtype, c, columns));
    }
    *odd = vfma(vload_bf16(row[0]), vzero(), *odd);
    *odd = vfma(vload_bf16(row[1]), vzero(), *odd);
    return vpair_u16(row[0], row[1]);
}

static inline __attribute__((always_inline)) int pack_v_bf16_as(void *dst, int64_t vpanel,
                                                                int64_t vfirst, const ha_rows *src,
                                                                int64_t nkeys, int64_t columns,
                                                                hyperattn_dtype dtype)
{
    ha_panels panels = ha_column_panels(columns, VLEN, NR);
    int64_t width;
    vf odd = vzero(); /* becomes NaN with the first value that is not finite */
    for (int64_t i = 0; i < ha_round_up(nkeys, NR); i += 2) {
        prefetch_row(src, i + AHEAD, nkeys, columns);
        prefetch_row(src, i + AHEAD + 1, nkeys, columns);
        for (int64_t c = 0; c < columns; c += width) {
            width = ha_panel_width(&panels, c);
            float *p = (float *)dst + c * vpanel + (vfirst + i / 2) * width;
            for (int64_t j = 0; j < width; j += VLEN)
                vstore(p + j, load_pair(src, i, nkeys, c + j, columns, dtype, &odd));
        }
    }
    return vhsum(odd) == 0;
}

static int pack_v_bf16(void *dst, int64_t vpanel, int64_t vfirst, const ha_rows *src, int64_t nkeys,
                       int64_t columns)
{
    switch (src->dtype) {
    case HYPERATTN_F32:
        return pack_v_bf16_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_F32);
    case HYPERATTN_BF16:
        return pack_v_bf16_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_BF16);
    case HYPERATTN_F16: break;
    }
    return pack_v_bf16_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_F16);
}

/* A row of weights is stored over its own scores, from the front: each store ends before the next
 * load begins. */
#define FN(name) name##_bf16
#define PAIR 2
#define ROW_UNITS 1
#define BLOCK(acc, nv, ...) block(acc, MR, nv, __VA_ARGS__, vdot_bf16)
#define STORE_P(s, r, j, p, n) vstore_weights((uint16_t *)((s) + (r) * BC) + (j), p, n)
#define BLOCK_T(acc, nv, ...) block_t(acc, MR, nv, __VA_ARGS__, vdot_bf16)
#define STORE_GRAD(g, r, j, p, ds, n)                                                \
    do {                                                                             \
        vstore_pairs((g)->pt + (r) / 2 * LDX + (j), p, (p) + (n), n);                \
        vstore_pairs((g)->dst + (r) / 2 * LDX + (j), ds, (ds) + (n), n);             \
        vstore_weights((uint16_t *)((g)->dsr + (r) * LDX) + (j), ds, n);             \
        vstore_weights((uint16_t *)((g)->dsr + ((r) + 1) * LDX) + (j), (ds) + (n), n); \
    } while (0)
#include "body_attend.h"
#include "body_backward.h"
#undef FN
#undef PAIR
#undef ROW_UNITS
#undef BLOCK
#undef STORE_P
#undef BLOCK_T
#undef STORE_GRAD

static double bf16_peak(int64_t iters)
{
    return peak(iters, MR, 4, vdot_bf16);
}
