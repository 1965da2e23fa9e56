/* SPDX-License-Identifier: Apache-2.0
 *
 * Philox 4x32-10 (Salmon et al., SC 2011): a counter-based generator, so that any draw can be made
 * again from the seed and its place alone.
 */
#ifndef HA_PHILOX_H
#define HA_PHILOX_H

#include <stdint.h>

/* What a draw is for: the high word of the counter, so that streams never meet. */
typedef enum ha_stream {
    HA_STREAM_DIRECTIONS = 1, /* Gaussian directions of sortLSH */
    HA_STREAM_SAMPLES = 2,    /* sampled columns */
    HA_STREAM_TAU_ROWS = 3,   /* rows that estimate tau */
    HA_STREAM_CHECKED_ROWS = 4, /* rows that hyperattn_measure computes exactly */
    HA_STREAM_TRIAL_ROWS = 5 /* rows by which target_error chooses */
} ha_stream;

typedef struct ha_words {
    uint32_t w[4];
} ha_words;

static inline ha_words ha_philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (ha_words){{c0, c1, c2, c3}};
}

/* A word as an index below n (n < 2^32), by multiplication: bias at most n / 2^32. */
static inline uint32_t ha_below(uint32_t word, uint32_t n)
{
    return (uint32_t)(((uint64_t)word * n) >> 32);
}

/* A word as a double in (0, 1). */
static inline double ha_fraction(uint32_t word)
{
    return ((double)word + 0.5) * 0x1p-32;
}

#endif
