/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention against the same algorithm in float64, with the same hashes and samples
 * (hyper_oracle.h): whatever was sampled, out and lse are what the algorithm says, to rounding.
 * Each test runs once per level.
 */
#include "checkmain.h"
#include "hyper_cases.h"

static const char *compare(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params,
                           hyper_counts *counts)
{
    hyperattn_plan *plan;
    if (!ctx || hyperattn_plan_create(&plan, ctx, &t->problem, params) != HYPERATTN_OK)
        return failure("no plan: %s", hyperattn_last_error());
    oracle o;
    pattern p;
    const char *why = hyper_fill_clearly(t, plan, &p, &o, counts);
    if (!why)
        why = tensors_forward(t, ctx, params);
    if (!why)
        why = oracle_compare(&o, t, 1);
    oracle_free(&o);
    pattern_free(&p);
    hyperattn_plan_destroy(plan);
    return why;
}

static const char *run_case(const hyper_case *c, const char *level, hyper_counts *counts)
{
    hyper_subject s;
    hyper_subject_init(&s, c);
    tensors t = tensors_new(&s.problem, AT_END);
    hyperattn_ctx *ctx = ctx_at(level, 1);
    const char *why = compare(&t, ctx, &s.params, counts);
    hyperattn_ctx_destroy(ctx);
    tensors_free(&t);
    return why ? why : hyper_check_counts(c, counts);
}

static void run_cases(const hyper_cases *group, const char *level)
{
    for (int c = 0; c < group->n; c++) {
        hyper_counts counts;
        ck_good_at(run_case(&group->cases[c], level, &counts), "%s: %s", level,
                   group->cases[c].name);
    }
}

START_TEST(unmasked_attention_is_the_algorithm)
{
    run_cases(&cases_unmasked, levels[_i]);
}
END_TEST

START_TEST(causal_attention_is_the_algorithm)
{
    run_cases(&cases_causal, levels[_i]);
}
END_TEST

START_TEST(a_block_mask_replaces_the_hash)
{
    run_cases(&cases_masked, levels[_i]);
}
END_TEST

/* Small kappas raise row sums, large ones lower entries. */
START_TEST(kappa_caps_entries_and_sums)
{
    int64_t lowered = 0, raised = 0;
    for (int c = 0; c < cases_capped.n; c++) {
        hyper_counts counts;
        ck_good_at(run_case(&cases_capped.cases[c], levels[_i], &counts), "%s: %s", levels[_i],
                   cases_capped.cases[c].name);
        lowered += counts.capped > 0;
        raised += counts.floored > 0;
    }
    ck_assert_int_ge(lowered, 4);
    ck_assert_int_ge(raised, 4);
}
END_TEST

START_TEST(sixteen_bit_tensors_are_the_algorithm)
{
    run_cases(&cases_halves, levels[_i]);
}
END_TEST

/* ---- batches ------------------------------------------------------------------------------- */

START_TEST(ragged_batches_are_the_algorithm)
{
    static const int64_t cu_q[] = {0, 160, 160, 161, 391, 411};
    static const int64_t cu_k[] = {0, 141, 150, 151, 381, 381};
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int sampling = HYPERATTN_SAMPLING_UNIFORM; sampling <= HYPERATTN_SAMPLING_VNORM;
             sampling++) {
            const hyper_case c = {"", 230, 230, 4, 2, 16, 16, .causal = is_causal, .sinks = 3,
                                  .sampling = (hyperattn_sampling)sampling};
            hyper_subject s;
            hyper_subject_init(&s, &c);
            hyperattn_problem p = s.problem;
            p.batch = COUNT(cu_q) - 1;
            p.cu_seqlens_q = cu_q;
            p.cu_seqlens_k = cu_k;
            tensors t = tensors_new(&p, AT_END);
            hyperattn_ctx *ctx = ctx_at(levels[_i], 1);
            hyper_counts counts;
            ck_good_at(compare(&t, ctx, &s.params, &counts), "causal %d, sampling %d", is_causal,
                       sampling);
            ck_assert_int_gt(counts.weighted, 0);
            hyperattn_ctx_destroy(ctx);
            tensors_free(&t);
        }
}
END_TEST

/* Every sequence and head has its own samples, and every key head its own directions; several
 * threads have several key heads in flight. */
START_TEST(batches_are_the_algorithm)
{
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int kappa = 0; kappa < 8; kappa += 7) {
            const hyper_case c = {"", 140, 140, 4, 2, 16, 16, .causal = is_causal,
                                  .kappa = (float)kappa};
            hyper_subject s;
            hyper_subject_init(&s, &c);
            hyperattn_problem p = s.problem;
            p.batch = 3;
            tensors t = tensors_new(&p, AT_END);
            hyperattn_ctx *ctx = ctx_at(levels[_i], 2);
            hyper_counts counts;
            ck_good_at(compare(&t, ctx, &s.params, &counts), "causal %d, kappa %d", is_causal,
                       kappa);
            ck_assert_int_gt(counts.weighted, 0);
            hyperattn_ctx_destroy(ctx);
            tensors_free(&t);
        }
}
END_TEST

int main(void)
{
    int n = topic_levels();
    TCase *topic = topic_begin("reference");
    tcase_add_loop_test(topic, unmasked_attention_is_the_algorithm, 0, n);
    tcase_add_loop_test(topic, causal_attention_is_the_algorithm, 0, n);
    tcase_add_loop_test(topic, a_block_mask_replaces_the_hash, 0, n);
    tcase_add_loop_test(topic, kappa_caps_entries_and_sums, 0, n);
    tcase_add_loop_test(topic, sixteen_bit_tensors_are_the_algorithm, 0, n);
    tcase_add_loop_test(topic, ragged_batches_are_the_algorithm, 0, n);
    tcase_add_loop_test(topic, batches_are_the_algorithm, 0, n);
    return topic_end();
}
