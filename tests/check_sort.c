/* SPDX-License-Identifier: Apache-2.0
 *
 * The counting sort from the inside, in arrays that fault on either side.
 */
#include <string.h>

#include "algo/sortlsh.h"
#include "checkmain.h"

typedef struct sorting {
    int64_t n, nbuckets, first;
    guarded bucket, order, counts;
} sorting;

static sorting sorting_new(int64_t n, int64_t nbuckets, int64_t first, uint64_t seed)
{
    sorting s = {n, nbuckets, first,
                 guarded_new((size_t)n * sizeof(uint16_t), AT_END),
                 guarded_new((size_t)n * sizeof(uint32_t), AT_END),
                 guarded_new((size_t)(nbuckets + 1) * sizeof(uint32_t), AT_END)};
    rng r = rng_new(seed);
    for (int64_t i = 0; i < n; i++)
        ((uint16_t *)s.bucket.data)[i] = (uint16_t)rng_below(&r, nbuckets);
    return s;
}

static void sorting_free(sorting *s)
{
    guarded_free(&s->bucket);
    guarded_free(&s->order);
    guarded_free(&s->counts);
}

/* Of keys in the same bucket the earlier comes first, so in a permutation that ascends in (bucket,
 * key) every neighbouring pair is strictly ordered; n such keys in range are a permutation. */
static const char *check_order(const sorting *s)
{
    const uint16_t *bucket = (const uint16_t *)s->bucket.data;
    const uint32_t *order = (const uint32_t *)s->order.data;
    for (int64_t x = 0; x < s->n; x++) {
        int64_t key = order[x] - s->first, before = x ? order[x - 1] - s->first : -1;
        if (key < 0 || key >= s->n)
            return failure("place %lld holds %u", (long long)x, (unsigned)order[x]);
        if (x && bucket[before] > bucket[key])
            return failure("bucket %d follows %d", bucket[key], bucket[before]);
        if (x && bucket[before] == bucket[key] && before >= key)
            return failure("key %lld follows %lld in bucket %d", (long long)key, (long long)before,
                           bucket[key]);
    }
    return NULL;
}

static const char *check_counts(const sorting *s)
{
    const uint16_t *bucket = (const uint16_t *)s->bucket.data;
    const uint32_t *counts = (const uint32_t *)s->counts.data;
    for (int64_t b = 0; b < s->nbuckets; b++) {
        int64_t end = 0;
        for (int64_t i = 0; i < s->n; i++)
            end += bucket[i] <= b;
        if (counts[b] != end)
            return failure("bucket %lld ends at %u, not %lld", (long long)b, (unsigned)counts[b],
                           (long long)end);
    }
    return NULL;
}

static const char *check_sort(sorting *s)
{
    guarded_read_only(&s->bucket);
    ha_counting_sort((uint32_t *)s->order.data, (const uint16_t *)s->bucket.data, s->n, s->first,
                     s->nbuckets, (uint32_t *)s->counts.data);
    const char *why = check_order(s);
    if (!why)
        why = check_counts(s);
    if (!why)
        why = guarded_check(&s->order);
    return why ? why : guarded_check(&s->counts);
}

START_TEST(sorts_stably_into_counted_buckets)
{
    static const int64_t lengths[] = {0, 1, 2, 3, 17, 256, 1001}, sizes[] = {1, 2, 3, 128, 1024};
    static const int64_t firsts[] = {0, 1, 12345, INT64_C(0xFFFF0000)};
    for (int n = 0; n < COUNT(lengths); n++)
        for (int b = 0; b < COUNT(sizes); b++)
            for (int f = 0; f < COUNT(firsts); f++) {
                sorting s = sorting_new(lengths[n], sizes[b], firsts[f], (uint64_t)(n * 64 + b));
                ck_good_at(check_sort(&s), "%lld keys from %lld in %lld buckets",
                           (long long)lengths[n], (long long)firsts[f], (long long)sizes[b]);
                sorting_free(&s);
            }
}
END_TEST

/* All buckets that 16 projections can have; the highest one must have its place. */
START_TEST(the_highest_bucket_is_in_range)
{
    sorting s = sorting_new(300, 65536, 0, 3);
    ((uint16_t *)s.bucket.data)[7] = 65535;
    ha_counting_sort((uint32_t *)s.order.data, (const uint16_t *)s.bucket.data, s.n, 0, s.nbuckets,
                     (uint32_t *)s.counts.data);
    ck_good(check_order(&s));
    ck_assert_uint_eq(((const uint32_t *)s.order.data)[299], 7);
    sorting_free(&s);
}
END_TEST

START_TEST(equal_buckets_keep_their_order)
{
    for (int highest = 0; highest < 2; highest++) {
        sorting s = sorting_new(100, 8, 40, 1);
        for (int i = 0; i < 100; i++)
            ((uint16_t *)s.bucket.data)[i] = highest ? 7 : 0;
        ck_good(check_sort(&s));
        for (int i = 0; i < 100; i++)
            ck_assert_uint_eq(((const uint32_t *)s.order.data)[i], 40 + (unsigned)i);
        sorting_free(&s);
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("sort");
    tcase_add_test(topic, sorts_stably_into_counted_buckets);
    tcase_add_test(topic, the_highest_bucket_is_in_range);
    tcase_add_test(topic, equal_buckets_keep_their_order);
    return topic_end();
}
