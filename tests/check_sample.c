/* SPDX-License-Identifier: Apache-2.0
 *
 * The sampler from the inside: which positions lie outside the exact blocks, which of them are
 * drawn, how often, and with what weight.
 */
#include <math.h>
#include <string.h>

#include "algo/approxd.h"
#include "checkmain.h"

enum { MAX_TOTAL = 600 };

/* ---- the naive list ------------------------------------------------------------------------ */

/* The positions in no block, one by one. */
typedef struct outside {
    int64_t position[MAX_TOTAL];
    int64_t rank[MAX_TOTAL]; /* of a position in the list; -1 in a block */
    int64_t n;
} outside;

static outside outside_of(const ha_blocks *b)
{
    outside o = {.n = 0};
    for (int64_t p = 0; p < b->total; p++) {
        int in_block = 0;
        for (int64_t i = 0; i < b->n; i++)
            in_block |= (p + b->origin) / b->width == b->block[i];
        o.rank[p] = in_block ? -1 : o.n;
        if (!in_block)
            o.position[o.n++] = p;
    }
    return o;
}

static ha_sampler sampler_of(ha_blocks blocks, int64_t draws)
{
    blocks = ha_blocks_trim(blocks);
    return (ha_sampler){.exact = blocks, .outside = ha_blocks_outside(&blocks), .draws = draws,
                        .seed = 4};
}

/* A fixed case of several blocks: of 41 positions they hold 0..2, 13..17 and 33..40, so that the
 * first and the last are cut. */
static const int64_t some_blocks[] = {1, 4, 8, 9};

static ha_blocks cut_blocks(int64_t total)
{
    return (ha_blocks){.block = some_blocks, .n = 4, .width = 5, .origin = 7, .total = total};
}

/* ---- positions outside the blocks ---------------------------------------------------------- */

/* What trimming left: the blocks that hold a position, with the first and last that they hold. */
static const char *check_trim(const ha_blocks *all, const ha_blocks *trimmed)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < all->n; i++) {
        int64_t begin = all->total, end = 0;
        for (int64_t p = 0; p < all->total; p++)
            if ((p + all->origin) / all->width == all->block[i]) {
                begin = p < begin ? p : begin;
                end = p + 1;
            }
        if (begin >= end)
            continue;
        if (kept >= trimmed->n || trimmed->block[kept] != all->block[i])
            return failure("block %lld is gone", (long long)all->block[i]);
        if (ha_block_begin(trimmed, kept) != begin || ha_block_end(trimmed, kept) != end)
            return failure("block %lld is [%lld, %lld), not [%lld, %lld)",
                           (long long)all->block[i], (long long)ha_block_begin(trimmed, kept),
                           (long long)ha_block_end(trimmed, kept), (long long)begin,
                           (long long)end);
        kept++;
    }
    return kept == trimmed->n ? NULL : failure("%lld blocks are left, not %lld",
                                               (long long)trimmed->n, (long long)kept);
}

/* With more draws than positions all of them come, in order and with weight 1. */
static const char *check_outside(const ha_blocks *blocks)
{
    outside want = outside_of(blocks);
    ha_sampler s = sampler_of(*blocks, blocks->total + 1);
    const char *why = check_trim(blocks, &s.exact);
    if (why)
        return why;
    if (s.outside != want.n || ha_sample_draws(&s) != want.n)
        return failure("%lld outside and %lld draws, not %lld", (long long)s.outside,
                       (long long)ha_sample_draws(&s), (long long)want.n);
    uint32_t position[MAX_TOTAL];
    float weight[MAX_TOTAL];
    if (ha_sample(&s, 0, s.outside, position, weight) != s.outside)
        return failure("some of all are missing");
    for (int64_t x = 0; x < s.outside; x++)
        if (position[x] != want.position[x] || weight[x] != 0)
            return failure("place %lld is %u with weight %g, not %lld", (long long)x,
                           (unsigned)position[x], (double)weight[x], (long long)want.position[x]);
    return NULL;
}

/* All sets of the first blocks, those before, across and behind the rectangle too. */
START_TEST(positions_outside_are_those_of_a_naive_list)
{
    enum { IDS = 7 };
    for (int64_t total = 1; total <= 14; total++)
        for (int64_t width = 1; width <= 16; width += width < 6 ? 1 : 5)
            for (int64_t origin = 0; origin <= 9; origin++)
                for (int set = 0; set < 1 << IDS; set++) {
                    int64_t ids[IDS];
                    ha_blocks b = {.block = ids, .width = width, .origin = origin, .total = total};
                    for (int id = 0; id < IDS; id++)
                        if (set >> id & 1)
                            ids[b.n++] = id;
                    ck_good_at(check_outside(&b), "%lld positions from %lld, width %lld, set %x",
                               (long long)total, (long long)origin, (long long)width,
                               (unsigned)set);
                }
}
END_TEST

