/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing some of many numbers by size, from the inside, in arrays that fault on either side:
 * against definitions that count what comes before each number.
 */
#include <math.h>

#include "algo/select.h"
#include "checkmain.h"

/* ---- ranks ----------------------------------------------------------------------------------- */

START_TEST(ranks_are_ordered_as_numbers)
{
    static const float ascending[] = {-INFINITY, -3e38f, -1, -1e-39f, 0, 1e-39f, 1e-30f,
                                      1,         2,      3e38f,       INFINITY};
    for (int i = 1; i < COUNT(ascending); i++)
        ck_assert_uint_lt(ha_rank_of(ascending[i - 1]), ha_rank_of(ascending[i]));
    ck_assert_uint_eq(ha_rank_of(-0.0f), ha_rank_of(0.0f));
    ck_assert_uint_eq(ha_rank_of(NAN), UINT32_MAX);
    ck_assert_uint_eq(ha_rank_of(-NAN), UINT32_MAX);
    ck_assert_uint_gt(ha_rank_of(NAN), ha_rank_of(INFINITY));
    ck_assert_uint_gt(ha_rank_of(-INFINITY), 0);
}
END_TEST

/* ---- choosing -------------------------------------------------------------------------------- */

/* Numbers of few or of many values, so that many of them are equal or none. */
static void fill_ranks(uint32_t *rank, int64_t n, int kind, rng *r)
{
    for (int64_t i = 0; i < n; i++)
        switch (kind) {
        case 0: rank[i] = (uint32_t)rng_next(r); break;
        case 1: rank[i] = (uint32_t)rng_below(r, 3); break; /* zeros are never chosen */
        case 2: rank[i] = 7; break;
        case 3: rank[i] = ha_rank_of(rng_below(r, 4) ? (float)rng_gauss(r) : NAN); break;
        default: rank[i] = 0x40000000u + (uint32_t)rng_below(r, 1000); break;
        }
}

/* How many of the others come before i: larger, or equal and of a lower index. */
static int64_t place_from_above(const uint32_t *rank, int64_t n, int64_t i)
{
    int64_t before = 0;
    for (int64_t j = 0; j < n; j++)
        before += rank[j] > rank[i] || (rank[j] == rank[i] && j < i);
    return before;
}

static int64_t place_from_below(const uint32_t *rank, int64_t n, int64_t i)
{
    int64_t before = 0;
    for (int64_t j = 0; j < n; j++)
        before += rank[j] < rank[i] || (rank[j] == rank[i] && j < i);
    return before;
}

static const char *check_largest(const uint32_t *rank, int64_t n, int64_t k)
{
    guarded index = guarded_new((size_t)(k < n ? k : n) * sizeof(uint32_t), AT_END);
    const uint32_t *got = (const uint32_t *)index.data;
    int64_t taken = ha_largest(rank, n, k, (uint32_t *)index.data), x = 0;
    const char *why = NULL;
    for (int64_t i = 0; i < n && !why; i++) {
        if (rank[i] == 0 || place_from_above(rank, n, i) >= k)
            continue;
        if (x >= taken || got[x] != i)
            why = failure("number %lld of the chosen is not %lld", (long long)x, (long long)i);
        x++;
    }
    if (!why && x != taken)
        why = failure("%lld chosen, not %lld", (long long)taken, (long long)x);
    if (!why)
        why = guarded_check(&index);
    guarded_free(&index);
    return why;
}

/* The lower half in its order, and then the upper one in its. */
static const char *check_divide(const uint32_t *rank, int64_t n, int64_t half)
{
    guarded index = guarded_new((size_t)n * sizeof(uint32_t), AT_END);
    guarded scratch = guarded_new((size_t)n * sizeof(uint32_t), AT_START);
    uint32_t *got = (uint32_t *)index.data;
    for (int64_t i = 0; i < n; i++)
        got[i] = (uint32_t)(5 * i);
    ha_divide(got, rank, n, half, (uint32_t *)scratch.data);
    int64_t low = 0, high = half < 0 ? 0 : half > n ? n : half;
    const char *why = NULL;
    for (int64_t i = 0; i < n && !why; i++) {
        int lower = half <= 0 || half >= n || place_from_below(rank, n, i) < half;
        int64_t *to = lower && half > 0 && half < n ? &low : half > 0 && half < n ? &high : &low;
        if (got[*to] != 5 * i)
            why = failure("place %lld holds %u, not %lld", (long long)*to, got[*to],
                          5 * (long long)i);
        (*to)++;
    }
    if (!why)
        why = guarded_check(&index);
    guarded_free(&index);
    guarded_free(&scratch);
    return why;
}

static const char *check_kth(const uint32_t *rank, int64_t n, int64_t k)
{
    int64_t below = -1, smaller = 0, equal = 0;
    uint32_t found = ha_kth(rank, n, k, &below);
    for (int64_t i = 0; i < n; i++) {
        smaller += rank[i] < found;
        equal += rank[i] == found;
    }
    if (below != smaller || smaller > k || smaller + equal <= k)
        return failure("%u has %lld below it and %lld beside, reported %lld below", found,
                       (long long)smaller, (long long)equal, (long long)below);
    return NULL;
}

START_TEST(choices_are_those_of_a_sort)
{
    static const int64_t sizes[] = {1, 2, 3, 31, 64, 100, 257, 700};
    rng r = rng_new(3);
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t n = sizes[s];
        const int64_t counts[] = {0, 1, 2, n / 3, n / 2, n - 1, n, n + 1, 10 * n, INT64_MAX};
        guarded rank = guarded_new((size_t)n * sizeof(uint32_t), AT_END);
        uint32_t *x = (uint32_t *)rank.data;
        fill_ranks(x, n, _i, &r);
        for (int c = 0; c < COUNT(counts); c++) {
            ck_good_at(check_largest(x, n, counts[c]), "kind %d, %lld largest of %lld", _i,
                       (long long)counts[c], (long long)n);
            ck_good_at(check_divide(x, n, counts[c]), "kind %d, %lld of %lld", _i,
                       (long long)counts[c], (long long)n);
            if (counts[c] < n)
                ck_good_at(check_kth(x, n, counts[c]), "kind %d, number %lld of %lld", _i,
                           (long long)counts[c], (long long)n);
        }
        guarded_free(&rank);
    }
}
END_TEST

START_TEST(nothing_is_chosen_of_nothing)
{
    uint32_t rank = 5, index = 77;
    ck_assert_int_eq(ha_largest(&rank, 0, 3, &index), 0);
    ck_assert_int_eq(ha_largest(&rank, 1, 0, &index), 0);
    ck_assert_int_eq(ha_largest(&rank, 1, -1, &index), 0);
    rank = 0;
    ck_assert_int_eq(ha_largest(&rank, 1, 1, &index), 0);
    ck_assert_uint_eq(index, 77);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("select");
    tcase_add_test(topic, ranks_are_ordered_as_numbers);
    tcase_add_loop_test(topic, choices_are_those_of_a_sort, 0, 5);
    tcase_add_test(topic, nothing_is_chosen_of_nothing);
    return topic_end();
}
