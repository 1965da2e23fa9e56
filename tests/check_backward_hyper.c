/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of HyperAttention against those of the same algorithm in float64, with the same hashes,
 * samples and weights (hyper_oracle.h, grad_oracle.h): of what forward gave, to rounding. Each test
 * runs once per level.
 */
#include <string.h>

#include "checkmain.h"
#include "grad_oracle.h"
#include "hyper_cases.h"

/* bf16 products round what they multiply; all other arithmetic is f32. */
static grad_rule rule_of(hyperattn_dtype dtype, const char *level)
{
    return dtype == HYPERATTN_BF16 && strstr(level, "bf16") ? GRAD_PLAIN : GRAD_F32;
}

/* Forward, then backward from its out and lse. */
static const char *run_both(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params)
{
    const char *why = tensors_forward(t, ctx, params);
    tensors_fill_dout(t, 8);
    return why ? why : tensors_backward(t, ctx, params);
}

static const char *compare(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params,
                           const pattern *p)
{
    const char *why = run_both(t, ctx, params);
    if (why)
        return why;
    grad_rule rule = rule_of(t->full.dtype, hyperattn_ctx_isa(ctx));
    grad_oracle g = grad_oracle_of(t, p, NULL);
    if (rule == GRAD_PLAIN)
        grad_oracle_plain(&g, t, p);
    why = grad_compare(&g, t, rule, 1);
    grad_oracle_free(&g);
    return why;
}

static const char *check_problem(const hyperattn_problem *problem, const hyperattn_params *params,
                                 const char *level, int nthreads, hyper_counts *counts)
{
    hyperattn_plan *plan;
    hyperattn_ctx *ctx = ctx_at(level, nthreads);
    if (!ctx || hyperattn_plan_create(&plan, ctx, problem, params) != HYPERATTN_OK)
        return failure("no plan: %s", hyperattn_last_error());
    tensors t = tensors_new(problem, AT_END);
    pattern p;
    oracle o;
    const char *why = hyper_fill_clearly(&t, plan, &p, &o, counts);
    if (!why)
        why = compare(&t, ctx, params, &p);
    oracle_free(&o);
    pattern_free(&p);
    tensors_free(&t);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    return why;
}

static void run_case(const hyper_case *c, int nthreads, const char *level, hyper_counts *counts)
{
    hyper_subject s;
    hyper_subject_init(&s, c);
    ck_good_at(check_problem(&s.problem, &s.params, level, nthreads, counts), "%s: %s", level,
               c->name);
    ck_good_at(hyper_check_counts(c, counts), "%s: %s", level, c->name);
}

static void run_cases(const hyper_cases *group, const char *level)
{
    for (int c = 0; c < group->n; c += emulated() ? 3 : 1) {
        hyper_counts counts;
        run_case(&group->cases[c], 1, level, &counts);
    }
}

START_TEST(unmasked_gradients_are_the_algorithms)
{
    run_cases(&cases_unmasked, levels[_i]);
}
END_TEST

START_TEST(causal_gradients_are_the_algorithms)
{
    run_cases(&cases_causal, levels[_i]);
}
END_TEST

START_TEST(a_block_mask_replaces_the_hash)
{
    run_cases(&cases_masked, levels[_i]);
}
END_TEST

/* Gradients pass through the cap to the exact entries, and not through a raised sum. */
START_TEST(gradients_know_the_cap_and_the_floor)
{
    int64_t lowered = 0, raised = 0, both = 0;
    for (int c = 0; c < cases_capped.n; c++) {
        hyper_counts counts;
        run_case(&cases_capped.cases[c], 1, levels[_i], &counts);
        lowered += counts.capped > 0;
        raised += counts.floored > 0;
        both += counts.capped > 0 && counts.floored > 0;
    }
    ck_assert_int_ge(lowered, 4);
    ck_assert_int_ge(raised, 4);
    ck_assert_int_ge(both, 1);
}
END_TEST

START_TEST(sixteen_bit_gradients_are_the_algorithms)
{
    run_cases(&cases_halves, levels[_i]);
}
END_TEST

/* ---- batches, groups and layouts ------------------------------------------------------------- */