START_TEST(positions_outside_of_longer_rectangles)
{
    rng r = rng_new(1);
    for (int round = 0; round < 2000; round++) {
        int64_t ids[MAX_TOTAL];
        ha_blocks b = {.block = ids, .width = 1 + rng_below(&r, 40), .origin = rng_below(&r, 200),
                       .total = 1 + rng_below(&r, MAX_TOTAL)};
        int64_t density = 1 + rng_below(&r, 6);
        for (int64_t id = 0; id * b.width < b.origin + b.total + 50 && b.n < MAX_TOTAL; id++)
            if (rng_below(&r, density) == 0)
                ids[b.n++] = id;
        ck_good_at(check_outside(&b), "round %d", round);
    }
}
END_TEST

/* A block wider than any rectangle: nothing may wrap. */
START_TEST(the_widest_block_covers_everything)
{
    const int64_t ids[] = {0};
    for (int64_t total = 1; total < 100; total += 49) {
        ha_blocks b = {.block = ids, .n = 1, .width = INT32_MAX, .total = total};
        ck_good(check_outside(&b));
        ck_assert_int_eq(ha_blocks_outside(&b), 0);
    }
}
END_TEST

/* ---- uniform draws ------------------------------------------------------------------------- */

/* Whether, for some turn of the list, rank i lies in the i-th of m near-equal strata. */
static int one_per_stratum(const int64_t *rank, int64_t m, int64_t n)
{
    for (int64_t turn = 0; turn < n; turn++) {
        int64_t i = 0;
        for (; i < m; i++) {
            int64_t x = (rank[i] - turn + n) % n;
            if (x < n * i / m || x >= n * (i + 1) / m)
                break;
        }
        if (i == m)
            return 1;
    }
    return 0;
}

static const char *check_uniform(const ha_sampler *s, const outside *all)
{
    uint32_t position[MAX_TOTAL];
    float weight[MAX_TOTAL];
    int64_t m = ha_sample_draws(s), rank[MAX_TOTAL];
    int drawn[MAX_TOTAL] = {0};
    if (ha_sample(s, 0, m, position, weight) != m)
        return failure("fewer columns than draws");
    for (int64_t i = 0; i < m; i++) {
        if (position[i] >= s->exact.total || all->rank[position[i]] < 0)
            return failure("draw %lld is position %u, which is not outside", (long long)i,
                           (unsigned)position[i]);
        if (drawn[position[i]]++)
            return failure("position %u is drawn twice", (unsigned)position[i]);
        if (fabs(exp2((double)weight[i]) * (double)m / (double)all->n - 1) > 1e-6)
            return failure("the weight is 2^%g", (double)weight[i]);
        rank[i] = all->rank[position[i]];
    }
    return one_per_stratum(rank, m, all->n) ? NULL : failure("a stratum has no draw of its own");
}

START_TEST(uniform_draws_take_one_of_each_stratum)
{
    for (int64_t total = 30; total <= 130; total += 25) {
        ha_blocks blocks = cut_blocks(total);
        outside all = outside_of(&blocks);
        for (int64_t m = 1; m < all.n; m += 1 + m / 4)
            for (uint32_t block = 0; block < 20; block++) {
                ha_sampler s = sampler_of(blocks, m);
                s.run = block;
                ck_good_at(check_uniform(&s, &all), "%lld of %lld, block %u", (long long)m,
                           (long long)all.n, (unsigned)block);
            }
    }
}
END_TEST

/* What makes one stream differ from the next. */
typedef enum place {
    BY_SEED,
    BY_HEAD,
    BY_RECT,
    BY_BLOCK,
    BY_HIGH_SEED,
    PLACES
} place;

static void set_place(ha_sampler *s, place by, uint32_t trial)
{
    switch (by) {
    case BY_SEED: s->seed = trial; break;
    case BY_HEAD: s->head = trial; break;
    case BY_RECT: s->rect = trial; break;
    case BY_BLOCK: s->run = trial; break;
    case BY_HIGH_SEED: s->seed = (uint64_t)trial << 32; break;
    case PLACES: break;
    }
}

/* Every position has the same chance m / n, though n is no multiple of m and strata differ in size.
 * z^2 of a position has mean 1 over independent trials; a stream that ignored its place would
 * repeat one draw and give thousands. */
