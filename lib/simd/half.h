/* SPDX-License-Identifier: Apache-2.0
 *
 * bf16 and f16 in plain C: rounding to nearest even, subnormals, Inf and NaN kept.
 */
#ifndef HA_HALF_H
#define HA_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t ha_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float ha_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float ha_bf16_to_f32(uint16_t h)
{
    return ha_float((uint32_t)h << 16);
}

static inline uint16_t ha_f32_to_bf16(float x)
{
    uint32_t u = ha_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)((u | 0x400000) >> 16);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static inline float ha_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00)
        return ha_float(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
    if (rest < 0x400) { /* zero or subnormal: a multiple of 2^-24 */
        float x = (float)rest * 0x1p-24f;
        return sign ? -x : x;
    }
    return ha_float(sign | ((rest << 13) + (112u << 23)));
}

static inline uint16_t ha_f32_to_f16(float x)
{
    uint32_t u = ha_bits(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) /* 65520 and above round to Inf */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) { /* below 2^-14: adding 1/2 leaves the rounded multiple of 2^-24 */
        float y = ha_float(rest) + 0.5f;
        return (uint16_t)(sign | (ha_bits(y) - 0x3f000000));
    }
    return (uint16_t)(sign | ((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13));
}

#endif
