/* SPDX-License-Identifier: Apache-2.0
 *
 * NEON with the bf16 instructions: f32 arithmetic as in neon.c, and bf16 arithmetic by BFMMLA. It
 * multiplies two rows by two columns, four values deep: twice the operations of a dot product.
 */
#include "vec_neon.h"

#include "body.h"

/* A pair of rows shares its registers, so the block has an even number of rows. */
#undef MR
#undef BR
#undef GR
#define MR 6
#define BR 48
#define GR 96

/* Units of a pair of rows lie two by two: a register holds two of each. */
#define PAIR 2
#define ROW_UNITS 2

static inline vf vlow_halves(vf a, vf b)
{
    return vcombine_f32(vget_low_f32(a), vget_low_f32(b));
}

static inline vf vhigh_halves(vf a, vf b)
{
    return vcombine_f32(vget_high_f32(a), vget_high_f32(b));
}

/* acc + a b^T in acc's own register: rows of 4 bf16 in the halves of a and b, 2 x 2 products. From
 * the intrinsic, gcc moves accumulators about. */
static inline vf vmmla(vf a, vf b, vf acc)
{
    __asm__("bfmmla %0.4s, %1.8h, %2.8h" : "+w"(acc) : "w"(a), "w"(b));
    return acc;
}

/* Values [c, c + VLEN) of a row in any dtype, rounded to bf16: nearest even, NaN kept. Those from n
 * on, n > c, are zero and not touched. */
static inline __attribute__((always_inline)) uint16x4_t round_row(const char *row,
                                                                  hyperattn_dtype dtype, int64_t c,
                                                                  int64_t n)
{
    return vreinterpret_u16_bf16(vcvt_bf16_f32(load_row(row, dtype, c, n)));
}

/* VLEN units of row i from unit c on; zero behind the row's n values, which are not touched, and
 * behind the last row. */
static inline __attribute__((always_inline)) vf load_units(const ha_rows *src, int64_t i,
                                                           int64_t rows, int64_t c, int64_t n,
                                                           hyperattn_dtype dtype)
{
    if (i >= rows)
        return vzero();
    if (dtype != HYPERATTN_BF16) {
        const char *row = ha_row_at(src, i);
        int64_t high = PAIR * c + VLEN;
        uint16x4_t none = vdup_n_u16(0);
        return vreinterpretq_f32_u16(vcombine_u16(
            round_row(row, dtype, PAIR * c, n), high < n ? round_row(row, dtype, high, n) : none));
    }
    uint16_t tail[PAIR * VLEN];
    const uint16_t *p = (const uint16_t *)ha_row_at(src, i) + PAIR * c;
    int64_t left = n - PAIR * c;
    if (left < PAIR * VLEN) {
        memset(tail, 0, sizeof tail);
        memcpy(tail, p, (size_t)left * 2);
        p = tail;
    }
    return vreinterpretq_f32_u16(vld1q_u16(p));
}

/* `padded` rows as panels [rows / height][depth / 2][height][2] of units, padded with zeros. */
static inline __attribute__((always_inline)) void pack_rows_as(float *dst, const ha_rows *src,
                                                               int64_t rows, int64_t padded,
                                                               int64_t height, int64_t depth,
                                                               int64_t head_dim,
                                                               hyperattn_dtype dtype)
{
    for (int64_t i = 0; i < padded; i += height, dst += height * depth)
        for (int64_t j = 0; j < height; j += 2) {
            prefetch_row(src, i + j + AHEAD, rows, head_dim);
            prefetch_row(src, i + j + 1 + AHEAD, rows, head_dim);
            for (int64_t c = 0; c < depth; c += VLEN) {
                vf even = load_units(src, i + j, rows, c, head_dim, dtype);
                vf odd = load_units(src, i + j + 1, rows, c, head_dim, dtype);
                vstore(dst + c * height + 2 * j, vlow_halves(even, odd));
                if (c + 2 < depth)
                    vstore(dst + (c + 2) * height + 2 * j, vhigh_halves(even, odd));
            }
        }
}

static inline __attribute__((always_inline)) void pack_rows(float *dst, const ha_rows *src,
                                                            int64_t rows, int64_t padded,
                                                            int64_t height, int64_t depth,
                                                            int64_t dim)
{
    switch (src->dtype) {
    case HYPERATTN_F32:
        pack_rows_as(dst, src, rows, padded, height, depth, dim, HYPERATTN_F32);
        break;
    case HYPERATTN_BF16:
        pack_rows_as(dst, src, rows, padded, height, depth, dim, HYPERATTN_BF16);
        break;
    case HYPERATTN_F16:
        pack_rows_as(dst, src, rows, padded, height, depth, dim, HYPERATTN_F16);
        break;
    }
}

