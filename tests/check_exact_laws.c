/* SPDX-License-Identifier: Apache-2.0
 *
 * What exact attention promises apart from its values: invariances, bounds, causality bit by bit,
 * where a NaN goes, and merging partial results. Each test runs once per level, and again with
 * MULTIPOLE, which is exact for few rows and for short causal pasts.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "oracle.h"

typedef struct way {
    const char *level;
    hyperattn_method method;
} way;

static way way_of(int i)
{
    return (way){levels[i / 2], i % 2 ? HYPERATTN_MULTIPOLE : HYPERATTN_EXACT};
}

static hyperattn_params params_of(way w)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = w.method;
    return params;
}

static tensors filled(const hyperattn_problem *problem, fill kind)
{
    tensors t = tensors_new(problem, AT_END);
    tensors_fill(&t, kind, 11);
    return t;
}

static void run(tensors *t, way w)
{
    hyperattn_params params = params_of(w);
    ck_good(tensors_run(t, &params, w.level, 1));
}

/* ---- invariances and bounds ---------------------------------------------------------------- */

/* Also where MULTIPOLE estimates, as it does here without a mask: its weights have the sum 1. */
START_TEST(values_of_one_give_one)
{
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(2, 333, 48);
        p.causal = causal;
        tensors t = filled(&p, FILL_CLUSTERED);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t j = 0; j < 333; j++)
                tensors_set_row(&t, T_V, 0, h, j, 1);
        run(&t, way_of(_i));
        for (int64_t h = 0; h < 2; h++)
            for (int64_t i = 0; i < 333; i++)
                for (int64_t c = 0; c < 48; c++)
                    ck_assert_double_eq_tol(tensors_get(&t, T_OUT, 0, h, i, c), 1, 1e-5);
        tensors_free(&t);
    }
}
END_TEST

/* Without a mask keys have no order: moving them with their values changes rounding alone. */
START_TEST(keys_may_be_permuted)
{
    enum { N = 253, D = 40 };
    hyperattn_problem p = problem_of(1, N, D);
    tensors t = filled(&p, FILL_GAUSS);
    oracle before = oracle_exact(&t);
    rng r = rng_new(5);
    for (int64_t j = N - 1; j > 0; j--) {
        int64_t other = rng_below(&r, j + 1);
        for (int which = T_K; which <= T_V; which++)
            for (int64_t c = 0; c < D; c++) {
                double x = tensors_get(&t, (operand)which, 0, 0, j, c);
                tensors_put(&t, (operand)which, 0, 0, j, c,
                            tensors_get(&t, (operand)which, 0, 0, other, c));
                tensors_put(&t, (operand)which, 0, 0, other, c, x);
            }
    }
    run(&t, way_of(_i));
    ck_good(oracle_compare(&before, &t, 1));
    oracle_free(&before);
    tensors_free(&t);
}
END_TEST

/* out is a mean of the values: it cannot leave their range by more than rounding. */
static void check_range(const tensors *t)
{
    for (int64_t c = 0; c < t->full.head_dim_v; c++) {
        double low = INFINITY, high = -INFINITY;
        for (int64_t j = 0; j < t->full.seqlen_k; j++) {
            double v = tensors_get(t, T_V, 0, 0, j, c);
            low = fmin(low, v);
            high = fmax(high, v);
        }
        double slack = 1e-5 * fmax(fabs(low), fabs(high));
        for (int64_t i = 0; i < t->full.seqlen_q; i++) {
            double out = tensors_get(t, T_OUT, 0, 0, i, c);
            ck_assert_msg(out >= low - slack && out <= high + slack,
                          "out row %lld column %lld is %.9g, values lie in [%.9g, %.9g]",
                          (long long)i, (long long)c, out, low, high);
        }
    }
}

START_TEST(out_lies_within_the_values)
{
    hyperattn_problem p = problem_of(1, 197, 33);
    for (int kind = FILL_GAUSS; kind <= FILL_EXTREME; kind++) {
        tensors t = filled(&p, (fill)kind);
        run(&t, way_of(_i));
        check_range(&t);
        tensors_free(&t);
    }
}
END_TEST

