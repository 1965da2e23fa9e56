/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of body.h in AVX-512 (F, BW, DQ, VL): 16 lanes, 6 x 64 register blocks.
 */
#ifdef HA_EMULATE_AVX512
#include "emulate_avx512.h" /* tests/: runs this source on machines without AVX-512 */
#else
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || \
    !defined(__AVX512VL__)
#error "vec_avx512.h needs -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif
#include <immintrin.h>
#define VREG "v" /* the asm constraint of a vector register */
#endif

#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "vec_code_x86.h"

#define VLEN 16
#define MR 6
#define NRV 4 /* vectors of a panel row */
#define BR 48
#define BC 320 /* a block of 256 keys and 32 sinks in one step */
#define GR 96  /* tiles of the backward pass */
#define GC 256
#define VSTEP 64 /* units of a value panel at a time */

typedef __m512 vf;

static inline vf vzero(void) { return _mm512_setzero_ps(); }
static inline vf vset1(float x) { return _mm512_set1_ps(x); }
static inline vf vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void vstore(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline vf vadd(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* c + a * b in c's own register, as in vec_avx2.h */
static inline vf vmadd(vf a, vf b, vf c)
{
#ifdef HA_EMULATE_AVX512
    return vfma(a, b, c);
#else
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#endif
}
/* The second operand where either is NaN. */
static inline vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }

/* The lanes' bits shifted left by 23: makes a power of two of a biased exponent. */
static inline vf vshl23(vf x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
}

/* The steps of 2^-x around its polynomial: VREDUCEPS leaves f = x - i, and f - x is -i, by which
 * VSCALEFPS scales. The mask makes zeros of results below 2^-126.5: as subnormal numbers they would
 * be slow. */
#define VSPLIT
static inline __attribute__((always_inline)) void vsplit(vf *x, vf *scale, int n)
{
    for (int i = 0; i < n; i++) {
        scale[i] = x[i];
        x[i] = _mm512_reduce_ps(x[i], 0);
    }
}

static inline vf vscale(vf p, vf f, vf x)
{
    __mmask16 keep = _mm512_cmp_ps_mask(x, vset1(126.5f), _CMP_NGT_UQ);
    return _mm512_maskz_scalef_ps(keep, p, vsub(f, x));
}

/* Lanes below n, for any n. */
static inline __mmask16 vlanes(int n)
{
    return n >= VLEN ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* x in lanes below n, fill in the others. */
static inline vf vkeep(vf x, vf fill, int n)
{
    return _mm512_mask_mov_ps(fill, vlanes(n), x);
}

/* The first n lanes of p, 0 <= n <= 16; no byte behind them is touched. */
static inline vf vload_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(vlanes(n), p);
}

static inline void vstore_n(float *p, vf x, int n)
{
    _mm512_mask_storeu_ps(p, vlanes(n), x);
}

static inline vf vload_bf16(const uint16_t *p)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

static inline vf vload_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
static inline __m256i vround_bf16(vf x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i w = _mm512_srli_epi32(_mm512_mask_mov_epi32(near, nan, quiet), 16);
    return _mm512_cvtepi32_epi16(w);
}

static inline void vstore_bf16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, vround_bf16(x));
}

static inline void vstore_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

static inline float vfirst(vf x) { return _mm512_cvtss_f32(x); }

/* Bit i: whether lane i of x is above that of y; not where either is NaN. */
static inline unsigned vabove(vf x, vf y)
{
    return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ);
}

static inline float vhmax(vf x) { return _mm512_reduce_max_ps(x); }
static inline float vhsum(vf x) { return _mm512_reduce_add_ps(x); }

/* Pairs, then quads of lanes within 128 bits, then the 128-bit parts as a 4 x 4 matrix. */
static inline void vtranspose(vf r[VLEN])
{
    vf a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        vf lo = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        vf lo2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        vf hi = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        vf hi2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
        r[i] = _mm512_shuffle_f32x4(lo, lo2, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(lo, lo2, 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(hi, hi2, 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(hi, hi2, 0xdd);
    }
}

/* A query's code: two pairs to a vector. */
typedef struct vcode {
    __m512i pairs[HA_CODE / 4];
} vcode;

static inline vcode vcode_load(const int8_t *q)
{
    vcode code;
    for (int i = 0; i < HA_CODE / 4; i++) {
        int16_t pair[2];
        memcpy(pair, q + 4 * i, sizeof pair);
        code.pairs[i] = _mm512_inserti64x4(_mm512_set1_epi16(pair[0]),
                                           _mm256_set1_epi16(pair[1]), 1);
    }
    return code;
}

/* Sixteen numbers as integers, rounded towards zero. */
static inline vcode_sums vcode_truncate(const vf *x)
{
    __m512i bits = _mm512_castps_si512(x[0]);
    __m256 low = _mm256_castsi256_ps(_mm512_castsi512_si256(bits));
    __m256 high = _mm256_castsi256_ps(_mm512_extracti64x4_epi64(bits, 1));
    return vcode_pack(low, high);
}

/* The products of a block's keys with a code. */
static inline vcode_sums vcode_sum(const uint8_t *block, const vcode *q)
{
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < HA_CODE / 4; i++) {
        __m512i keys = _mm512_loadu_si512(block + 64 * i);
        sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(keys, q->pairs[i]));
    }
    return _mm256_add_epi16(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}