static int64_t units(int64_t n)
{
    return ha_round_up(n, PAIR * ROW_UNITS) / PAIR;
}

static void load_q_mmla(void *dst, const ha_rows *src, int64_t rows, int64_t head_dim)
{
    pack_rows(dst, src, rows, ha_round_up(rows, MR), 2, ha_round_up(units(head_dim), VLEN),
              head_dim);
}

static void pack_k_mmla(void *dst, const ha_rows *src, int64_t nkeys, int64_t head_dim)
{
    pack_rows(dst, src, nkeys, ha_round_up(nkeys, NR), NR, units(head_dim), head_dim);
}

/* Values [c, c + VLEN) of row i, zero outside the rows; odd keeps NaN once one, rounded, is not
 * finite. */
static inline __attribute__((always_inline)) uint16x4_t load_values(const ha_rows *src, int64_t i,
                                                                    int64_t rows, int64_t c,
                                                                    int64_t n,
                                                                    hyperattn_dtype dtype, vf *odd)
{
    uint16_t x[VLEN] = {0};
    if (i < rows && dtype != HYPERATTN_BF16)
        vst1_u16(x, round_row(ha_row_at(src, i), dtype, c, n));
    else if (i < rows)
        memcpy(x, (const uint16_t *)ha_row_at(src, i) + c,
               n - c < VLEN ? (size_t)(n - c) * 2 : sizeof x);
    *odd = vfma(vload_bf16(x), vzero(), *odd);
    return vld1_u16(x);
}

/* Four columns of four keys, one after the other. */
static inline void store_runs(float *p, const uint16x4_t keys[PAIR * ROW_UNITS])
{
    uint16x4x2_t even = vzip_u16(keys[0], keys[2]), odd = vzip_u16(keys[1], keys[3]);
    uint16x8_t a = vcombine_u16(even.val[0], even.val[1]), b = vcombine_u16(odd.val[0], odd.val[1]);
    vstore(p, vreinterpretq_f32_u16(vzip1q_u16(a, b)));
    vstore(p + VLEN, vreinterpretq_f32_u16(vzip2q_u16(a, b)));
}

static inline __attribute__((always_inline)) int pack_v_mmla_as(void *dst, int64_t vpanel,
                                                                int64_t vfirst, const ha_rows *src,
                                                                int64_t nkeys, int64_t columns,
                                                                hyperattn_dtype dtype)
{
    ha_panels panels = ha_column_panels(columns, VLEN, NR);
    int64_t width;
    vf odd = vzero(); /* becomes NaN with the first value that is not finite */
    for (int64_t i = 0; i < ha_round_up(nkeys, NR); i += PAIR * ROW_UNITS) {
        for (int x = 0; x < PAIR * ROW_UNITS; x++)
            prefetch_row(src, i + x + AHEAD, nkeys, columns);
        for (int64_t c = 0; c < columns; c += width) {
            width = ha_panel_width(&panels, c);
            float *p = (float *)dst + c * vpanel + (vfirst + i / PAIR) * width;
            for (int64_t j = 0; j < width; j += VLEN) {
                uint16x4_t keys[PAIR * ROW_UNITS];
                for (int x = 0; x < PAIR * ROW_UNITS; x++)
                    keys[x] = load_values(src, i + x, nkeys, c + j, columns, dtype, &odd);
                store_runs(p + ROW_UNITS * j, keys);
            }
        }
    }
    return vhsum(odd) == 0;
}

static int pack_v_mmla(void *dst, int64_t vpanel, int64_t vfirst, const ha_rows *src, int64_t nkeys,
                       int64_t columns)
{
    switch (src->dtype) {
    case HYPERATTN_F32:
        return pack_v_mmla_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_F32);
    case HYPERATTN_BF16:
        return pack_v_mmla_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_BF16);
    case HYPERATTN_F16: break;
    }
    return pack_v_mmla_as(dst, vpanel, vfirst, src, nkeys, columns, HYPERATTN_F16);
}

/* Pairs of rows to 2 x 2 parts, that of a vector's columns 0 and 1 in the even row's place, that of
 * columns 2 and 3 in the odd one's; and back. */
static inline __attribute__((always_inline)) void swap_halves(vf acc[MR][NRV], int nv)
{
    for (int i = 0; i < MR; i += 2)
        for (int j = 0; j < nv; j++) {
            vf low = vlow_halves(acc[i][j], acc[i + 1][j]);
            acc[i + 1][j] = vhigh_halves(acc[i][j], acc[i + 1][j]);
            acc[i][j] = low;
        }
}