/* Scores of +-1e4 and +-1e30: no overflow in the exponentials, whatever the sign of the largest. */
START_TEST(huge_scores_stay_finite)
{
    static const double sizes[] = {1e2, 1e15};
    for (int s = 0; s < COUNT(sizes); s++)
        for (int sign = -1; sign <= 1; sign += 2) {
            hyperattn_problem p = problem_of(1, 150, 16);
            p.softmax_scale = 1;
            tensors t = filled(&p, FILL_GAUSS);
            for (int64_t i = 0; i < 150; i++)
                for (int64_t c = 0; c < 16; c++) {
                    double q = fabs(tensors_get(&t, T_Q, 0, 0, i, c));
                    double k = fabs(tensors_get(&t, T_K, 0, 0, i, c));
                    tensors_put(&t, T_Q, 0, 0, i, c, sizes[s] * q);
                    tensors_put(&t, T_K, 0, 0, i, c, sign * sizes[s] * k);
                }
            run(&t, way_of(_i));
            oracle o = oracle_exact(&t);
            ck_good(oracle_compare(&o, &t, 1));
            oracle_free(&o);
            tensors_free(&t);
        }
}
END_TEST

/* ---- causality and NaN --------------------------------------------------------------------- */

/* What may be put where no row should look. */
static const double poisons[] = {NAN, INFINITY, -INFINITY, 1e30};

START_TEST(causal_rows_ignore_later_keys)
{
    enum { N = 280 };
    static const int64_t last[] = {0, 1, 14, 15, 16, 31, 63, 64, 100, 127, 128, 191, 255, N - 2};
    hyperattn_problem p = problem_of(1, N, 24);
    p.causal = 1;
    for (int s = 0; s < COUNT(last); s++) {
        tensors t = filled(&p, FILL_GAUSS);
        run(&t, way_of(_i));
        saved before = tensors_save(&t);
        for (int64_t j = last[s] + 1; j < N; j++) {
            tensors_set_row(&t, T_K, 0, 0, j, poisons[j % 4]);
            tensors_set_row(&t, T_V, 0, 0, j, poisons[(j + s) % 4]);
        }
        run(&t, way_of(_i));
        ck_good(tensors_same_bits(&t, &before, last[s] + 1));
        saved_free(&before);
        tensors_free(&t);
    }
}
END_TEST

START_TEST(nan_in_a_query_row_stays_there)
{
    enum { N = 150 };
    for (int causal = 0; causal < 2; causal++)
        for (int64_t bad = 0; bad < N; bad += 37) {
            hyperattn_problem p = problem_of(2, N, 24);
            p.causal = causal;
            tensors t = filled(&p, FILL_GAUSS);
            run(&t, way_of(_i));
            saved before = tensors_save(&t);
            tensors_put(&t, T_Q, 0, 1, bad, 5, NAN);
            run(&t, way_of(_i));
            for (int64_t c = 0; c < 24; c++) {
                ck_assert_double_nan(tensors_get(&t, T_OUT, 0, 1, bad, c));
                tensors_put(&t, T_OUT, 0, 1, bad, c, 0);
                element_put(before.out, tensors_at(&t, T_OUT, 0, 1, bad) + c, HYPERATTN_F32, 0);
            }
            ck_assert_float_nan(tensors_lse(&t, 0, 1, bad));
            ((float *)t.lse.data)[tensors_row(&t, 0, 1, bad)] = 0;
            before.lse[tensors_row(&t, 0, 1, bad)] = 0;
            ck_good(tensors_same_bits(&t, &before, N));
            saved_free(&before);
            tensors_free(&t);
        }
}
END_TEST

