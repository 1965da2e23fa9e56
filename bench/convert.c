/* SPDX-License-Identifier: Apache-2.0 */
#include "convert.h"

#include <string.h>

size_t dtype_size(hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? 4 : 2;
}

const char *dtype_name(hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? "f32" : dtype == HYPERATTN_BF16 ? "bf16" : "f16";
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t bf16_of(float x)
{
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40); /* a NaN stays one when its low half goes */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float float_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) /* Inf, NaN */
        return float_of(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    /* f16's exponent, moved to the bottom of f32's range and scaled back: exact, subnormals too */
    float x = float_of(rest << 13) * 0x1p112f;
    return float_of(sign | bits_of(x));
}

static uint16_t f16_of(float x)
{
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000u) /* 65520 and more round to Inf */
        return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000u) /* subnormal: an addition rounds at 2^-24 */
        return (uint16_t)(sign | (bits_of(float_of(bits) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (bits - 0x38000000u + 0xfff + (bits >> 13 & 1)) >> 13);
}

void to_f32(float *dst, const void *src, hyperattn_dtype dtype, int64_t n)
{
    const uint16_t *half = src;
    if (dtype == HYPERATTN_F32)
        memcpy(dst, src, (size_t)n * sizeof *dst);
    else if (dtype == HYPERATTN_BF16)
        for (int64_t i = 0; i < n; i++)
            dst[i] = float_of((uint32_t)half[i] << 16);
    else
        for (int64_t i = 0; i < n; i++)
            dst[i] = float_of_f16(half[i]);
}

void from_f32(void *dst, hyperattn_dtype dtype, const float *src, int64_t n)
{
    uint16_t *half = dst;
    if (dtype == HYPERATTN_F32)
        memcpy(dst, src, (size_t)n * sizeof *src);
    else if (dtype == HYPERATTN_BF16)
        for (int64_t i = 0; i < n; i++)
            half[i] = bf16_of(src[i]);
    else
        for (int64_t i = 0; i < n; i++)
            half[i] = f16_of(src[i]);
}
