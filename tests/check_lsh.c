/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers and hashes from the inside: Philox against its published answers, the Gray rank
 * against its definition, directions against the normal distribution, and buckets of any input.
 */
#include <math.h>
#include <string.h>

#include "algo/philox.h"
#include "algo/sortlsh.h"
#include "checkmain.h"
#include "kernels.h"

/* ---- Philox -------------------------------------------------------------------------------- */

/* From kat_vectors of Random123, the generator's own distribution. */
START_TEST(philox_gives_the_published_answers)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < COUNT(known); i++) {
        const uint32_t *c = known[i].counter;
        uint64_t seed = (uint64_t)known[i].key[1] << 32 | known[i].key[0];
        ha_words got = ha_philox(seed, c[0], c[1], c[2], c[3]);
        for (int w = 0; w < 4; w++)
            ck_assert_msg(got.w[w] == known[i].want[w], "vector %d, word %d is %08x, not %08x", i,
                          w, (unsigned)got.w[w], (unsigned)known[i].want[w]);
    }
}
END_TEST

START_TEST(words_become_indices_and_fractions)
{
    static const uint32_t sizes[] = {1, 2, 3, 1000, 0x80000001u, UINT32_MAX};
    for (int i = 0; i < COUNT(sizes); i++) {
        uint32_t n = sizes[i];
        ck_assert_uint_eq(ha_below(0, n), 0);
        ck_assert_uint_eq(ha_below(UINT32_MAX, n), n - 1);
    }
    ck_assert(ha_fraction(0) > 0);
    ck_assert(ha_fraction(UINT32_MAX) < 1);
    ck_assert(fabs(ha_fraction(0x80000000u) - 0.5) < 1e-9);
}
END_TEST

/* ---- Gray rank ----------------------------------------------------------------------------- */

START_TEST(gray_rank_inverts_the_gray_code)
{
    static uint16_t ranks[65536];
    for (uint32_t i = 0; i < 65536; i++)
        ranks[i] = (uint16_t)(i ^ (i >> 1));
    ha_gray_ranks(ranks, 65536);
    for (uint32_t i = 0; i < 65536; i++)
        ck_assert_msg(ranks[i] == i, "the rank of %x is %x, not %x", (unsigned)(i ^ (i >> 1)),
                      (unsigned)ranks[i], (unsigned)i);
}
END_TEST

/* The bucket of a row: where its projections exceed their means. Both have room for whole
 * vectors. */
static uint32_t bucket_of(const float *proj, const float *mean, int r)
{
    uint16_t bits;
    ha_kernels_best(&(const char *){NULL})->above_bits(&bits, proj, HA_MAX_PROJS, mean, 1, r);
    ha_gray_ranks(&bits, 1);
    return bits;
}

static uint32_t bucket_of_signs(uint32_t bits, int r)
{
    const float mean[HA_MAX_PROJS] = {0};
    float proj[HA_MAX_PROJS] = {0};
    for (int j = 0; j < r; j++)
        proj[j] = bits >> j & 1 ? 0.25f : -0.25f;
    return bucket_of(proj, mean, r);
}

/* With the Gray code in place of its inverse this fails from 3 projections on. */
START_TEST(neighbouring_buckets_differ_in_one_sign)
{
    static uint32_t signs[65536];
    for (int r = 1; r <= HA_MAX_PROJS; r++) {
        uint32_t n = (uint32_t)1 << r;
        memset(signs, 0xFF, sizeof signs);
        for (uint32_t bits = 0; bits < n; bits++) {
            uint32_t bucket = bucket_of_signs(bits, r);
            ck_assert_msg(bucket < n, "%d signs %x: bucket %u", r, (unsigned)bits, bucket);
            ck_assert_msg(signs[bucket] == UINT32_MAX, "%d signs: bucket %u twice", r, bucket);
            signs[bucket] = bits;
        }
        for (uint32_t b = 1; b < n; b++)
            ck_assert_msg(__builtin_popcount(signs[b] ^ signs[b - 1]) == 1,
                          "%d signs: buckets %u and %u hold %x and %x", r, b - 1, b,
                          (unsigned)signs[b - 1], (unsigned)signs[b]);
    }
}
END_TEST

/* ---- directions ---------------------------------------------------------------------------- */

enum { DIM = 67, ENTRIES = HA_MAX_PROJS * DIM, KEY_HEADS = 200 };

START_TEST(directions_are_standard_normal)
{
    static float g[ENTRIES];
    double n = (double)KEY_HEADS * ENTRIES, power[5] = {0}, beyond2 = 0, neighbours = 0;
    for (uint32_t key_head = 0; key_head < KEY_HEADS; key_head++) {
        ha_directions(g, HA_MAX_PROJS, DIM, 77, key_head);
        for (int i = 0; i < ENTRIES; i++) {
            double x = (double)g[i], y = 1;
            for (int p = 1; p <= 4; p++)
                power[p] += y *= x;
            beyond2 += fabs(x) > 2;
            neighbours += i ? x * (double)g[i - 1] : 0;
        }
    }
    /* five standard errors: the variances of x, x^2, x^3, x^4 are 1, 2, 15, 96 */
    ck_assert(fabs(power[1] / n) < 5 * sqrt(1 / n));
    ck_assert(fabs(power[2] / n - 1) < 5 * sqrt(2 / n));
    ck_assert(fabs(power[3] / n) < 5 * sqrt(15 / n));
    ck_assert(fabs(power[4] / n - 3) < 5 * sqrt(96 / n));
    ck_assert(fabs(beyond2 / n - 0.0455003) < 5 * sqrt(0.0455 * 0.9545 / n));
    ck_assert(fabs(neighbours / n) < 5 * sqrt(1 / n));
}
END_TEST

