/* SPDX-License-Identifier: Apache-2.0
 *
 * The statistics of hyperattn_measure: which rows are drawn, the tails of sums of exponential
 * variables, the interval where its answer is known, and how often it holds the truth.
 */
#include <math.h>
#include <string.h>

#include "algo/measure.h"
#include "checkmain.h"
#include "measure_cases.h"

/* ---- the draw -------------------------------------------------------------------------------- */

/* One row of each strip, and the strips are all rows. */
START_TEST(strips)
{
    static const int64_t sizes[][2] = {{10, 10}, {10, 3}, {16384, 128}, {1000, 999}, {7, 1}};
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t nq = sizes[s][0], n = sizes[s][1], begin = 0;
        uint32_t row[1000];
        ha_draw_checked_rows(row, 3, 1, nq, n);
        for (int64_t i = 0; i < n; i++) {
            ck_assert_int_eq(ha_strip_begin(nq, n, i), begin);
            ck_assert_int_ge(row[i], begin);
            begin += ha_strip_rows(nq, n, i);
            ck_assert_int_lt(row[i], begin);
        }
        ck_assert_int_eq(begin, nq);
        ck_assert_int_le(ha_strip_rows(nq, n, 0) - ha_strip_rows(nq, n, n - 1), 1);
    }
}
END_TEST

/* Each row of a strip as often as the others: chi-squared of 9 degrees, below its 1e-4 limit. */
START_TEST(rows_are_uniform)
{
    enum { DRAWS = 5000 };
    int count[20] = {0};
    double sum = 0;
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        uint32_t row[2];
        ha_draw_checked_rows(row, seed, 5, 20, 2);
        count[row[0]]++;
        count[row[1]]++;
    }
    for (int i = 0; i < 10; i++)
        sum += pow(count[i] - DRAWS / 10.0, 2) / (DRAWS / 10.0);
    ck_assert_double_lt(sum, 33.7);
}
END_TEST

/* ---- tails ----------------------------------------------------------------------------------- */

/* One term above 0: P(b E > sum_k c_k E_k) is the product of b / (b + c_k). */
START_TEST(one_term_above)
{
    static const double b[] = {0.3, 1, 7, 100, 1e6};
    for (int s = 0; s < COUNT(b); s++)
        for (int n = 1; n <= 512; n *= 2) {
            double coef[513], want = 1;
            coef[n] = b[s];
            for (int i = 0; i < n; i++) {
                coef[i] = -(i % 3 + 0.5) * b[s] * 3.7 / (1.5 * n);
                want *= b[s] / (b[s] - coef[i]);
            }
            double got = ha_exponential_tail(coef, n + 1);
            ck_assert_msg(fabs(got - want) < 0.04 * want, "b %g, %d terms: %g, not %g", b[s], n,
                          got, want);
            for (int i = 0; i <= n; i++)
                coef[i] = -coef[i];
            got = ha_exponential_tail(coef, n + 1);
            ck_assert_msg(fabs(got - (1 - want)) < 0.04 * want, "b %g, %d terms below", b[s], n);
        }
}
END_TEST

START_TEST(certain_tails)
{
    const double zero[] = {0, 0, 0}, above[] = {0, 1, 2}, below[] = {-1, 0, -3};
    const double even[] = {1, -1, 2, -2};
    ck_assert_double_eq(ha_exponential_tail(zero, 3), 0);
    ck_assert_double_eq(ha_exponential_tail(above, 3), 1);
    ck_assert_double_eq(ha_exponential_tail(below, 3), 0);
    ck_assert_double_eq_tol(ha_exponential_tail(even, 4), 0.5, 1e-6);
}
END_TEST

/* ---- the interval ---------------------------------------------------------------------------- */

enum { MOST = 600 };

static ha_error interval(double *diff, double *norm, int64_t n, int64_t strip, ha_reach reach)
{
    double scratch[MOST + 1];
    int64_t rows[MOST];
    for (int64_t i = 0; i < n; i++)
        rows[i] = strip;
    const ha_checked c = {diff, norm, rows, n, &reach, &strip, 1};
    return ha_error_interval(&c, scratch);
}

/* No error found: the limit of Clopper and Pearson for the share of rows that have one, times the
 * most that they can be off, 2^2 in rows of norm 1. */
START_TEST(nothing_found)
{
    for (int64_t n = 32; n <= 512; n *= 4) {
        double diff[MOST] = {0}, norm[MOST];
        for (int64_t i = 0; i < n; i++)
            norm[i] = 1;
        const ha_error e = interval(diff, norm, n, 1000, (ha_reach){1, 1, 1, 1});
        double share = 1 - pow(0.025, 1.0 / (double)n);
        ck_assert_double_eq(e.value, 0);
        ck_assert_double_eq(e.low, 0);
        ck_assert_double_eq_tol(e.high / sqrt(4 * share / (1 - share)), 1, 0.02);
    }
}
END_TEST

