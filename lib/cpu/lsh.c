/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/lsh.h"

#include <math.h>

#include "cpu/philox.h"
#include "kernels.h"

/* Two Gaussians from two words, by Box and Muller. */
static void gaussians(float out[2], uint32_t a, uint32_t b)
{
    double radius = sqrt(-2 * log(ha_fraction(a)));
    double angle = 2 * 3.14159265358979323846 * ha_fraction(b);
    out[0] = (float)(radius * cos(angle));
    out[1] = (float)(radius * sin(angle));
}

void ha_lsh_directions(float *directions, int r, int64_t head_dim, uint64_t seed, uint32_t unit)
{
    int64_t n = r * head_dim;
    for (int64_t i = 0; i < n; i += 4) {
        ha_words x = ha_philox(seed, (uint32_t)(i / 4), 0, HA_STREAM_DIRECTIONS, unit);
        float g[4];
        gaussians(g, x.w[0], x.w[1]);
        gaussians(g + 2, x.w[2], x.w[3]);
        for (int j = 0; j < 4 && i + j < n; j++)
            directions[i + j] = g[j];
    }
}

void ha_gray_ranks(uint16_t *bits, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        unsigned x = bits[i];
        x ^= x >> 1;
        x ^= x >> 2;
        x ^= x >> 4;
        x ^= x >> 8;
        bits[i] = (uint16_t)x;
    }
}

void ha_lsh_mean(float *mean, const float *proj, int64_t ld, int64_t n, int r)
{
    double sum[HA_MAX_PROJS] = {0};
    int64_t count[HA_MAX_PROJS] = {0};
    for (int64_t i = 0; i < n; i++, proj += ld)
        for (int j = 0; j < r; j++) {
            int finite = isfinite(proj[j]);
            sum[j] += finite ? (double)proj[j] : 0;
            count[j] += finite;
        }
    for (int j = 0; j < r; j++)
        mean[j] = count[j] ? (float)(sum[j] / (double)count[j]) : 0;
}
