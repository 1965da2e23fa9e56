/* SPDX-License-Identifier: Apache-2.0 */
#include "convert.h"

#include <string.h>

#include "simd/half.h"

size_t dtype_size(hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? 4 : 2;
}

const char *dtype_name(hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? "f32" : dtype == HYPERATTN_BF16 ? "bf16" : "f16";
}

void to_f32(float *dst, const void *src, hyperattn_dtype dtype, int64_t n)
{
    const uint16_t *half = src;
    if (dtype == HYPERATTN_F32)
        memcpy(dst, src, (size_t)n * sizeof *dst);
    else if (dtype == HYPERATTN_BF16)
        for (int64_t i = 0; i < n; i++)
            dst[i] = ha_bf16_to_f32(half[i]);
    else
        for (int64_t i = 0; i < n; i++)
            dst[i] = ha_f16_to_f32(half[i]);
}

void from_f32(void *dst, hyperattn_dtype dtype, const float *src, int64_t n)
{
    uint16_t *half = dst;
    if (dtype == HYPERATTN_F32)
        memcpy(dst, src, (size_t)n * sizeof *src);
    else if (dtype == HYPERATTN_BF16)
        for (int64_t i = 0; i < n; i++)
            half[i] = ha_f32_to_bf16(src[i]);
    else
        for (int64_t i = 0; i < n; i++)
            half[i] = ha_f32_to_f16(src[i]);
}