static inline __attribute__((always_inline)) void mmla_step(vf acc[MR][NRV], int nv,
                                                            const float *a, int64_t lda,
                                                            const float *b)
{
    vf av[MR / 2];
    for (int i = 0; i < MR / 2; i++)
        av[i] = vload(a + 2 * i * lda);
    for (int j = 0; j < 2 * nv; j++) {
        vf bv = vload(b + j * VLEN);
        for (int i = 0; i < MR / 2; i++)
            acc[2 * i + j % 2][j / 2] = vmmla(av[i], bv, acc[2 * i + j % 2][j / 2]);
    }
}

/* As block in body_math.h. */
static inline __attribute__((always_inline)) void mmla_block(vf acc[MR][NRV], int nv,
                                                             const float *a, int64_t lda,
                                                             const float *b, int64_t ldb,
                                                             int64_t depth, int rest)
{
    swap_halves(acc, nv);
    for (; depth >= STEPS; depth -= STEPS, a += 2 * STEPS, b += STEPS * ldb) {
        UNROLL
        for (int x = 0; x < STEPS; x += ROW_UNITS)
            mmla_step(acc, nv, a + 2 * x, lda, b + x * ldb);
    }
    for (; rest && depth > 0; depth -= ROW_UNITS, a += 2 * ROW_UNITS, b += ROW_UNITS * ldb)
        mmla_step(acc, nv, a, lda, b);
    swap_halves(acc, nv);
}

/* The same with panels of pairs [depth / ROW_UNITS][lda] on the left. */
static inline __attribute__((always_inline)) void mmla_block_t(vf acc[MR][NRV], int nv,
                                                               const float *a, int64_t lda,
                                                               const float *b, int64_t ldb,
                                                               int64_t depth, int rest)
{
    swap_halves(acc, nv);
    for (; depth >= STEPS; depth -= STEPS, a += STEPS * lda, b += STEPS * ldb) {
        UNROLL
        for (int x = 0; x < STEPS; x += ROW_UNITS)
            mmla_step(acc, nv, a + x * lda, ROW_UNITS, b + x * ldb);
    }
    for (; rest && depth > 0; depth -= ROW_UNITS, a += ROW_UNITS * lda, b += ROW_UNITS * ldb)
        mmla_step(acc, nv, a, ROW_UNITS, b);
    swap_halves(acc, nv);
}

/* A pair of rows, ld floats each, shares the place of the even one's scores: four weights of that,
 * four of the odd one and so on. No store comes before the loads of what it overwrites. */
static inline __attribute__((always_inline)) void store_weights(float *s, int ld, int r, int j,
                                                                const vf *p, int n)
{
    s += (r - r % 2) * ld + j + r % 2 * ROW_UNITS;
    for (int i = 0; i < n; i++) {
        bfloat16x4_t weights = vcvt_bf16_f32(p[i]);
        memcpy(s + i * VLEN, &weights, sizeof weights);
    }
}

/* Four rows of a vector of keys, transposed: the rows of the first key, of the second and so on. */
static inline __attribute__((always_inline)) void store_runs_of(float *s, const vf *p)
{
    vf keys[VLEN] = {p[0], p[1], p[2], p[3]};
    vtranspose(keys);
    for (int j = 0; j < VLEN; j++) {
        bfloat16x4_t rows = vcvt_bf16_f32(keys[j]);
        memcpy(s + j * ROW_UNITS, &rows, sizeof rows);
    }
}

#define FN(name) name##_mmla
#define BLOCK mmla_block
#define STORE_P(s, r, j, p, n) store_weights(s, BC, r, j, p, n)
#define BLOCK_T mmla_block_t
#define STORE_GRAD(g, r, j, p, ds, n)                                            \
    do {                                                                         \
        store_runs_of((g)->pt + (r) / PAIR * LDX + (j) * ROW_UNITS, p);          \
        store_runs_of((g)->dst + (r) / PAIR * LDX + (j) * ROW_UNITS, ds);        \
        for (int x = 0; x < PAIR * ROW_UNITS; x++)                               \
            store_weights((g)->dsr, LDX, (r) + x, j, (ds) + x * (n), n);         \
    } while (0)
#include "body_attend.h"
#include "body_backward.h"

static double mmla_peak(int64_t iters)
{
    return peak(iters, MR, 8, vmmla);
}

static const ha_arith bf16_arith = {
    .mr = MR, .nr = NR, .lanes = VLEN, .br = BR, .bc = BC, .pair = PAIR,
    .row_units = ROW_UNITS,
    .load_q = load_q_mmla, .pack_k = pack_k_mmla, .pack_v = pack_v_mmla, .attend = attend_mmla,
    .gr = GR, .gc = GC, .grad_scratch = grad_scratch_mmla, .backward = backward_mmla,
};

const ha_kernels ha_kernels_neonbf16 = {
    BODY_KERNELS(neonbf16),
    .bf16 = &bf16_arith,
    .bf16_peak = mmla_peak,
};
