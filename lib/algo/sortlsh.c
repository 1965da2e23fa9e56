/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/sortlsh.h"

#include <math.h>
#include <string.h>

#include "algo/philox.h"
#include "int64.h"

/* ---- hash ------------------------------------------------------------------------------------ */

/* Two Gaussians from two words, by Box and Muller. */
static void gaussians(float out[2], uint32_t a, uint32_t b)
{
    double radius = sqrt(-2 * log(ha_fraction(a)));
    double angle = 2 * 3.14159265358979323846 * ha_fraction(b);
    out[0] = (float)(radius * cos(angle));
    out[1] = (float)(radius * sin(angle));
}

void ha_directions(float *directions, int r, int64_t head_dim, uint64_t seed, uint32_t key_head)
{
    int64_t n = r * head_dim;
    for (int64_t i = 0; i < n; i += 4) {
        ha_words x = ha_philox(seed, (uint32_t)(i / 4), 0, HA_STREAM_DIRECTIONS, key_head);
        float g[4];
        gaussians(g, x.w[0], x.w[1]);
        gaussians(g + 2, x.w[2], x.w[3]);
        for (int j = 0; j < 4 && i + j < n; j++)
            directions[i + j] = g[j];
    }
}

void ha_finite_means(float *mean, const float *proj, int64_t ld, int64_t n, int r)
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

/* ---- sort ------------------------------------------------------------------------------------ */

void ha_counting_sort(uint32_t *order, const uint16_t *bucket, int64_t n, int64_t first,
                      int64_t nbuckets, uint32_t *counts)
{
    memset(counts, 0, (size_t)(nbuckets + 1) * sizeof *counts);
    for (int64_t i = 0; i < n; i++)
        counts[bucket[i] + 1]++;
    for (int64_t b = 0; b < nbuckets; b++)
        counts[b + 1] += counts[b];
    for (int64_t i = 0; i < n; i++)
        order[counts[bucket[i]]++] = (uint32_t)(first + i);
}

static int64_t nbuckets(const hyperattn_params *params)
{
    return (int64_t)1 << params->lsh_num_projs;
}

/* Ends of buckets, then the block of each bucket. */
int64_t ha_sort_counts(const hyperattn_params *params)
{
    return 2 * nbuckets(params) + 1;
}

/* ---- runs ------------------------------------------------------------------------------------ */

void ha_run_bounds(uint32_t *bounds, const ha_rect *rect, const hyperattn_params *params)
{
    /* as many rows as a block has keys, or near-equal shares where that would not come out even */
    int even = rect->nq == rect->nk || !ha_is_sorted(params);
    for (int64_t t = 0; t < rect->nruns; t++)
        bounds[t] = (uint32_t)(even ? ha_min(rect->nq, t * params->block_size)
                                    : rect->nq * t / rect->nruns);
    bounds[rect->nruns] = (uint32_t)rect->nq;
}

/* The block of keys that holds the middle of each bucket. */
static void blocks_of_buckets(uint32_t *block, uint32_t *ends, const ha_rect *rect,
                              const hyperattn_params *params, const uint16_t *key_rank)
{
    int64_t n = nbuckets(params);
    memset(ends, 0, (size_t)(n + 1) * sizeof *ends);
    for (int64_t j = 0; j < rect->nk; j++)
        ends[key_rank[j] + 1]++;
    for (int64_t b = 0, begin = 0; b < n; b++) {
        int64_t end = begin + ends[b + 1];
        block[b] = (uint32_t)ha_min((begin + end) / 2 / params->block_size, rect->nruns - 1);
        begin = end;
    }
}

void ha_strict_runs(uint32_t *order, uint32_t *bounds, const ha_rect *rect,
                    const hyperattn_params *params, const uint16_t *rank, const uint16_t *key_rank,
                    uint32_t *counts)
{
    uint32_t *block = counts + nbuckets(params) + 1, place = 0;
    blocks_of_buckets(block, counts, rect, params, key_rank);
    for (int64_t t = 0; t <= rect->nruns; t++)
        bounds[t] = 0;
    for (int64_t i = 0; i < rect->nq; i++)
        bounds[block[rank[i]]]++;
    for (int64_t t = 0; t <= rect->nruns; t++) {
        uint32_t count = bounds[t];
        bounds[t] = place;
        place += count;
    }
    /* bounds[t] moves to the end of run t while run t is filled, which is where run t + 1 begins */
    for (int64_t i = 0; i < rect->nq; i++)
        order[bounds[block[rank[i]]]++] = (uint32_t)(rect->q0 + i);
    for (int64_t t = rect->nruns; t > 0; t--)
        bounds[t] = bounds[t - 1];
    bounds[0] = 0;
}
