/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes at their ends: workspaces that grow with the problem and not with what it might have been,
 * sample counts up to the largest int, and sums over a million keys.
 */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

static hyperattn_params hyper_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    return params;
}

/* ---- workspaces ------------------------------------------------------------------------------ */

static size_t backward_workspace(const hyperattn_problem *p, const hyperattn_params *params,
                                 const char *level)
{
    hyperattn_ctx *ctx = ctx_at(level, 2);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, p, params));
    size_t bytes = hyperattn_plan_workspace(plan, 1);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    return bytes;
}

/* Was 27 MB, whatever the length. */
START_TEST(backward_of_a_short_sequence_is_small)
{
    for (int causal = 0; causal < 2; causal++)
        for (int capped = 0; capped < 2; capped++) {
            hyperattn_problem p = problem_of(1, 64, 64);
            hyperattn_params params = hyper_params();
            p.causal = causal;
            params.kappa_cap = capped ? 4 : 0;
            size_t bytes = backward_workspace(&p, &params, levels[_i]);
            ck_assert_msg(bytes < (size_t)4 << 20, "%s: %zu bytes, causal %d, capped %d",
                          levels[_i], bytes, causal, capped);
        }
}
END_TEST

/* Was 27 GB. Three rows are worth one thread; it holds some packs of a full block of rows or keys
 * each, whatever the length: four of rows and three of keys, and half of one for gradients. */
START_TEST(backward_of_three_huge_rows_is_bounded)
{
    enum { DIM = 65536, PACKS = 8, PACK_ROWS = 640 };
    hyperattn_problem p = problem_of(1, 3, DIM);
    hyperattn_params params = hyper_params();
    size_t bytes = backward_workspace(&p, &params, levels[_i]);
    ck_assert_msg(bytes < (size_t)PACKS * PACK_ROWS * DIM * sizeof(float), "%s: %zu bytes",
                  levels[_i], bytes);
}
END_TEST

/* ---- more samples than keys ------------------------------------------------------------------ */

static const char *run_both(tensors *t, const hyperattn_params *params, const char *level)
{
    const char *why = tensors_run(t, params, level, 2);
    return why ? why : tensors_run_backward(t, params, level, 2);
}

START_TEST(samples_beyond_the_keys_change_nothing)
{
    enum { N = 300 };
    static const int sample_sizes[] = {N + 1, 10 * N, INT_MAX - 63, INT_MAX};
    for (int causal = 0; causal < 2; causal++)
        for (int capped = 0; capped < 2; capped++) {
            hyperattn_problem p = problem_of(2, N, 16);
            hyperattn_params params = hyper_params();
            p.causal = causal;
            params.kappa_cap = capped ? 4 : 0;
            params.block_size = 32;
            params.min_seq_len = 80;
            params.sample_size = N;
            tensors t = tensors_new(&p, AT_END);
            tensors_fill(&t, FILL_CLUSTERED, 3);
            tensors_fill_dout(&t, 3);
            ck_good(run_both(&t, &params, levels[_i]));
            saved want = tensors_save(&t);
            for (int s = 0; s < COUNT(sample_sizes); s++) {
                params.sample_size = sample_sizes[s];
                const char *why = run_both(&t, &params, levels[_i]);
                why = why ? why : tensors_same_bits(&t, &want, N);
                why = why ? why : tensors_same_gradients(&t, &want, N, N);
                ck_good_at(why, "%s: %d samples, causal %d, capped %d", levels[_i],
                           sample_sizes[s], causal, capped);
            }
            saved_free(&want);
            tensors_free(&t);
        }
}
END_TEST

/* ---- long sums ------------------------------------------------------------------------------- */

/* Equal terms round in the same direction, so that errors add up. The plain specification sums the
 * keys of a range or segment one after the other; the other levels some hundred at most. */
static double most_error(const char *level)
{
    return strcmp(level, "ref") == 0 ? 1e-4 : 1e-5;
}

/* Rows of weights that are all alike but for the first key's, and values that are all alike in a
 * column: out must be that value, and lse is known. Sums over a million of either once erred by
 * 1.5e-4. */
static const char *check_sums(int64_t nq, int64_t nk, int causal, const char *level)
{
    static const double value[] = {0.1, -0.7, 1.3};
    hyperattn_problem p = problem_of(1, nq, 2);
    p.seqlen_k = nk;
    p.head_dim_v = COUNT(value);
    p.causal = causal;
    p.softmax_scale = 1;
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    tensors t = tensors_new(&p, AT_END);
    for (int64_t i = 0; i < nq; i++)
        tensors_put(&t, T_Q, 0, 0, i, 0, 1);
    tensors_put(&t, T_K, 0, 0, 0, 0, 0.5);
    for (int64_t j = 0; j < nk; j++)
        for (int c = 0; c < COUNT(value); c++)
            tensors_put(&t, T_V, 0, 0, j, c, value[c]);
    const char *why = tensors_run(&t, &params, level, 2);
    for (int64_t i = 0; i < nq && !why; i++) {
        double keys = (double)(causal ? i + 1 + nk - nq : nk);
        double lse = log(exp(0.5) + keys - 1), got = (double)tensors_lse(&t, 0, 0, i);
        if (!(fabs(got - lse) <= 1e-6 * lse))
            why = failure("lse of row %lld is %.9g, not %.9g", (long long)i, got, lse);
        for (int c = 0; c < COUNT(value) && !why; c++) {
            double want = (double)(float)value[c], out = tensors_get(&t, T_OUT, 0, 0, i, c);
            if (!(fabs(out - want) <= most_error(level) * fabs(want)))
                why = failure("out of row %lld is %.9g, not %.9g", (long long)i, out, want);
        }
    }
    tensors_free(&t);
    return why;
}

static const char *best_level(void)
{
    static const char *names[8];
    return names[levels_here(names, COUNT(names)) - 1];
}

START_TEST(a_million_equal_weights)
{
    int64_t nk = emulated() ? 1 << 17 : 1000000;
    for (int causal = 0; causal < 2; causal++)
        ck_good_at(check_sums(3, nk, causal, levels[_i]), "%s, causal %d", levels[_i], causal);
}
END_TEST

START_TEST(a_million_equal_weights_of_many_rows)
{
    ck_good(check_sums(emulated() ? 257 : 300, emulated() ? 40000 : 1000000, 1, best_level()));
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: 131072 and 40000 keys of 1000000");
    int nlevels = topic_levels();
    TCase *topic = topic_begin("sizes");
    tcase_add_loop_test(topic, backward_of_a_short_sequence_is_small, 0, nlevels);
    tcase_add_loop_test(topic, backward_of_three_huge_rows_is_bounded, 0, nlevels);
    tcase_add_loop_test(topic, samples_beyond_the_keys_change_nothing, 0, nlevels);
    tcase_add_loop_test(topic, a_million_equal_weights, 0, nlevels);
    tcase_add_test(topic, a_million_equal_weights_of_many_rows);
    return topic_end();
}
