/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of body.h in Advanced SIMD of ARMv8.0: 4 lanes, 5 x 16 register blocks (a
 * sixth row makes compilers spill).
 */
#ifndef __ARM_NEON
#error "vec_neon.h needs Advanced SIMD"
#endif

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define VLEN 4
#define MR 5
#define NRV 4 /* vectors of a panel row */
#define BR 50
#define BC 128
#define GR 80 /* tiles of the backward pass */
#define GC 128

#define VSTEP 64 /* units of a value panel at a time */
#define VREG "w" /* the asm constraint of a vector register */

typedef float32x4_t vf;

static inline vf vzero(void) { return vdupq_n_f32(0); }
static inline vf vset1(float x) { return vdupq_n_f32(x); }
static inline vf vload(const float *p) { return vld1q_f32(p); }
static inline void vstore(float *p, vf x) { vst1q_f32(p, x); }
static inline vf vadd(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vsub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vmul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vfma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vmadd(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
/* The second operand where either is NaN. It takes one instruction because the bodies give a NaN, a
 * quiet one, only in the first operand of vmax and in the second one of vmin. */
static inline vf vmax(vf a, vf b) { return vmaxnmq_f32(a, b); }
static inline vf vmin(vf a, vf b) { return vminq_f32(a, b); }

/* The lanes' bits shifted left by 23: makes a power of two of a biased exponent. */
static inline vf vshl23(vf x)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(x), 23));
}

/* x in lanes below n, fill in the others. */
static inline vf vkeep(vf x, vf fill, int n)
{
    static const int32_t lane[VLEN] = {0, 1, 2, 3};
    return vbslq_f32(vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lane)), x, fill);
}

/* The first n lanes of p, 0 <= n <= 4; no byte behind them is touched. */
static inline vf vload_n(const float *p, int n)
{
    float lanes[VLEN] = {0};
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vld1q_f32(lanes);
}

static inline void vstore_n(float *p, vf x, int n)
{
    float lanes[VLEN];
    vst1q_f32(lanes, x);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}

static inline vf vload_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}

static inline vf vload_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
static inline void vstore_bf16(uint16_t *p, vf x)
{
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    vst1_u16(p, vreinterpret_u16_bf16(vcvt_bf16_f32(x)));
#else
    uint32x4_t bits = vreinterpretq_u32_f32(x);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t near = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), near, quiet), 16));
#endif
}

static inline void vstore_f16(uint16_t *p, vf x)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}

static inline float vfirst(vf x) { return vgetq_lane_f32(x, 0); }

/* Bit i: whether lane i of x is above that of y; not where either is NaN. */
static inline unsigned vabove(vf x, vf y)
{
    static const uint32_t bit[VLEN] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgtq_f32(x, y), vld1q_u32(bit)));
}

static inline float vhmax(vf x) { return vmaxvq_f32(x); }
static inline float vhsum(vf x) { return vaddvq_f32(x); }

static inline void vtranspose(vf r[VLEN])
{
    vf a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    vf c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

/* A query's code. */
typedef struct vcode {
    int8x8_t number[HA_CODE];
} vcode;

static inline vcode vcode_load(const int8_t *q)
{
    vcode code;
    for (int i = 0; i < HA_CODE; i++)
        code.number[i] = vdup_n_s8(q[i]);
    return code;
}

/* Sixteen sums of 16 bits. */
typedef int16x8x2_t vcode_sums;

static inline vcode_sums vcode_set1(int16_t x)
{
    return (vcode_sums){{vdupq_n_s16(x), vdupq_n_s16(x)}};
}

static inline vcode_sums vcode_sums_load(const int16_t *p)
{
    return (vcode_sums){{vld1q_s16(p), vld1q_s16(p + 8)}};
}

static inline vcode_sums vcode_adds(vcode_sums a, vcode_sums b)
{
    return (vcode_sums){{vqaddq_s16(a.val[0], b.val[0]), vqaddq_s16(a.val[1], b.val[1])}};
}

static inline void vcode_sums_store(int16_t *p, vcode_sums x)
{
    vst1q_s16(p, x.val[0]);
    vst1q_s16(p + 8, x.val[1]);
}

static inline vcode_sums vcode_subs(vcode_sums a, vcode_sums b)
{
    return (vcode_sums){{vqsubq_s16(a.val[0], b.val[0]), vqsubq_s16(a.val[1], b.val[1])}};
}

/* Sixteen numbers as integers, rounded towards zero. */
static inline vcode_sums vcode_truncate(const vf *x)
{
    int16x4_t part[4];
    for (int i = 0; i < 4; i++)
        part[i] = vqmovn_s32(vcvtq_s32_f32(x[i]));
    return (vcode_sums){{vcombine_s16(part[0], part[1]), vcombine_s16(part[2], part[3])}};
}

/* Bit 2 i: whether a_i > b_i. */
static inline uint32_t vcode_above(vcode_sums a, vcode_sums b)
{
    static const uint16_t bits[8] = {1, 4, 16, 64, 256, 1024, 4096, 16384};
    const uint16x8_t bit = vld1q_u16(bits);
    uint32_t first = vaddvq_u16(vandq_u16(vcgtq_s16(a.val[0], b.val[0]), bit));
    uint32_t second = vaddvq_u16(vandq_u16(vcgtq_s16(a.val[1], b.val[1]), bit));
    return first | second << 16;
}

/* The products of a block's keys with a code. */
static inline vcode_sums vcode_sum(const uint8_t *block, const vcode *q)
{
    int16x8_t low = vdupq_n_s16(0), high = low;
    for (int i = 0; i < HA_CODE / 2; i++) {
        int8x16x2_t keys = vld2q_s8((const int8_t *)block + 32 * i);
        low = vmlal_s8(low, vget_low_s8(keys.val[0]), q->number[2 * i]);
        low = vmlal_s8(low, vget_low_s8(keys.val[1]), q->number[2 * i + 1]);
        high = vmlal_s8(high, vget_high_s8(keys.val[0]), q->number[2 * i]);
        high = vmlal_s8(high, vget_high_s8(keys.val[1]), q->number[2 * i + 1]);
    }
    return (vcode_sums){{low, high}};
}