/* The oracle says which rows and columns a bad key or value reaches: those that see it. */
static void check_poison(operand which, double poison, int causal, way w)
{
    enum { N = 150 };
    for (int64_t bad = 0; bad < N; bad += 29) {
        hyperattn_problem p = problem_of(1, N, 24);
        p.causal = causal;
        tensors t = filled(&p, FILL_GAUSS);
        tensors_put(&t, which, 0, 0, bad, 7, poison);
        run(&t, w);
        oracle o = oracle_exact(&t);
        ck_good_at(oracle_compare(&o, &t, 1), "%s: %g in row %lld of %s, causal %d", w.level,
                   poison, (long long)bad, which == T_K ? "k" : "v", causal);
        oracle_free(&o);
        tensors_free(&t);
    }
}

START_TEST(bad_keys_reach_the_rows_that_see_them)
{
    for (int s = 0; s < 3; s++)
        for (int causal = 0; causal < 2; causal++)
            check_poison(T_K, poisons[s], causal, way_of(_i));
}
END_TEST

START_TEST(bad_values_reach_the_rows_that_see_them)
{
    for (int s = 0; s < 3; s++)
        for (int causal = 0; causal < 2; causal++)
            check_poison(T_V, poisons[s], causal, way_of(_i));
}
END_TEST

/* ---- merge --------------------------------------------------------------------------------- */

/* A problem of the same queries with keys [from, to) of whole. */
static tensors keys_of(const tensors *whole, int64_t from, int64_t to, int causal)
{
    hyperattn_problem p = whole->full;
    p.seqlen_k = to - from;
    p.causal = causal;
    memset(p.k_stride, 0, sizeof p.k_stride);
    memset(p.v_stride, 0, sizeof p.v_stride);
    tensors part = tensors_new(&p, AT_END);
    memcpy(part.mem[T_Q].data, whole->mem[T_Q].data, part.mem[T_Q].size);
    for (int which = T_K; which <= T_V; which++)
        for (int64_t h = 0; h < p.nheads; h++)
            for (int64_t j = from; j < to; j++)
                for (int64_t c = 0; c < tensors_dim(&part, (operand)which); c++)
                    tensors_put(&part, (operand)which, 0, h, j - from, c,
                                tensors_get(whole, (operand)which, 0, h, j, c));
    return part;
}

/* And its result. */
static tensors part_of(const tensors *whole, int64_t from, int64_t to, way w)
{
    tensors part = keys_of(whole, from, to, 0);
    run(&part, w);
    return part;
}

/* Folds the result in part into that in t. */
static void merge(tensors *t, const tensors *part, way w)
{
    hyperattn_params params = params_of(w);
    hyperattn_ctx *ctx = ctx_at(w.level, 1);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, &params));
    ck_ok(hyperattn_merge(plan, t->mem[T_OUT].data, (float *)t->lse.data, part->mem[T_OUT].data,
                          (const float *)part->lse.data));
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    ck_good(guarded_check(&t->mem[T_OUT]));
    ck_good(guarded_check(&t->lse));
}

START_TEST(merged_halves_are_the_whole)
{
    static const int64_t cuts[] = {1, 16, 100, 202};
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++)
        for (int s = 0; s < COUNT(cuts); s++) {
            hyperattn_problem p = problem_of(2, 90, 31);
            p.seqlen_k = 203;
            p.dtype = (hyperattn_dtype)dtype;
            tensors whole = filled(&p, FILL_CLUSTERED);
            tensors first = part_of(&whole, 0, cuts[s], way_of(_i));
            tensors second = part_of(&whole, cuts[s], 203, way_of(_i));
            merge(&first, &second, way_of(_i));
            oracle o = oracle_exact(&whole);
            ck_good_at(oracle_compare(&o, &first, 2), "%s cut at %lld",
                       dtype_name((hyperattn_dtype)dtype), (long long)cuts[s]);
            oracle_free(&o);
            tensors_free(&whole);
            tensors_free(&first);
            tensors_free(&second);
        }
}
END_TEST