START_TEST(every_position_outside_is_as_likely)
{
    enum { TRIALS = 20000 };
    static const int64_t draws[] = {1, 4, 7, 17};
    ha_blocks blocks = cut_blocks(41);
    outside all = outside_of(&blocks);
    for (int by = 0; by < PLACES; by++)
        for (int d = 0; d < COUNT(draws); d++) {
            double count[MAX_TOTAL] = {0}, chance = (double)draws[d] / (double)all.n, sum = 0;
            for (uint32_t trial = 0; trial < TRIALS; trial++) {
                ha_sampler s = sampler_of(blocks, draws[d]);
                uint32_t position[MAX_TOTAL];
                float weight[MAX_TOTAL];
                set_place(&s, (place)by, trial);
                int64_t got = ha_sample(&s, 0, draws[d], position, weight);
                for (int64_t i = 0; i < got; i++)
                    count[position[i]]++;
            }
            for (int64_t x = 0; x < all.n; x++) {
                double z = (count[all.position[x]] - TRIALS * chance) /
                           sqrt(TRIALS * chance * (1 - chance));
                ck_assert_msg(fabs(z) < 5, "kind %d, %lld of %lld: position %lld is drawn %g times "
                              "(z %.1f)", by, (long long)draws[d], (long long)all.n,
                              (long long)all.position[x], count[all.position[x]], z);
                sum += z * z;
            }
            ck_assert_msg(sum < 2 * (double)all.n, "kind %d, %lld draws: mean z^2 %.2f", by,
                          (long long)draws[d], sum / (double)all.n);
        }
}
END_TEST

/* ---- masses -------------------------------------------------------------------------------- */

/* |v_j|^2 between 0.04 and 4, every 7th 0 if asked for; returns their running sums. */
static const double *masses(double *mass, int64_t n, int with_zeros)
{
    rng r = rng_new(11);
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        double norm = 0.2 + 1.8 * rng_uniform(&r);
        mass[j] = sum += with_zeros && j % 7 == 3 ? 0 : norm * norm;
    }
    return mass;
}

static double own_mass(const double *mass, int64_t j)
{
    return mass[j] - (j ? mass[j - 1] : 0);
}

START_TEST(vnorm_draws_follow_the_masses)
{
    enum { TRIALS = 20000, TOTAL = 41, DRAWS = 9 };
    double mass[TOTAL], count[TOTAL] = {0};
    ha_blocks blocks = cut_blocks(TOTAL);
    outside all = outside_of(&blocks);
    ha_sampler s = sampler_of(blocks, DRAWS);
    s.mass = masses(mass, TOTAL, 1);
    for (uint32_t trial = 0; trial < TRIALS; trial++) {
        uint32_t position[DRAWS];
        float weight[DRAWS];
        s.run = trial;
        int64_t got = ha_sample(&s, 0, DRAWS, position, weight);
        for (int64_t i = 0; i < got; i++) {
            double p = own_mass(mass, position[i]) / mass[TOTAL - 1];
            ck_assert_msg(all.rank[position[i]] >= 0, "position %u is exact",
                          (unsigned)position[i]);
            ck_assert_msg(fabs(exp2((double)weight[i]) * DRAWS * p - 1) < 1e-6,
                          "the weight of position %u is 2^%g", (unsigned)position[i],
                          (double)weight[i]);
            count[position[i]]++;
        }
    }
    for (int64_t x = 0; x < all.n; x++) {
        double want = TRIALS * DRAWS * own_mass(mass, all.position[x]) / mass[TOTAL - 1];
        ck_assert_msg(fabs(count[all.position[x]] - want) <= 5 * sqrt(want),
                      "position %lld is drawn %g times, not %g", (long long)all.position[x],
                      count[all.position[x]], want);
    }
}
END_TEST

/* Draw i falls into the i-th of as many equal parts of the mass as there are draws. */
START_TEST(vnorm_draws_take_one_of_each_part_of_the_mass)
{
    enum { TOTAL = 500, DRAWS = 60 };
    double mass[TOTAL];
    ha_blocks none = {.width = 1, .total = TOTAL};
    ha_sampler s = sampler_of(none, DRAWS);
    s.mass = masses(mass, TOTAL, 0);
    uint32_t position[DRAWS];
    float weight[DRAWS];
    ck_assert_int_eq(ha_sample(&s, 0, DRAWS, position, weight), DRAWS);
    for (int i = 0; i < DRAWS; i++) {
        double begin = position[i] ? mass[position[i] - 1] : 0, end = mass[position[i]];
        ck_assert_msg(end * DRAWS > i * mass[TOTAL - 1] &&
                          begin * DRAWS <= (i + 1) * mass[TOTAL - 1],
                      "draw %d is position %u", i, (unsigned)position[i]);
    }
}
END_TEST

/* Without a mass that can be drawn from, V-norm draws are the uniform ones. */
START_TEST(masses_that_cannot_be_drawn_from_give_uniform_draws)
{
    enum { TOTAL = 90, DRAWS = 20 };
    static const double bad[] = {0, (double)NAN, (double)INFINITY, (double)-INFINITY, -1};
    for (int b = 0; b < COUNT(bad); b++) {
        double mass[TOTAL];
        ha_blocks blocks = cut_blocks(TOTAL);
        outside all = outside_of(&blocks);
        ha_sampler s = sampler_of(blocks, DRAWS);
        for (int j = 0; j < TOTAL; j++)
            mass[j] = bad[b] == 0 || j >= TOTAL / 2 ? bad[b] : j;
        s.mass = mass;
        ck_good_at(check_uniform(&s, &all), "mass %g", bad[b]);
    }
}
END_TEST

