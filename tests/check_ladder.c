/* SPDX-License-Identifier: Apache-2.0
 *
 * target_error before a call: which params are refused, what the ladder of a plan is, and how a
 * head goes up it.
 */
#include <math.h>
#include <string.h>

#include "algo/ladder.h"
#include "checkmain.h"
#include "choose_cases.h"
#include "refusal.h"

/* ---- params ---------------------------------------------------------------------------------- */

static void begin(fixture *f)
{
    ck_good(fixture_begin(f));
    f->params.method = HYPERATTN_AUTO;
    f->params.target_error = 0.05f;
}

START_TEST(a_target_is_between_0_and_1)
{
    static const float bad[] = {-1e-30f, -1, 1.0001f, 1e30f, NAN, INFINITY, -INFINITY};
    fixture f;
    begin(&f);
    for (int method = HYPERATTN_AUTO; method <= HYPERATTN_MULTIPOLE; method++) {
        f.params.method = (hyperattn_method)method;
        for (int i = 0; i < COUNT(bad); i++) {
            char text[64];
            f.params.target_error = bad[i];
            snprintf(text, sizeof text, "target_error is %g,", (double)bad[i]);
            ck_good_at(refuses(&f, HYPERATTN_EINVAL, text), "method %d", method);
        }
        f.params.target_error = 1;
        ck_good(accepts(&f));
        f.params.target_error = 1e-30f;
        ck_good(accepts(&f));
    }
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(auto_chooses_budget_and_private_keys)
{
    fixture f;
    begin(&f);
    f.params.budget = 710;
    ck_good(refuses_value(&f, "budget", 710));
    f.params.budget = 0;
    f.params.private_depth = -1;
    ck_good(refuses(&f, HYPERATTN_EINVAL, "private_depth is -1"));
    f.params.private_depth = 0;
    f.params.leaf_size = 64;
    ck_good(refuses_value(&f, "leaf_size", 64));
    f.params.leaf_size = 0;
    f.params.block_size = 0;
    ck_good(refuses_value(&f, "block_size", 0));
    f.params.block_size = 256;
    f.params.kappa_cap = 2;
    ck_good(refuses(&f, HYPERATTN_ENOTSUP, "kappa_cap is 2"));
    f.params.target_error = 0; /* nothing of these is read then */
    f.params.budget = -1;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(auto_has_no_mask)
{
    static const int64_t rows[] = {0, 1}, blocks[] = {0};
    hyperattn_block_mask mask;
    fixture f;
    begin(&f);
    hyperattn_block_mask_init(&mask);
    mask.query_block = mask.key_block = 64;
    mask.row_start = rows;
    mask.key_blocks = blocks;
    f.params.block_mask = &mask;
    ck_good(refuses(&f, HYPERATTN_ENOTSUP, "block_mask"));
    f.params.method = HYPERATTN_HYPER;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

/* A struct that ends before target_error is one without it. */
START_TEST(an_earlier_struct_has_no_target)
{
    fixture f;
    begin(&f);
    f.params.target_error = NAN;
    f.params.struct_size = offsetof(hyperattn_params, target_error);
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- ladders --------------------------------------------------------------------------------- */

/* Of a method at a length long enough to choose: EXACT the last and nowhere else, no step twice,
 * none with a target. */
START_TEST(ladders)
{
    const hyperattn_method method = (hyperattn_method)_i;
    const hyperattn_problem p = causal_problem(4, 2, 32768, 64);
    const hyperattn_params params = params_with(method, 0.05f);
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    hyperattn_plan *plan, *one;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    int n = hyperattn_plan_steps(plan);
    ck_assert_int_eq(hyperattn_plan_method(plan), method);
    ck_assert(method == HYPERATTN_EXACT ? n == 1 : n >= 3 && n <= HA_MAX_STEPS);
    for (int i = 0; i < n; i++) {
        const hyperattn_params step = step_of(plan, i);
        ck_assert_int_eq(step.method == HYPERATTN_EXACT, i == n - 1);
        ck_assert(method == HYPERATTN_AUTO || i == n - 1 || step.method == method);
        ck_assert(step.target_error == 0);
        for (int j = 0; j < i; j++) {
            const hyperattn_params other = step_of(plan, j);
            ck_assert(memcmp(&step, &other, sizeof step) != 0);
        }
        ck_ok(hyperattn_plan_create(&one, ctx, &p, &step));
        ck_assert_int_eq(hyperattn_plan_method(one), step.method);
        hyperattn_plan_destroy(one);
    }
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* Each step of a method has twice the budget of the one before, from what is given. */
START_TEST(budgets_double)
{
    const hyperattn_problem p = causal_problem(1, 1, 131072, 64);
    hyperattn_params params = params_with(HYPERATTN_HYPER, 0.05f);
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    hyperattn_plan *plan;
    params.block_size = 100;
    params.sample_size = 30;
    params.window = 7;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    for (int i = 0; i < hyperattn_plan_steps(plan) - 1; i++) {
        const hyperattn_params step = step_of(plan, i);
        ck_assert_int_eq(step.block_size, 100 << i);
        ck_assert_int_eq(step.sample_size, 30 << i);
        ck_assert_int_eq(step.window, 7);
    }
    hyperattn_plan_destroy(plan);
    params = params_with(HYPERATTN_MULTIPOLE, 0.05f);
    params.budget = 500;
    params.num_selected = 17;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    for (int i = 0; i < hyperattn_plan_steps(plan) - 1; i++) {
        const hyperattn_params step = step_of(plan, i);
        ck_assert_int_eq(step.budget, 500 << i);
        ck_assert_int_eq(step.num_selected, 17);
    }
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* What has no budget to raise is one step. */
START_TEST(budgets_that_are_none)
{
    static const int64_t rows[] = {0, 1}, blocks[] = {0};
    const hyperattn_problem p = causal_problem(1, 1, 131072, 64);
    hyperattn_params params = params_with(HYPERATTN_HYPER, 0.05f);
    hyperattn_block_mask mask;
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    hyperattn_plan *plan;
    hyperattn_block_mask_init(&mask);
    mask.query_block = mask.key_block = 131072;
    mask.row_start = rows;
    mask.key_blocks = blocks;
    params.block_mask = &mask;
    for (int samples = 0; samples < 2; samples++) {
        params.sample_size = 10 * samples;
        ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
        ck_assert(samples ? hyperattn_plan_steps(plan) > 2 : hyperattn_plan_steps(plan) == 2);
        for (int i = 0; i < hyperattn_plan_steps(plan) - 1; i++) {
            const hyperattn_params step = step_of(plan, i);
            ck_assert_int_eq(step.block_size, params.block_size);
            ck_assert_int_eq(step.sample_size, params.sample_size << i);
            ck_assert_ptr_ne(step.block_mask, &mask); /* a copy */
            ck_assert_int_eq(step.block_mask->query_block, 131072);
        }
        hyperattn_plan_destroy(plan);
    }
    params = params_with(HYPERATTN_MULTIPOLE, 0.05f);
    params.budget = 1000000;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    ck_assert_int_eq(hyperattn_plan_steps(plan), 1); /* dearer than EXACT */
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

static void has_one_step(hyperattn_ctx *ctx, const hyperattn_problem *p,
                         const hyperattn_params *params)
{
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, p, params));
    ck_assert_int_eq(hyperattn_plan_steps(plan), 1);
    ck_assert_int_eq(hyperattn_plan_method(plan), HYPERATTN_EXACT);
    ck_assert_int_eq(step_of(plan, 0).method, HYPERATTN_EXACT);
    hyperattn_plan_destroy(plan);
}

/* Short sequences, few rows, no target; and with strict_causal, where the choice may not look at
 * rows. */
START_TEST(where_there_is_no_choice)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    hyperattn_params params = params_with(HYPERATTN_AUTO, 0.05f);
    hyperattn_problem p = causal_problem(2, 1, 500, 32);
    has_one_step(ctx, &p, &params);
    p.seqlen_q = 1;
    p.seqlen_k = 32768;
    has_one_step(ctx, &p, &params);
    p.seqlen_q = 32768;
    params.strict_causal = 1;
    has_one_step(ctx, &p, &params);
    params.strict_causal = 0;
    params.target_error = 0;
    has_one_step(ctx, &p, &params);
    params = params_with(HYPERATTN_HYPER, 0.05f);
    params.strict_causal = 1;
    hyperattn_plan *plan;
    ck_assert_int_eq(hyperattn_plan_create(&plan, ctx, &p, &params), HYPERATTN_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "strict_causal"));
    hyperattn_ctx_destroy(ctx);
}
END_TEST

START_TEST(steps_that_are_not_there)
{
    const hyperattn_problem p = causal_problem(1, 1, 64, 8);
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0);
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    hyperattn_plan *plan;
    hyperattn_params got;
    hyperattn_params_init(&got);
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    ck_assert_int_eq(hyperattn_plan_steps(NULL), 0);
    ck_assert_int_eq(hyperattn_plan_step(NULL, 0, &got), HYPERATTN_EINVAL);
    ck_assert_int_eq(hyperattn_plan_step(plan, 0, NULL), HYPERATTN_EINVAL);
    ck_assert_int_eq(hyperattn_plan_step(plan, -1, &got), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "step is -1"));
    ck_assert_int_eq(hyperattn_plan_step(plan, 1, &got), HYPERATTN_EINVAL);
    ck_assert_int_eq(step_of(plan, 0).method, HYPERATTN_HYPER);
    got.struct_size = sizeof got + 8;
    ck_assert_int_eq(hyperattn_plan_step(plan, 0, &got), HYPERATTN_EVERSION);
    got.struct_size = offsetof(hyperattn_params, heavy); /* and nothing behind is written */
    got.heavy = (hyperattn_heavy)77;
    ck_ok(hyperattn_plan_step(plan, 0, &got));
    ck_assert_int_eq(got.method, HYPERATTN_HYPER);
    ck_assert_int_eq((int)got.heavy, 77);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* Of the many allocations of a plan with a ladder, none is left where one fails. */
START_TEST(failing_allocations)
{
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.1f);
    static const int64_t cu[] = {0, 9000, 9100};
    fixture f;
    begin(&f);
    f.problem = causal_problem(4, 2, 9000, 16);
    f.problem.batch = 2;
    f.problem.cu_seqlens_q = f.problem.cu_seqlens_k = cu;
    hyperattn_status status = HYPERATTN_ENOMEM;
    int failures = 0;
    for (int64_t n = 1; status; n++) {
        hyperattn_plan *plan;
        f.memory.calls = 0;
        f.memory.fail_at = n;
        status = hyperattn_plan_create(&plan, f.ctx, &f.problem, &params);
        f.memory.fail_at = 0;
        failures += status == HYPERATTN_ENOMEM;
        ck_assert(status == HYPERATTN_OK || status == HYPERATTN_ENOMEM);
        ck_assert_int_eq(hyperattn_plan_steps(plan) > 1, status == HYPERATTN_OK);
        hyperattn_plan_destroy(plan);
    }
    ck_assert_int_gt(failures, 20);
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- decisions ------------------------------------------------------------------------------- */

static ha_ladder ladder_of(hyperattn_method method, float target, int64_t n)
{
    const hyperattn_problem p = causal_problem(1, 1, n, 64);
    hyperattn_problem full = p;
    const hyperattn_params params = params_with(method, target);
    ha_ladder ladder;
    full.seqlen_k = n;
    ha_ladder_build(&ladder, &params, &full);
    return ladder;
}

START_TEST(going_up)
{
    const ha_ladder ladder = ladder_of(HYPERATTN_AUTO, 0.03f, 32768);
    int last = ladder.nsteps - 1;
    for (int from = 0; from < last; from++) {
        for (double error = 0.03; error < 10; error *= 1.5) {
            int next = ha_ladder_next(&ladder, from, error, 32768, 32768);
            ck_assert(next > from && next <= last);
        }
        ck_assert_int_eq(ha_ladder_next(&ladder, from, NAN, 32768, 32768), last);
        ck_assert_int_eq(ha_ladder_next(&ladder, from, INFINITY, 32768, 32768), last);
    }
    for (int i = 1; i <= last; i++)
        ck_assert(ladder.step[i].cost >= ladder.step[i - 1].cost);
    ck_assert(ha_ladder_next(&ladder, -1, 0, 32768, 32768) < last);
    /* short or hopeless heads begin with EXACT */
    ck_assert_int_eq(ha_ladder_next(&ladder, -1, 0, 300, 300), last);
    ck_assert_int_eq(ha_ladder_next(&ladder, -1, 0, 8, 32768), last);
    ck_assert_int_eq(ha_ladder_next(&ladder, -1, 0, 0, 0), last);
    const ha_ladder strict = ladder_of(HYPERATTN_AUTO, 1e-6f, 32768);
    ck_assert_int_eq(ha_ladder_next(&strict, -1, 0, 32768, 32768), strict.nsteps - 1);
    const ha_ladder loose = ladder_of(HYPERATTN_AUTO, 1, 32768);
    ck_assert_int_eq(ha_ladder_next(&loose, -1, 0, 32768, 32768), 0);
}
END_TEST

/* The last rows tell where a head begins: the larger their error, the higher. */
START_TEST(beginning)
{
    const int64_t n = 32768;
    const ha_ladder ladder = ladder_of(HYPERATTN_AUTO, 0.03f, n);
    int last = ladder.nsteps - 1, before = 0;
    ck_assert_int_eq(ladder.step[ladder.probe].params.method, HYPERATTN_MULTIPOLE);
    ck_assert(ha_ladder_probes(&ladder, n, n));
    ck_assert_int_eq(ha_ladder_begin(&ladder, 0, n, n), 0);
    for (double error = 0.001; error < 10; error *= 1.1) {
        int first = ha_ladder_begin(&ladder, error, n, n);
        ck_assert(first >= before && first <= last);
        before = first;
    }
    ck_assert_int_eq(before, last);
    ck_assert_int_eq(ha_ladder_begin(&ladder, NAN, n, n), last);
    ck_assert_int_eq(ha_ladder_begin(&ladder, INFINITY, n, n), last);
    /* a head of half the target stays at the step that it was tried with, one above does not */
    ck_assert_int_le(ha_ladder_begin(&ladder, 0.015, n, n), ladder.probe);
    ck_assert_int_gt(ha_ladder_begin(&ladder, 0.06, n, n), ladder.probe);
}
END_TEST

/* Where trying the last rows costs as much as trying all, or can tell nothing. */
START_TEST(no_probe)
{
    const ha_ladder ladder = ladder_of(HYPERATTN_AUTO, 0.1f, 32768);
    ck_assert(ha_ladder_probes(&ladder, 8192, 8192));
    ck_assert(!ha_ladder_probes(&ladder, 4095, 4095));
    const ha_ladder strict = ladder_of(HYPERATTN_AUTO, 1e-6f, 32768);
    ck_assert(!ha_ladder_probes(&strict, 32768, 32768));
    const ha_ladder hyper = ladder_of(HYPERATTN_HYPER, 0.1f, 32768);
    ck_assert_int_eq(hyper.probe, -1);
    ck_assert(!ha_ladder_probes(&hyper, 32768, 32768));
    const ha_ladder fixed = ladder_of(HYPERATTN_MULTIPOLE, 0, 32768);
    ck_assert_int_eq(fixed.probe, -1);
}
END_TEST

/* Whether rows of these errors are good enough for the last step before EXACT. */
static int meets(const ha_trial *t, hyperattn_method method, float target)
{
    const ha_ladder ladder = ladder_of(method, target, 131072);
    return ha_trial_meets(t, &ladder, ladder.nsteps - 2);
}

/* Strips of 3 and 2 rows, by hand. The square of the error is 19 / 1050, and its deviation
 * the root of 2.43^2 + 9.29^2 + 6.86^2, 11.8, over 1050. */
START_TEST(trials)
{
    double diff[] = {1, 4, 2}, norm[] = {100, 50, 300};
    const ha_trial t = {diff, norm, 3, 8};
    ck_assert_double_eq_tol(ha_trial_error(&t), sqrt(19 / 1050.), 1e-15);
    ck_assert(!meets(&t, HYPERATTN_MULTIPOLE, 0.130f)); /* the error is .1345 */
    ck_assert(!meets(&t, HYPERATTN_MULTIPOLE, 0.200f)); /* with two deviations it is .2014 */
    ck_assert(meets(&t, HYPERATTN_MULTIPOLE, 0.203f));
    ck_assert(!meets(&t, HYPERATTN_HYPER, 0.250f)); /* and with four .2511 */
    ck_assert(meets(&t, HYPERATTN_HYPER, 0.252f));
    diff[1] = NAN;
    ck_assert(isnan(ha_trial_error(&t)) && !meets(&t, HYPERATTN_MULTIPOLE, 1));
    diff[1] = INFINITY;
    ck_assert(isnan(ha_trial_error(&t)) && !meets(&t, HYPERATTN_MULTIPOLE, 1));
    diff[0] = diff[1] = diff[2] = norm[0] = norm[1] = norm[2] = 0;
    ck_assert(ha_trial_error(&t) == 0 && meets(&t, HYPERATTN_MULTIPOLE, 1e-3f));
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("ladder");
    tcase_add_test(topic, a_target_is_between_0_and_1);
    tcase_add_test(topic, auto_chooses_budget_and_private_keys);
    tcase_add_test(topic, auto_has_no_mask);
    tcase_add_test(topic, an_earlier_struct_has_no_target);
    tcase_add_loop_test(topic, ladders, HYPERATTN_AUTO, HYPERATTN_MULTIPOLE + 1);
    tcase_add_test(topic, budgets_double);
    tcase_add_test(topic, budgets_that_are_none);
    tcase_add_test(topic, where_there_is_no_choice);
    tcase_add_test(topic, steps_that_are_not_there);
    tcase_add_test(topic, failing_allocations);
    tcase_add_test(topic, going_up);
    tcase_add_test(topic, beginning);
    tcase_add_test(topic, no_probe);
    tcase_add_test(topic, trials);
    return topic_end();
}