START_TEST(merge_is_associative)
{
    hyperattn_problem p = problem_of(1, 50, 32);
    p.seqlen_k = 120;
    tensors whole = filled(&p, FILL_CLUSTERED);
    oracle o = oracle_exact(&whole);
    for (int order = 0; order < 2; order++) {
        tensors a = part_of(&whole, 0, 30, way_of(_i));
        tensors b = part_of(&whole, 30, 95, way_of(_i));
        tensors c = part_of(&whole, 95, 120, way_of(_i));
        if (order == 0) {
            merge(&a, &b, way_of(_i));
            merge(&a, &c, way_of(_i));
        } else {
            merge(&b, &c, way_of(_i));
            merge(&a, &b, way_of(_i));
        }
        ck_good(oracle_compare(&o, &a, 3));
        tensors_free(&a);
        tensors_free(&b);
        tensors_free(&c);
    }
    oracle_free(&o);
    tensors_free(&whole);
}
END_TEST

/* Says a row of t that is not what two parts' rows make together. */
static const char *check_merged(const tensors *t, const saved *a, const tensors *b)
{
    const float *out_a = a->out, *out_b = (const float *)b->mem[T_OUT].data;
    for (int64_t h = 0; h < t->full.nheads; h++)
        for (int64_t i = 0; i < t->full.seqlen_q; i++) {
            int64_t at = tensors_at(t, T_OUT, 0, h, i);
            double lse_a = a->lse[tensors_row(t, 0, h, i)], lse_b = tensors_lse(b, 0, h, i);
            double share = 1 / (1 + exp(lse_b - lse_a)), lse = lse_a - log(share);
            if (!(fabs(tensors_lse(t, 0, h, i) - lse) <= 1e-5 * (1 + fabs(lse))))
                return failure("head %lld row %lld: lse is %.9g, not %.9g", (long long)h,
                               (long long)i, (double)tensors_lse(t, 0, h, i), lse);
            for (int64_t c = 0; c < t->full.head_dim_v; c++) {
                double want = share * out_a[at + c] + (1 - share) * out_b[at + c];
                double got = tensors_get(t, T_OUT, 0, h, i, c);
                if (!(fabs(got - want) <= 1e-5))
                    return failure("head %lld row %lld column %lld: %.9g, not %.9g", (long long)h,
                                   (long long)i, (long long)c, got, want);
            }
        }
    return NULL;
}

static double largest_lse_error(const oracle *o, const tensors *t)
{
    double most = 0;
    for (int64_t i = 0; i < o->rows; i++)
        most = fmax(most, fabs(((const float *)t->lse.data)[i] - o->lse[i]));
    return most;
}

static hyperattn_params estimating(void)
{
    hyperattn_params params = params_of((way){NULL, HYPERATTN_MULTIPOLE});
    params.num_selected = 8;
    params.private_depth = 3;
    params.num_candidates = 64;
    params.cell_size = 8;
    params.far_cell_size = 32;
    return params;
}

/* A chunk of a longer text: all keys before it by MULTIPOLE, its own ones exactly. What the
 * estimate errs by is all that the whole errs by. */
START_TEST(an_estimate_merges_with_an_exact_part)
{
    enum { OWN = 300, PAST = 1500 };
    const way exact = {levels[_i], HYPERATTN_EXACT};
    const hyperattn_params params = estimating();
    hyperattn_problem p = problem_of(2, OWN, 16);
    p.seqlen_k = PAST + OWN;
    p.causal = 1;
    tensors whole = filled(&p, FILL_CLUSTERED);
    tensors past = keys_of(&whole, 0, PAST, 0), own = keys_of(&whole, PAST, PAST + OWN, 1);
    ck_good(tensors_run(&past, &params, levels[_i], 1));
    run(&own, exact);
    oracle of_past = oracle_exact(&past), all = oracle_exact(&whole);
    double error = oracle_error(&of_past, &past), lse_error = largest_lse_error(&of_past, &past);
    saved estimate = tensors_save(&past);
    merge(&past, &own, exact);
    ck_good(check_merged(&past, &estimate, &own));
    ck_assert_double_gt(error, 1e-4);
    ck_assert_double_le(oracle_error(&all, &past), 1.2 * error);
    ck_assert_double_le(largest_lse_error(&all, &past), lse_error + 1e-5);
    saved_free(&estimate);
    oracle_free(&of_past);
    oracle_free(&all);
    tensors_free(&whole);
    tensors_free(&past);
    tensors_free(&own);
}
END_TEST

