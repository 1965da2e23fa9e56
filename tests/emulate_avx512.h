/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 intrinsics of lib/simd on a processor with AVX2, FMA and F16C: SIMDe's, and written
 * out here what SIMDe 0.7.4 lacks or does with other rounding. Included by lib/simd/vec_avx512.h
 * when HA_EMULATE_AVX512 is defined.
 */
#ifndef EMULATE_AVX512_H
#define EMULATE_AVX512_H

#ifndef __AVX2__
#error "emulate_avx512.h needs -mavx2 -mfma -mf16c"
#endif

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <stdint.h>
#include <string.h>

/* A vector's lanes, in the type that an operation looks at. */
typedef union emu_lanes {
    __m512 ps;
    __m512i si;
    __m512bh bh;
    __m256 half_ps[2];
    __m256i half_si[2];
    float f32[16];
    uint32_t u32[16];
} emu_lanes;

typedef union emu_words {
    __m256i si;
    __m256bh bh;
    __m128i half_si[2];
    uint16_t u16[16];
} emu_words;

/* vec_avx512.h's asm constraint of a vector: it fits in no register here. */
#define VREG "m"

/* ---- loads, stores, lanes -------------------------------------------------------------------- */

/* Lanes that the mask leaves out are not accessed, so they cannot fault. */
static inline __m512 emu_maskz_loadu_ps(__mmask16 k, const void *p)
{
    emu_lanes r;
    for (int i = 0; i < 16; i++)
        r.f32[i] = k >> i & 1 ? ((const float *)p)[i] : 0;
    return r.ps;
}

static inline void emu_mask_storeu_ps(void *p, __mmask16 k, __m512 x)
{
    emu_lanes r = {.ps = x};
    for (int i = 0; i < 16; i++)
        if (k >> i & 1)
            ((float *)p)[i] = r.f32[i];
}

static inline float emu_cvtss_f32(__m512 x)
{
    emu_lanes r = {.ps = x};
    return r.f32[0];
}

/* Halves, then halves of the half: the order in which compilers expand the reductions. */
static inline float emu_reduce_add_ps(__m512 x)
{
    emu_lanes r = {.ps = x};
    for (int n = 8; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            r.f32[i] = r.f32[i] + r.f32[i + n];
    return r.f32[0];
}

/* The second operand where either is NaN, as max_ps. */
static inline float emu_reduce_max_ps(__m512 x)
{
    emu_lanes r = {.ps = x};
    for (int n = 8; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            r.f32[i] = r.f32[i] > r.f32[i + n] ? r.f32[i] : r.f32[i + n];
    return r.f32[0];
}

/* ---- conversions ----------------------------------------------------------------------------- */

static inline __m512i emu_cvtepu16_epi32(__m256i x)
{
    emu_words w = {.si = x};
    emu_lanes r;
    for (int i = 0; i < 16; i++)
        r.u32[i] = w.u16[i];
    return r.si;
}

/* Truncates. */
static inline __m256i emu_cvtepi32_epi16(__m512i x)
{
    emu_lanes r = {.si = x};
    emu_words w;
    for (int i = 0; i < 16; i++)
        w.u16[i] = (uint16_t)r.u32[i];
    return w.si;
}

/* F16C rounds and keeps NaN as AVX-512 does. */
static inline __m512 emu_cvtph_ps(__m256i x)
{
    emu_words w = {.si = x};
    emu_lanes r;
    for (int i = 0; i < 2; i++)
        r.half_ps[i] = _mm256_cvtph_ps(w.half_si[i]);
    return r.ps;
}

#define emu_cvtps_ph(x, rounding)                                              \
    __extension__({                                                            \
        emu_lanes emu_x = {.ps = (x)};                                         \
        emu_words emu_w;                                                       \
        emu_w.half_si[0] = _mm256_cvtps_ph(emu_x.half_ps[0], rounding);        \
        emu_w.half_si[1] = _mm256_cvtps_ph(emu_x.half_ps[1], rounding);        \
        emu_w.si;                                                              \
    })

/* ---- powers of two --------------------------------------------------------------------------- */

/* VREDUCEPS with an operand of 0: what rounding to an integer takes off; 0 for an infinity. */
static inline __m512 emu_reduce_ps(__m512 x)
{
    emu_lanes r = {.ps = x};
    for (int i = 0; i < 16; i++)
        r.f32[i] = isinf(r.f32[i]) ? 0 : r.f32[i] - rintf(r.f32[i]);
    return r.ps;
}

/* x * 2^floor(y), rounded once; lanes that the mask leaves out are zero. */
static inline __m512 emu_maskz_scalef_ps(__mmask16 k, __m512 x, __m512 y)
{
    emu_lanes r = {.ps = x}, by = {.ps = y};
    for (int i = 0; i < 16; i++) {
        float n = fmaxf(fminf(floorf(by.f32[i]), 512), -512);
        r.f32[i] = !(k >> i & 1) ? 0 : isnan(by.f32[i]) ? by.f32[i] : ldexpf(r.f32[i], (int)n);
    }
    return r.ps;
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

/* VCVTNEPS2BF16: nearest even; denormals become zeros of their sign, NaN a quiet NaN. */
static inline uint16_t emu_bf16(uint32_t bits)
{
    if ((bits & 0x7f800000) == 0)
        return (uint16_t)(bits >> 16 & 0x8000);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline __m256bh emu_cvtneps_pbh(__m512 x)
{
    emu_lanes r = {.ps = x};
    emu_words w;
    for (int i = 0; i < 16; i++)
        w.u16[i] = emu_bf16(r.u32[i]);
    return w.bh;
}

/* VCVTNE2PS2BF16: the second operand's lanes come first. */
static inline __m512bh emu_cvtne2ps_pbh(__m512 high, __m512 low)
{
    emu_words w[2] = {{.bh = emu_cvtneps_pbh(low)}, {.bh = emu_cvtneps_pbh(high)}};
    emu_lanes r = {.half_si = {w[0].si, w[1].si}};
    return r.bh;
}

/* Denormals become zeros of their sign. */
static inline __m256 emu_flush(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
    __m256i rest = _mm256_andnot_si256(_mm256_set1_epi32(0x7fffffff), bits);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, rest, small));
}

/* One bf16 of each pair as f32: the upper, or the lower shifted up. */
static inline __m256 emu_pair_part(__m256i pairs, int upper)
{
    __m256i bits = upper ? _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000))
                         : _mm256_slli_epi32(pairs, 16);
    return emu_flush(_mm256_castsi256_ps(bits));
}

