/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of body.h in AVX2, FMA and F16C: 8 lanes, 3 x 32 register blocks.
 */
#ifndef __AVX2__
#error "vec_avx2.h needs -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "vec_code_x86.h"

#define VLEN 8
#define MR 3
#define NRV 4 /* vectors of a panel row */
#define BR 96
#define BC 288 /* a block of 256 keys and 32 sinks in one step */
#define GR 96  /* tiles of the backward pass */
#define GC 192

#define VSTEP 96 /* units of a value panel at a time */
#define VREG "x" /* the asm constraint of a vector register */

typedef __m256 vf;

static inline vf vzero(void) { return _mm256_setzero_ps(); }
static inline vf vset1(float x) { return _mm256_set1_ps(x); }
static inline vf vload(const float *p) { return _mm256_loadu_ps(p); }
static inline void vstore(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf vadd(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vsub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vmul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* c + a * b in c's own register. From the intrinsic, gcc moves accumulators about until it runs out
 * of registers. */
static inline vf vmadd(vf a, vf b, vf c)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
    return c;
}
/* The second operand where either is NaN. */
static inline vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }

/* The lanes' bits shifted left by 23: makes a power of two of a biased exponent. */
static inline vf vshl23(vf x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
}

/* x in lanes below n, fill in the others. */
static inline vf vkeep(vf x, vf fill, int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
    return _mm256_blendv_ps(fill, x, _mm256_castsi256_ps(keep));
}

/* The first n lanes of p, 0 <= n <= 8; no byte behind them is touched. */
static inline vf vload_n(const float *p, int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
}

static inline void vstore_n(float *p, vf x, int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane), x);
}

static inline vf vload_bf16(const uint16_t *p)
{
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

static inline vf vload_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
static inline void vstore_bf16(uint16_t *p, vf x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i w = _mm256_srli_epi32(_mm256_blendv_epi8(near, quiet, nan), 16);
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)p, half);
}

static inline void vstore_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

static inline float vfirst(vf x) { return _mm256_cvtss_f32(x); }

/* Bit i: whether lane i of x is above that of y; not where either is NaN. */
static inline unsigned vabove(vf x, vf y)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ));
}

static inline float vhmax(vf x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    y = _mm_max_ss(y, _mm_movehdup_ps(y));
    return _mm_cvtss_f32(y);
}

static inline float vhsum(vf x)
{
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    y = _mm_add_ss(y, _mm_movehdup_ps(y));
    return _mm_cvtss_f32(y);
}

static inline void vtranspose(vf r[VLEN])
{
    vf a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

/* A query's code. */
typedef struct vcode {
    __m256i pair[HA_CODE / 2];
} vcode;

static inline vcode vcode_load(const int8_t *q)
{
    vcode code;
    for (int i = 0; i < HA_CODE / 2; i++) {
        int16_t pair;
        memcpy(&pair, q + 2 * i, sizeof pair);
        code.pair[i] = _mm256_set1_epi16(pair);
    }
    return code;
}

/* Sixteen numbers as integers, rounded towards zero. */
static inline vcode_sums vcode_truncate(const vf *x)
{
    return vcode_pack(x[0], x[1]);
}

/* The products of a block's keys with a code. */
static inline vcode_sums vcode_sum(const uint8_t *block, const vcode *q)
{
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < HA_CODE / 2; i++) {
        __m256i keys = _mm256_loadu_si256((const __m256i *)(block + 32 * i));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(keys, q->pair[i]));
    }
    return sum;
}