static int equal_entries(const float *a, const float *b, int n)
{
    int equal = 0;
    for (int i = 0; i < n; i++)
        equal += a[i] == b[i];
    return equal;
}

START_TEST(directions_follow_seed_and_key_head)
{
    static float a[ENTRIES], b[ENTRIES];
    static const struct {
        uint64_t seed;
        uint32_t key_head;
    } others[] = {{6, 3}, {5, 4}, {5 + (UINT64_C(1) << 32), 3}, {0, 0}};
    ha_directions(a, HA_MAX_PROJS, DIM, 5, 3);
    ha_directions(b, HA_MAX_PROJS, DIM, 5, 3);
    ck_assert_int_eq(equal_entries(a, b, ENTRIES), ENTRIES);
    for (int i = 0; i < COUNT(others); i++) {
        ha_directions(b, HA_MAX_PROJS, DIM, others[i].seed, others[i].key_head);
        ck_assert_msg(equal_entries(a, b, ENTRIES) < 3, "seed %llx, key head %u repeats 5, 3",
                      (unsigned long long)others[i].seed, (unsigned)others[i].key_head);
    }
}
END_TEST

/* Sizes that are no multiple of the generator's four words: nothing is written behind the end. */
START_TEST(directions_fill_their_array_and_no_more)
{
    for (int r = 1; r <= 3; r++)
        for (int64_t d = 1; d <= 9; d++) {
            guarded g = guarded_new((size_t)(r * d) * sizeof(float), AT_END);
            fill_signalling(g.data, r * d, HYPERATTN_F32);
            ha_directions((float *)g.data, r, d, 1, 1);
            for (int64_t i = 0; i < r * d; i++)
                ck_assert(isfinite(((const float *)g.data)[i]));
            ck_good(guarded_check(&g));
            guarded_free(&g);
        }
}
END_TEST

/* ---- buckets and means --------------------------------------------------------------------- */

/* A NaN counts as a projection that is not above the mean, whatever the others are. */
START_TEST(nan_projections_have_a_defined_bucket)
{
    const float mean[HA_MAX_PROJS] = {0};
    for (int r = 1; r <= HA_MAX_PROJS; r++)
        for (int at = 0; at < r; at++) {
            float with_nan[HA_MAX_PROJS] = {0}, with_low[HA_MAX_PROJS] = {0};
            for (int j = 0; j < r; j++)
                with_nan[j] = with_low[j] = j % 3 ? 1.0f : -1.0f;
            with_nan[at] = NAN;
            with_low[at] = -INFINITY;
            ck_assert_uint_eq(bucket_of(with_nan, mean, r), bucket_of(with_low, mean, r));
            ck_assert_uint_lt(bucket_of(with_nan, mean, r), (uint32_t)1 << r);
        }
    float all_nan[HA_MAX_PROJS];
    for (int j = 0; j < HA_MAX_PROJS; j++)
        all_nan[j] = NAN;
    ck_assert_uint_eq(bucket_of(all_nan, mean, HA_MAX_PROJS), 0);
    ck_assert_uint_eq(bucket_of(mean, all_nan, HA_MAX_PROJS), 0);
}
END_TEST

START_TEST(buckets_are_counted_from_the_mean)
{
    const float mean[HA_MAX_PROJS] = {10, -10};
    const float proj[][HA_MAX_PROJS] = {{11, -11}, {11, -9}, {9, -9}, {9, -11}};
    uint16_t ranks[] = {1, 3, 2, 0}; /* the signs */
    ha_gray_ranks(ranks, COUNT(ranks));
    for (int i = 0; i < COUNT(ranks); i++)
        ck_assert_uint_eq(bucket_of(proj[i], mean, 2), ranks[i]);
}
END_TEST

/* Rows of 8, of which 3 are projections: the others must not be read as such. */
START_TEST(the_mean_leaves_out_what_is_not_finite)
{
    static const float proj[5][8] = {
        {1, 10, NAN, 99},  {2, INFINITY, NAN, 99}, {NAN, 20, -INFINITY, 99},
        {6, -INFINITY, NAN, 99}, {-1, 60, INFINITY, 99},
    };
    float mean[4] = {0, 0, 0, -5};
    ha_finite_means(mean, proj[0], 8, 5, 3);
    ck_assert(mean[0] == 2 && mean[1] == 30);
    ck_assert(mean[2] == 0);
    ck_assert(mean[3] == -5);
    ha_finite_means(mean, proj[0], 8, 0, 3);
    ck_assert(mean[0] == 0 && mean[1] == 0 && mean[2] == 0);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("lsh");
    tcase_add_test(topic, philox_gives_the_published_answers);
    tcase_add_test(topic, words_become_indices_and_fractions);
    tcase_add_test(topic, gray_rank_inverts_the_gray_code);
    tcase_add_test(topic, neighbouring_buckets_differ_in_one_sign);
    tcase_add_test(topic, directions_are_standard_normal);
    tcase_add_test(topic, directions_follow_seed_and_key_head);
    tcase_add_test(topic, directions_fill_their_array_and_no_more);
    tcase_add_test(topic, nan_projections_have_a_defined_bucket);
    tcase_add_test(topic, buckets_are_counted_from_the_mean);
    tcase_add_test(topic, the_mean_leaves_out_what_is_not_finite);
    return topic_end();
}