START_TEST(special_values)
{
    const ha_reach one = {1, 1, 1, 1};
    double diff[] = {1, 4, 0}, norm[] = {4, 8, 8}, zero[] = {0, 0, 0}, bad[] = {1, NAN, 1};
    ha_error e = interval(diff, norm, 3, 1, one); /* all rows */
    ck_assert_double_eq_tol(e.value, 0.5, 1e-12);
    ck_assert(e.low == e.value && e.high == e.value);
    e = interval(diff, norm, 3, 2, (ha_reach){INFINITY, 1, 1, 1});
    ck_assert(e.high > 1 && e.low <= e.value); /* |out_i| alone bounds it above 1 */
    e = interval(diff, norm, 3, 2, (ha_reach){NAN, NAN, NAN, 1});
    ck_assert(e.high > 1);
    e = interval(diff, bad, 3, 5, one);
    ck_assert(isnan(e.value) && isnan(e.low) && isnan(e.high));
    e = interval(diff, zero, 3, 5, one);
    ck_assert(isinf(e.value) && isinf(e.high));
    e = interval(zero, zero, 3, 5, one);
    ck_assert(e.value == 0 && e.low == 0 && isinf(e.high));
    e = interval(zero, zero, 3, 1, one);
    ck_assert(e.value == 0 && e.high == 0);
    e = interval(diff, norm, 0, 1, one); /* no row at all */
    ck_assert(e.value == 0 && e.low == 0 && e.high == 0);
}
END_TEST

/* More rows narrow it, and the more of all rows they are. */
START_TEST(width)
{
    double diff[MOST], norm[MOST], before = INFINITY;
    rng r = rng_new(4);
    for (int i = 0; i < MOST; i++) {
        diff[i] = 0.01 * rng_uniform(&r);
        norm[i] = 1;
    }
    for (int64_t n = 20; n <= 600; n *= 2) {
        const ha_error e = interval(diff, norm, n, 600 / n, (ha_reach){1, 1, 1, 1});
        ck_assert_double_lt(e.high - e.low, before);
        before = e.high - e.low;
    }
}
END_TEST

/* ---- coverage -------------------------------------------------------------------------------- */

/* 95 of 100 are promised; more than 93 are asked of 300 draws. coverage.c has more of it. */
START_TEST(holds_the_truth)
{
    enum { N = 2000, DRAWS = 300 };
    hyperattn_problem p = problem_of(1, N, 32);
    hyperattn_params params;
    p.causal = _i / FAMILIES;
    tensors t = tensors_new(&p, AT_END);
    float exact[N * 32];
    hyperattn_params_init(&params);
    family_fill(&t, (family)(_i % FAMILIES), 3);
    ck_good(tensors_run(&t, &params, NULL, 2));
    memcpy(exact, t.mem[T_OUT].data, sizeof exact);
    params.method = HYPERATTN_HYPER;
    params.block_size = params.sample_size = 64;
    params.min_seq_len = 256;
    ck_good(tensors_run(&t, &params, NULL, 2));
    row_errors e = row_errors_of(&t, exact);
    for (int64_t rows = 32; rows <= 512; rows *= 4) {
        const coverage c = coverage_of(&e, rows, DRAWS);
        ck_assert_msg(c.held > 0.93, "%s, causal %d, %lld rows: %.3f hold %.4f, %.3f are below",
                      family_name((family)(_i % FAMILIES)), p.causal, (long long)rows, c.held,
                      e.truth, c.below);
    }
    row_errors_free(&e);
    tensors_free(&t);
}
END_TEST

/* One row in a thousand has all the error, and most draws do not meet it. */
START_TEST(holds_an_error_that_is_rarely_seen)
{
    enum { N = 16000, DRAWS = 300 };
    static double diff[N], norm[N];
    ha_reach reach = {1, 1, 1, 1};
    row_errors e = {1, N, diff, norm, &reach, 0};
    rng r = rng_new(8);
    for (int i = 0; i < N; i++) {
        norm[i] = 0.5 + rng_uniform(&r);
        diff[i] = i % 1000 == 500 ? 2 : 1e-6 * rng_uniform(&r);
    }
    double sums[2] = {0, 0};
    for (int i = 0; i < N; i++) {
        sums[0] += diff[i];
        sums[1] += norm[i];
    }
    e.truth = sqrt(sums[0] / sums[1]);
    for (int64_t rows = 32; rows <= 512; rows *= 4) {
        const coverage c = coverage_of(&e, rows, DRAWS);
        ck_assert_double_gt(c.held, 0.93);
        ck_assert(rows > 128 || c.value < e.truth / 10);
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("interval");
    tcase_add_test(topic, strips);
    tcase_add_test(topic, rows_are_uniform);
    tcase_add_test(topic, one_term_above);
    tcase_add_test(topic, certain_tails);
    tcase_add_test(topic, nothing_found);
    tcase_add_test(topic, special_values);
    tcase_add_test(topic, width);
    tcase_add_loop_test(topic, holds_the_truth, 0, 2 * FAMILIES);
    tcase_add_test(topic, holds_an_error_that_is_rarely_seen);
    return topic_end();
}
