/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/select.h"

/* Bits of a rank that one pass decides. */
#define DIGIT 8

uint32_t ha_kth(const uint32_t *rank, int64_t n, int64_t k, int64_t *below)
{
    uint32_t found = 0, known = 0;
    *below = 0;
    for (int shift = 32 - DIGIT; shift >= 0; shift -= DIGIT) {
        int64_t count[1 << DIGIT] = {0};
        for (int64_t i = 0; i < n; i++)
            if ((rank[i] & known) == found)
                count[rank[i] >> shift & ((1 << DIGIT) - 1)]++;
        uint32_t digit = 0;
        for (; *below + count[digit] <= k; digit++)
            *below += count[digit];
        found |= digit << shift;
        known |= (uint32_t)((1 << DIGIT) - 1) << shift;
    }
    return found;
}

int64_t ha_largest(const uint32_t *rank, int64_t n, int64_t k, uint32_t *index)
{
    int64_t below = 0, taken = 0;
    uint32_t least = 1;
    int64_t equal = n; /* how many of the least may be taken */
    if (k <= 0 || n <= 0)
        return 0;
    if (k < n) {
        least = ha_kth(rank, n, n - k, &below);
        int64_t above = 0;
        for (int64_t i = 0; i < n; i++)
            above += rank[i] > least;
        equal = k - above;
    }
    for (int64_t i = 0; i < n; i++) {
        if (rank[i] == 0 || rank[i] < least || (rank[i] == least && equal == 0))
            continue;
        equal -= rank[i] == least;
        index[taken++] = (uint32_t)i;
    }
    return taken;
}

void ha_divide(uint32_t *index, const uint32_t *rank, int64_t n, int64_t half, uint32_t *scratch)
{
    int64_t below, low = 0, high = 0;
    if (half <= 0 || half >= n)
        return;
    uint32_t middle = ha_kth(rank, n, half, &below);
    int64_t equal = half - below; /* how many of the middle ones belong to the lower half */
    for (int64_t i = 0; i < n; i++) {
        int lower = rank[i] < middle || (rank[i] == middle && equal > 0);
        equal -= rank[i] == middle && lower;
        if (lower)
            index[low++] = index[i];
        else
            scratch[high++] = index[i];
    }
    memcpy(index + low, scratch, (size_t)high * sizeof *index);
}
