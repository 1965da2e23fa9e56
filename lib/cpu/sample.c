/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/sample.h"

#include <math.h>

int64_t ha_block_begin(const ha_blocks *b, int64_t i)
{
    int64_t at = b->block[i] * b->width - b->origin;
    return at < 0 ? 0 : at;
}

int64_t ha_block_end(const ha_blocks *b, int64_t i)
{
    int64_t at = b->block[i] * b->width - b->origin;
    return at > b->total - b->width ? b->total : at + b->width;
}

ha_blocks ha_blocks_trim(ha_blocks b)
{
    while (b.n && b.block[0] * b.width - b.origin + b.width <= 0) {
        b.block++;
        b.n--;
    }
    while (b.n && b.block[b.n - 1] * b.width - b.origin >= b.total)
        b.n--;
    return b;
}

/* Positions in blocks before block i: only the first and the last can be cut. */
static int64_t covered_before(const ha_blocks *b, int64_t i)
{
    return i ? ha_block_end(b, 0) - ha_block_begin(b, 0) + (i - 1) * b->width : 0;
}

int64_t ha_blocks_outside(const ha_blocks *b)
{
    if (!b->n)
        return b->total;
    int64_t last = b->n - 1;
    return b->total - covered_before(b, last) - (ha_block_end(b, last) - ha_block_begin(b, last));
}

/* The position of the x-th key outside the blocks. */
static int64_t outside_position(const ha_blocks *b, int64_t x)
{
    int64_t low = 0, high = b->n; /* the first block that lies behind it */
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (ha_block_begin(b, mid) - covered_before(b, mid) > x)
            high = mid;
        else
            low = mid + 1;
    }
    if (!low)
        return x;
    return x + covered_before(b, low - 1) + ha_block_end(b, low - 1) - ha_block_begin(b, low - 1);
}

static int is_exact(const ha_blocks *b, int64_t position)
{
    int64_t block = (position + b->origin) / b->width, low = 0, high = b->n;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (b->block[mid] < block)
            low = mid + 1;
        else
            high = mid;
    }
    return low < b->n && b->block[low] == block;
}

int64_t ha_sample_draws(const ha_sampler *s)
{
    return s->draws < s->outside ? s->draws : s->outside;
}

static ha_words words(const ha_sampler *s, uint32_t index)
{
    return ha_philox(s->seed, index, s->block, HA_STREAM_SAMPLES + 8 * s->rect, s->head);
}

/* One draw from each of m strata of the outside positions. The strata are turned by a random
 * offset, so that each position is drawn with probability m / outside though their sizes differ by
 * one. */
static int64_t draw_uniform(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                            float *log2_weight)
{
    int64_t n = s->outside, m = s->draws;
    ha_words w = words(s, UINT32_MAX);
    int64_t turn = (int64_t)(((uint64_t)w.w[0] << 32 | w.w[1]) % (uint64_t)n);
    float weight = (float)log2((double)n / (double)m);
    for (int64_t i = 0; i < max; i++) {
        int64_t draw = first + i, begin = n * draw / m, end = n * (draw + 1) / m;
        if (i == 0 || draw % 4 == 0)
            w = words(s, (uint32_t)(draw / 4));
        int64_t x = begin + ha_below(w.w[draw % 4], (uint32_t)(end - begin)) + turn;
        position[i] = (uint32_t)outside_position(&s->exact, x < n ? x : x - n);
        log2_weight[i] = weight;
    }
    return max;
}

/* The first position whose running sum exceeds x. */
static int64_t find_mass(const double *mass, int64_t n, double x)
{
    int64_t low = 0, high = n - 1;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (mass[mid] > x)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

/* Draws with replacement, with probability p_j proportional to |v_j|^2 over the whole rectangle and
 * weight 1 / (m p_j); one draw from each of m equal parts of the mass. */
static int64_t draw_vnorm(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                          float *log2_weight)
{
    int64_t n = s->exact.total, got = 0;
    double all = s->mass[n - 1], m = (double)s->draws;
    ha_words w = {{0}};
    for (int64_t i = 0; i < max; i++) {
        int64_t draw = first + i;
        if (i == 0 || draw % 4 == 0)
            w = words(s, (uint32_t)(draw / 4));
        int64_t at = find_mass(s->mass, n, ((double)draw + ha_fraction(w.w[draw % 4])) / m * all);
        double own = s->mass[at] - (at ? s->mass[at - 1] : 0);
        if (own > 0 && !is_exact(&s->exact, at)) {
            position[got] = (uint32_t)at;
            log2_weight[got++] = (float)log2(all / (m * own));
        }
    }
    return got;
}

int64_t ha_sample(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                  float *log2_weight)
{
    if (s->draws >= s->outside) {
        for (int64_t i = 0; i < max; i++) {
            position[i] = (uint32_t)outside_position(&s->exact, first + i);
            log2_weight[i] = 0;
        }
        return max;
    }
    double all = s->mass ? s->mass[s->exact.total - 1] : 0;
    if (all > 0 && isfinite(all))
        return draw_vnorm(s, first, max, position, log2_weight);
    return draw_uniform(s, first, max, position, log2_weight);
}