START_TEST(many_draws_of_any_kind_are_all_positions)
{
    enum { TOTAL = 90 };
    double mass[TOTAL];
    ha_blocks blocks = cut_blocks(TOTAL);
    outside all = outside_of(&blocks);
    for (int64_t more = 0; more < 2; more++) {
        ha_sampler s = sampler_of(blocks, all.n + more);
        uint32_t position[TOTAL];
        float weight[TOTAL];
        s.mass = masses(mass, TOTAL, 1);
        ck_assert_int_eq(ha_sample_draws(&s), all.n);
        ck_assert_int_eq(ha_sample(&s, 0, all.n, position, weight), all.n);
        for (int64_t x = 0; x < all.n; x++)
            ck_assert(position[x] == all.position[x] && weight[x] == 0);
    }
}
END_TEST

/* ---- both kinds ---------------------------------------------------------------------------- */

/* What a row of scores adds up to outside the blocks, estimated often. */
START_TEST(weighted_sums_are_unbiased)
{
    enum { TRIALS = 20000, TOTAL = 77, DRAWS = 8 };
    double mass[TOTAL];
    ha_blocks blocks = cut_blocks(TOTAL);
    outside all = outside_of(&blocks);
    for (int vnorm = 0; vnorm < 2; vnorm++) {
        double want = 0, sum = 0, squares = 0;
        for (int64_t x = 0; x < all.n; x++)
            want += exp(0.05 * (double)all.position[x]);
        for (uint32_t trial = 0; trial < TRIALS; trial++) {
            uint32_t position[DRAWS];
            float weight[DRAWS];
            double estimate = 0;
            ha_sampler s = sampler_of(blocks, DRAWS);
            s.mass = vnorm ? masses(mass, TOTAL, 0) : NULL;
            s.rect = trial;
            int64_t got = ha_sample(&s, 0, DRAWS, position, weight);
            for (int64_t i = 0; i < got; i++)
                estimate += exp2((double)weight[i]) * exp(0.05 * position[i]);
            sum += estimate;
            squares += estimate * estimate;
        }
        double mean = sum / TRIALS, variance = squares / TRIALS - mean * mean;
        ck_assert_msg(fabs(mean - want) < 5 * sqrt(variance / TRIALS),
                      "kind %d: the mean of the estimates is %g, not %g", vnorm, mean, want);
    }
}
END_TEST

/* Draws in parts of any length are the draws at once. */
START_TEST(draws_in_parts_are_the_same)
{
    enum { TOTAL = 400 };
    double mass[TOTAL];
    rng r = rng_new(8);
    for (int round = 0; round < 300; round++) {
        ha_sampler s = sampler_of(cut_blocks(TOTAL), 1 + rng_below(&r, TOTAL));
        uint32_t at_once[TOTAL], part[TOTAL];
        float weight_at_once[TOTAL], weight[TOTAL];
        s.mass = round % 2 ? masses(mass, TOTAL, 1) : NULL;
        s.run = (uint32_t)round;
        int64_t draws = ha_sample_draws(&s), got = 0;
        int64_t all = ha_sample(&s, 0, draws, at_once, weight_at_once);
        for (int64_t first = 0, n; first < draws; first += n) {
            n = 1 + rng_below(&r, 40);
            n = n < draws - first ? n : draws - first;
            got += ha_sample(&s, first, n, part + got, weight + got);
        }
        ck_assert_int_eq(got, all);
        ck_assert_mem_eq(part, at_once, (size_t)all * sizeof *part);
        ck_assert_mem_eq(weight, weight_at_once, (size_t)all * sizeof *weight);
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("sample");
    tcase_add_test(topic, positions_outside_are_those_of_a_naive_list);
    tcase_add_test(topic, positions_outside_of_longer_rectangles);
    tcase_add_test(topic, the_widest_block_covers_everything);
    tcase_add_test(topic, uniform_draws_take_one_of_each_stratum);
    tcase_add_test(topic, every_position_outside_is_as_likely);
    tcase_add_test(topic, vnorm_draws_follow_the_masses);
    tcase_add_test(topic, vnorm_draws_take_one_of_each_part_of_the_mass);
    tcase_add_test(topic, masses_that_cannot_be_drawn_from_give_uniform_draws);
    tcase_add_test(topic, many_draws_of_any_kind_are_all_positions);
    tcase_add_test(topic, weighted_sums_are_unbiased);
    tcase_add_test(topic, draws_in_parts_are_the_same);
    return topic_end();
}
