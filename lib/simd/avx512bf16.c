/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 with bf16 dot products: f32 arithmetic as in avx512.c, and bf16 arithmetic on pairs of
 * the depth (head dimensions for scores, keys for values).
 */
#include "vec_avx512.h"

#include "body.h"

/* A pair of bf16 in each 32-bit lane: acc += a.lo * b.lo + a.hi * b.hi in f32. */
static inline vf vdot_bf16(vf a, vf b, vf acc)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_castps_si512(a),
                            (__m512bh)_mm512_castps_si512(b));
}

/* n vectors of weights to bf16, two by one conversion where there are two. */
static inline __attribute__((always_inline)) void vstore_weights(uint16_t *p, const vf *x, int n)
{
    for (int i = 0; i + 1 < n; i += 2)
        _mm512_storeu_si512(p + i * VLEN, (__m512i)_mm512_cvtne2ps_pbh(x[i + 1], x[i]));
    if (n % 2)
        _mm256_storeu_si256((__m256i *)(p + (n - 1) * VLEN),
                            (__m256i)_mm512_cvtneps_pbh(x[n - 1]));
}

/* Two rows of n vectors to bf16 units: lane i of a vector becomes the pair (even[i], odd[i]). */
static inline __attribute__((always_inline)) void vstore_pairs(float *p, const vf *even,
                                                               const vf *odd, int n)
{
    static const uint16_t zip[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    for (int i = 0; i < n; i++) {
        __m512i rows = (__m512i)_mm512_cvtne2ps_pbh(odd[i], even[i]);
        _mm512_storeu_si512(p + i * VLEN,
                            _mm512_permutexvar_epi16(_mm512_loadu_si512(zip), rows));
    }
}

/* Lanes of even and odd interleaved: lane i becomes the pair (even[i], odd[i]). */
static inline vf vpair_u16(const uint16_t *even, const uint16_t *odd)
{
    __m512i lo = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)even));
    __m512i hi = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)odd));
    return _mm512_castsi512_ps(_mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
}

/* 2 * VLEN values of a row as units, rounded to nearest even. VCVTNE2PS2BF16 would make a zero of a
 * subnormal number that rounds up to a normal one. */
static inline vf vunits_bf16(vf low, vf high)
{
    __m512i w = _mm512_castsi256_si512(vround_bf16(low));
    return _mm512_castsi512_ps(_mm512_inserti64x4(w, vround_bf16(high), 1));
}

#include "body_bf16.h"

static const ha_arith bf16_arith = {
    .mr = MR, .nr = NR, .lanes = VLEN, .br = BR, .bc = BC, .pair = 2, .row_units = 1,
    .load_q = load_q_bf16, .pack_k = pack_k_bf16, .pack_v = pack_v_bf16, .attend = attend_bf16,
    .gr = GR, .gc = GC, .grad_scratch = grad_scratch_bf16, .backward = backward_bf16,
};

const ha_kernels ha_kernels_avx512bf16 = {
    BODY_KERNELS(avx512bf16),
    .bf16 = &bf16_arith,
    .bf16_peak = bf16_peak,
};