/* lse and out of every row of one head; the result of keys with these scores. */
static void set_result(tensors *t, float lse, double out)
{
    for (int64_t i = 0; i < t->full.seqlen_q; i++) {
        ((float *)t->lse.data)[i] = lse;
        tensors_set_row(t, T_OUT, 0, 0, i, out);
    }
}

/* A part that saw no key counts for nothing; nor does one that lies far below; and the larger part
 * wins however far above the first it lies. */
START_TEST(merge_at_the_limits)
{
    static const struct {
        float lse, lse2;
        double out, out2, want_lse, want;
    } cases[] = {
        {3, -INFINITY, 5, 0, 3, 5},
        {-INFINITY, 3, 0, 5, 3, 5},
        {-INFINITY, -INFINITY, 0, 0, -INFINITY, 0},
        {1e4f, -1e4f, 5, 7, 1e4, 5},
        {-1e4f, 1e4f, 5, 7, 1e4, 7},
        {-20, 20, 5, 7, 20, 7},
        {1, 1, 4, 8, 1 + 0.69314718, 6},
        {0, 1.0986123f, 4, 8, 1.3862944, 7},
        {1e30f, 1e30f, 4, 8, 1e30, 6},
    };
    hyperattn_problem p = problem_of(1, 19, 17);
    tensors t = tensors_new(&p, AT_END), part = tensors_new(&p, AT_END);
    for (int s = 0; s < COUNT(cases); s++) {
        set_result(&t, cases[s].lse, cases[s].out);
        set_result(&part, cases[s].lse2, cases[s].out2);
        merge(&t, &part, way_of(_i));
        for (int64_t i = 0; i < 19; i++) {
            double lse = (double)tensors_lse(&t, 0, 0, i), want = cases[s].want_lse;
            ck_assert_msg(lse == want || fabs(lse - want) <= 1e-6 * (1 + fabs(want)),
                          "case %d: lse is %.9g, not %.9g", s, lse, want);
            for (int64_t c = 0; c < 17; c++)
                ck_assert_double_eq_tol(tensors_get(&t, T_OUT, 0, 0, i, c), cases[s].want, 1e-5);
        }
    }
    tensors_free(&t);
    tensors_free(&part);
}
END_TEST

int main(void)
{
    int nlevels = topic_levels(), nways = 2 * nlevels;
    TCase *topic = topic_begin("exact_laws");
    tcase_add_loop_test(topic, values_of_one_give_one, 0, nways);
    tcase_add_loop_test(topic, keys_may_be_permuted, 0, nways);
    tcase_add_loop_test(topic, out_lies_within_the_values, 0, nways);
    tcase_add_loop_test(topic, huge_scores_stay_finite, 0, nways);
    tcase_add_loop_test(topic, causal_rows_ignore_later_keys, 0, nways);
    tcase_add_loop_test(topic, nan_in_a_query_row_stays_there, 0, nways);
    tcase_add_loop_test(topic, bad_keys_reach_the_rows_that_see_them, 0, nways);
    tcase_add_loop_test(topic, bad_values_reach_the_rows_that_see_them, 0, nways);
    tcase_add_loop_test(topic, merged_halves_are_the_whole, 0, nways);
    tcase_add_loop_test(topic, merge_is_associative, 0, nways);
    tcase_add_loop_test(topic, an_estimate_merges_with_an_exact_part, 0, nlevels);
    tcase_add_loop_test(topic, merge_at_the_limits, 0, nways);
    return topic_end();
}