/* VDPBF16PS: two fused multiply-adds, the upper values of the pairs first, each rounded to nearest
 * even; denormal operands and results are zeros, whatever MXCSR says. */
static inline __m512 emu_dpbf16_ps(__m512 acc, __m512bh a, __m512bh b)
{
    emu_lanes r = {.ps = acc}, x = {.bh = a}, y = {.bh = b};
    for (int i = 0; i < 2; i++) {
        r.half_ps[i] = emu_flush(r.half_ps[i]);
        for (int upper = 1; upper >= 0; upper--) {
            __m256 u = emu_pair_part(x.half_si[i], upper), v = emu_pair_part(y.half_si[i], upper);
            r.half_ps[i] = emu_flush(_mm256_fmadd_ps(u, v, r.half_ps[i]));
        }
    }
    return r.ps;
}

/* A later SIMDe may have some of these. */
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_cvtss_f32
#undef _mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtneps_pbh
#undef _mm512_cvtne2ps_pbh
#undef _mm512_reduce_ps
#undef _mm512_maskz_scalef_ps
#undef _mm512_dpbf16_ps
#undef _mm512_shuffle_f32x4
#define _mm512_maskz_loadu_ps(k, p) emu_maskz_loadu_ps(k, p)
#define _mm512_mask_storeu_ps(p, k, x) emu_mask_storeu_ps(p, k, x)
#define _mm512_cvtss_f32(x) emu_cvtss_f32(x)
#define _mm512_reduce_add_ps(x) emu_reduce_add_ps(x)
#define _mm512_reduce_max_ps(x) emu_reduce_max_ps(x)
#define _mm512_cvtepu16_epi32(x) emu_cvtepu16_epi32(x)
#define _mm512_cvtepi32_epi16(x) emu_cvtepi32_epi16(x)
#define _mm512_cvtph_ps(x) emu_cvtph_ps(x)
#define _mm512_cvtps_ph(x, rounding) emu_cvtps_ph(x, rounding)
#define _mm512_cvtneps_pbh(x) emu_cvtneps_pbh(x)
#define _mm512_cvtne2ps_pbh(high, low) emu_cvtne2ps_pbh(high, low)
#define _mm512_reduce_ps(x, imm8) emu_reduce_ps(x)
#define _mm512_maskz_scalef_ps(k, x, y) emu_maskz_scalef_ps(k, x, y)
#define _mm512_dpbf16_ps(acc, a, b) emu_dpbf16_ps(acc, a, b)
#define _mm512_shuffle_f32x4(a, b, imm8) simde_mm512_shuffle_f32x4(a, b, imm8)

#endif