START_TEST(ragged_batches)
{
    static const int64_t cu_q[] = {0, 160, 160, 161, 391, 411};
    static const int64_t cu_k[] = {0, 141, 150, 151, 381, 381};
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int sampling = HYPERATTN_SAMPLING_UNIFORM; sampling <= HYPERATTN_SAMPLING_VNORM;
             sampling++) {
            const hyper_case c = {"", 230, 230, 4, 2, 16, 16, .causal = is_causal, .sinks = 3,
                                  .sampling = (hyperattn_sampling)sampling};
            hyper_subject s;
            hyper_counts counts;
            hyper_subject_init(&s, &c);
            s.problem.batch = COUNT(cu_q) - 1;
            s.problem.cu_seqlens_q = cu_q;
            s.problem.cu_seqlens_k = cu_k;
            ck_good_at(check_problem(&s.problem, &s.params, levels[_i], 2, &counts),
                       "causal %d, sampling %d", is_causal, sampling);
            ck_assert_int_gt(counts.weighted, 0);
        }
}
END_TEST

/* Every sequence and head has its own samples, and every key head its own directions; several
 * threads have several key heads in flight. */
START_TEST(batches)
{
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int kappa = 0; kappa < 8; kappa += 7) {
            const hyper_case c = {"", 140, 140, 4, 2, 16, 16, .causal = is_causal,
                                  .kappa = (float)kappa};
            hyper_subject s;
            hyper_counts counts;
            hyper_subject_init(&s, &c);
            s.problem.batch = 3;
            ck_good_at(check_problem(&s.problem, &s.params, levels[_i], 2, &counts),
                       "causal %d, kappa %d", is_causal, kappa);
            ck_assert_int_gt(counts.weighted, 0);
        }
}
END_TEST

/* [batch, row, head, dim], and rows with gaps. */
START_TEST(strided_tensors)
{
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int gap = 0; gap < 8; gap += 7) {
            const hyper_case c = {"", 140, 140, 4, 2, 16, 20, .causal = is_causal};
            hyper_subject s;
            hyper_counts counts;
            hyper_subject_init(&s, &c);
            const int64_t row_q = 4 * 16 + gap, row_k = 2 * 16 + gap, row_v = 2 * 20 + gap;
            const int64_t row_out = 4 * 20 + gap;
            const int64_t q[] = {140 * row_q, 16, row_q}, k[] = {140 * row_k, 16, row_k};
            const int64_t v[] = {140 * row_v, 20, row_v}, out[] = {140 * row_out, 20, row_out};
            memcpy(s.problem.q_stride, q, sizeof q);
            memcpy(s.problem.k_stride, k, sizeof k);
            memcpy(s.problem.v_stride, v, sizeof v);
            memcpy(s.problem.out_stride, out, sizeof out);
            s.problem.batch = 2;
            ck_good_at(check_problem(&s.problem, &s.params, levels[_i], 1, &counts),
                       "causal %d, gap %d", is_causal, gap);
        }
}
END_TEST

/* So many tasks that their slots are used again, and runs longer than a task. */
START_TEST(many_tasks)
{
    static const hyper_case cases[] = {
        {"a row each", 800, 700, 2, 1, 4, 5, .heavy = HYPERATTN_HEAVY_NONE, .block = 1,
         .sample = 60},
        {"many small blocks, causal", 2100, 2100, 2, 1, 4, 5, .causal = 1, .block = 8,
         .window = 3},
        {"one long run", 1500, 1500, 1, 1, 8, 8, .sample = 600, .heavy = HYPERATTN_HEAVY_NONE,
         .block = 1500},
        {"long blocks", 2600, 2600, 2, 1, 4, 4, .block = 1300, .sample = 30},
    };
    for (int s = 0; s < COUNT(cases); s++) {
        hyper_counts counts;
        if (!emulated() || s == 2)
            run_case(&cases[s], 1 + s % 3, levels[_i], &counts);
    }
}
END_TEST

int main(void)
{
    int n = topic_levels();
    if (emulated())
        puts("reduced: every third case, 1 of 4 with many tasks");
    TCase *topic = topic_begin("backward_hyper");
    tcase_add_loop_test(topic, unmasked_gradients_are_the_algorithms, 0, n);
    tcase_add_loop_test(topic, causal_gradients_are_the_algorithms, 0, n);
    tcase_add_loop_test(topic, a_block_mask_replaces_the_hash, 0, n);
    tcase_add_loop_test(topic, gradients_know_the_cap_and_the_floor, 0, n);
    tcase_add_loop_test(topic, sixteen_bit_gradients_are_the_algorithms, 0, n);
    tcase_add_loop_test(topic, ragged_batches, 0, n);
    tcase_add_loop_test(topic, batches, 0, n);
    tcase_add_loop_test(topic, strided_tensors, 0, n);
    tcase_add_loop_test(topic, many_tasks, 0, n);
    return topic_end();
}
