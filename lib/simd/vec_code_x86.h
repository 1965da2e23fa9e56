/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of codes in AVX2, which AVX-512 has as well: a block has 16 keys, whose sums of 16 bits fill
 * one vector of 256 bits on either level. For behind a header of intrinsics.
 */
#ifndef HA_VEC_CODE_X86_H
#define HA_VEC_CODE_X86_H

/* Sixteen sums of 16 bits. */
typedef __m256i vcode_sums;

static inline vcode_sums vcode_set1(int16_t x) { return _mm256_set1_epi16(x); }

static inline vcode_sums vcode_adds(vcode_sums a, vcode_sums b)
{
    return _mm256_adds_epi16(a, b);
}

static inline vcode_sums vcode_subs(vcode_sums a, vcode_sums b)
{
    return _mm256_subs_epi16(a, b);
}

static inline vcode_sums vcode_sums_load(const int16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void vcode_sums_store(int16_t *p, vcode_sums x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}

/* Sixteen numbers, the lower eight first, as integers rounded towards zero. */
static inline vcode_sums vcode_pack(__m256 low, __m256 high)
{
    __m256i all = _mm256_packs_epi32(_mm256_cvttps_epi32(low), _mm256_cvttps_epi32(high));
    return _mm256_permute4x64_epi64(all, 0xd8);
}

/* Bit 2 i: whether a_i > b_i. */
static inline uint32_t vcode_above(vcode_sums a, vcode_sums b)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi16(a, b)) & 0x55555555;
}

#endif
