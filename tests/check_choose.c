/* SPDX-License-Identifier: Apache-2.0
 *
 * target_error: which params are refused, what the ladder is, what each head gets of it, and that
 * hyperattn_forward_report and hyperattn_backward say and do the same as hyperattn_forward.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "algo/ladder.h"
#include "checkmain.h"
#include "measure_cases.h"
#include "npy.h"
#include "refusal.h"
#include "tensors.h"

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

static hyperattn_params params_with(hyperattn_method method, float target)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = method;
    params.target_error = target;
    return params;
}

static hyperattn_problem causal_problem(int64_t heads, int64_t heads_kv, int64_t n, int64_t d)
{
    hyperattn_problem p = problem_of(heads, n, d);
    p.nheads_kv = heads_kv;
    p.causal = 1;
    return p;
}

static hyperattn_params step_of(const hyperattn_plan *plan, int step)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    ck_ok(hyperattn_plan_step(plan, step, &params));
    return params;
}

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

/* With a workspace a call takes nothing from the context; it tells no more than it needs. */
START_TEST(calls_allocate_nothing)
{
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0.5f);
    const hyperattn_problem p = causal_problem(2, 1, 4200, 16);
    hyperattn_choice choice[2];
    hyperattn_plan *plan;
    fixture f;
    begin(&f);
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 2);
    tensors_fill_dout(&t, 3);
    ck_ok(hyperattn_plan_create(&plan, f.ctx, &p, &params));
    ck_assert_int_gt(hyperattn_plan_steps(plan), 1);
    guarded ws = guarded_workspace(hyperattn_plan_workspace(plan, 0));
    guarded backward = guarded_workspace(hyperattn_plan_workspace(plan, 1));
    int64_t calls = f.memory.calls;
    hyperattn_choice_init(&choice[0]);
    ck_ok(hyperattn_forward_report(plan, t.mem[T_Q].data, t.mem[T_K].data, t.mem[T_V].data,
                                   t.mem[T_OUT].data, (float *)t.lse.data, ws.data, choice));
    ck_ok(hyperattn_backward(plan, t.mem[T_Q].data, t.mem[T_K].data, t.mem[T_V].data,
                             t.mem[T_OUT].data, (float *)t.lse.data, t.mem[T_DOUT].data,
                             t.mem[T_DQ].data, t.mem[T_DK].data, t.mem[T_DV].data,
                             backward.data));
    ck_assert_int_eq(f.memory.calls, calls);
    ck_good(guarded_check(&ws));
    ck_good(guarded_check(&backward));
    guarded_free(&ws);
    guarded_free(&backward);
    hyperattn_plan_destroy(plan);
    tensors_free(&t);
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

/* ---- heads ----------------------------------------------------------------------------------- */

enum { MOST_HEADS = 12 };

typedef struct choices {
    hyperattn_choice head[MOST_HEADS];
} choices;

/* A text that stays with one of 32 topics for a while, as examples/choose.c has it; later heads are
 * harder. */
static void fill_topics(tensors *t, uint64_t seed)
{
    enum { TOPICS = 32, MOST_DIM = 64 };
    static double centre[TOPICS][MOST_DIM], value[TOPICS][MOST_DIM];
    rng r = rng_new(seed);
    for (operand which = T_Q; which <= T_V; which++)
        for (int64_t h = 0; h < tensors_heads(t, which); h++) {
            double hard = (double)(h + 1) / (double)tensors_heads(t, which);
            if (which == T_Q || h == 0) /* the same for q and k */
                r = rng_new(seed + (uint64_t)(h * t->full.nheads_kv / t->full.nheads));
            for (int topic = 0; topic < TOPICS; topic++)
                for (int e = 0; e < MOST_DIM; e++) {
                    centre[topic][e] = rng_gauss(&r);
                    value[topic][e] = rng_gauss(&r);
                }
            for (int64_t b = 0; b < t->problem.batch; b++)
                for (int64_t i = 0, topic = 0; i < tensors_nrows(t, which, b); i++) {
                    topic = i % 40 ? topic : rng_below(&r, TOPICS);
                    for (int64_t e = 0; e < tensors_dim(t, which); e++) {
                        double at = which == T_V ? 1 + 0.5 * value[topic][e] : centre[topic][e];
                        double x = at + (which == T_V ? hard : 0.5) * rng_gauss(&r);
                        tensors_put(t, which, b, h, i, e, which == T_Q ? 1.4 * hard * x : x);
                    }
                }
        }
}

/* hyperattn_forward_report with a workspace of exactly the size that is named, full of NaNs. */
static void forward_report(tensors *t, const hyperattn_params *params, int nthreads, choices *c)
{
    hyperattn_ctx *ctx = ctx_at(NULL, nthreads);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, params));
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(plan, 0));
    memset(workspace.data, 0xff, workspace.size);
    memset(c, 0x55, sizeof *c);
    hyperattn_choice_init(&c->head[0]);
    tensors_reset(t);
    ck_ok(hyperattn_forward_report(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                                   t->mem[T_OUT].data, (float *)t->lse.data, workspace.data,
                                   c->head));
    ck_good(guarded_check(&workspace));
    ck_good(guarded_check(&t->mem[T_OUT]));
    guarded_free(&workspace);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}

/* Whether row i of head h of out, and its lse, have the same bits as in s. */
static int same_row(const tensors *t, const saved *s, int64_t b, int64_t h, int64_t i)
{
    size_t size = dtype_size(t->problem.dtype), row = (size_t)tensors_row(t, b, h, i);
    size_t at = (size_t)tensors_at(t, T_OUT, b, h, i) * size;
    return memcmp((const float *)t->lse.data + row, s->lse + row, sizeof(float)) == 0 &&
           memcmp(t->mem[T_OUT].data + at, (const char *)s->out + at,
                  (size_t)tensors_dim(t, T_OUT) * size) == 0;
}

/* Each head has what a plan with the params of its step computes, bit for bit; t has lost its out
 * afterwards. Returns how many steps were taken by some head. */
static int heads_have_their_steps(tensors *t, const hyperattn_params *params, const choices *c)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 2);
    hyperattn_plan *plan;
    saved s = tensors_save(t);
    int taken = 0;
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, params));
    for (int step = 0; step < hyperattn_plan_steps(plan); step++) {
        const hyperattn_params one = step_of(plan, step);
        int any = 0;
        for (int64_t head = 0; head < t->problem.batch * t->problem.nheads; head++)
            any |= c->head[head].step == step;
        if (!any)
            continue;
        taken++;
        ck_good(tensors_forward(t, ctx, &one));
        for (int64_t head = 0; head < t->problem.batch * t->problem.nheads; head++) {
            int64_t b = head / t->problem.nheads, h = head % t->problem.nheads;
            if (c->head[head].step != step)
                continue;
            ck_assert_int_eq(c->head[head].method, one.method);
            ck_assert_int_eq(c->head[head].budget, one.budget);
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
                ck_assert_msg(same_row(t, &s, b, h, i), "step %d, head %d, row %d",
                              step, (int)head, (int)i);
        }
    }
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    saved_free(&s);
    return taken;
}

/* The relative error of a head against out of another run. */
static double head_error(const tensors *t, const saved *exact, int64_t b, int64_t h)
{
    double apart = 0, all = 0;
    for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
        for (int64_t e = 0; e < tensors_dim(t, T_OUT); e++) {
            double want = element_get(exact->out, tensors_at(t, T_OUT, b, h, i) + e,
                                      t->problem.dtype);
            double got = tensors_get(t, T_OUT, b, h, i, e);
            apart += (got - want) * (got - want);
            all += want * want;
        }
    return all > 0 ? sqrt(apart / all) : 0;
}

/* All heads are within 1.2 times the target; the report is in itself right. */
static void check_heads(tensors *t, const hyperattn_params *params, choices *c)
{
    hyperattn_params exact = params_with(HYPERATTN_EXACT, 0);
    ck_good(tensors_run(t, &exact, NULL, 2));
    saved s = tensors_save(t);
    forward_report(t, params, 2, c);
    for (int64_t head = 0; head < t->problem.batch * t->problem.nheads; head++) {
        const hyperattn_choice *own = &c->head[head];
        double error = head_error(t, &s, head / t->problem.nheads, head % t->problem.nheads);
        ck_assert_uint_eq(own->struct_size, sizeof *own);
        ck_assert_msg(error <= 1.2 * (double)params->target_error, "head %d: error %g, step %d",
                      (int)head, error, own->step);
        ck_assert_int_eq(own->method == HYPERATTN_EXACT, own->rows_checked == 0);
        ck_assert_int_eq(own->method == HYPERATTN_EXACT, isnan(own->rel_error));
        ck_assert(own->tried >= 1 && own->tried <= own->step + 1);
        if (own->rows_checked)
            ck_assert(own->rel_error <= (double)params->target_error && own->rows_checked >= 128);
    }
    saved_free(&s);
}

/* Easy and hard heads, several to a key head, take different steps. */
START_TEST(each_head_has_its_own)
{
    const hyperattn_problem p = causal_problem(6, 2, 6000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.05f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 3);
    check_heads(&t, &params, &c);
    ck_assert_int_ge(heads_have_their_steps(&t, &params, &c), 2);
    tensors_free(&t);
}
END_TEST

START_TEST(threads_change_nothing)
{
    const hyperattn_problem p = causal_problem(6, 2, 6000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.1f);
    choices first, other;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 3);
    forward_report(&t, &params, 1, &first);
    saved s = tensors_save(&t);
    for (int nthreads = 2; nthreads <= 5; nthreads += 3) {
        forward_report(&t, &params, nthreads, &other);
        ck_good(tensors_same_bits(&t, &s, p.seqlen_q));
        ck_assert_mem_eq(&first, &other, sizeof first);
    }
    ck_good(tensors_run(&t, &params, NULL, 2)); /* hyperattn_forward */
    ck_good(tensors_same_bits(&t, &s, p.seqlen_q));
    saved_free(&s);
    tensors_free(&t);
}
END_TEST

/* Long and short sequences, and an empty one: a short one is exact. */
START_TEST(ragged)
{
    static const int64_t cu[] = {0, 5000, 5300, 5300, 9500};
    hyperattn_problem p = causal_problem(3, 1, 5000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.1f);
    choices c;
    p.batch = 4;
    p.cu_seqlens_q = p.cu_seqlens_k = cu;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 4);
    check_heads(&t, &params, &c);
    for (int h = 3; h < 9; h++)
        ck_assert_int_eq(c.head[h].method, HYPERATTN_EXACT);
    ck_assert_int_ne(c.head[0].method, HYPERATTN_EXACT);
    ck_assert_int_ne(c.head[9].method, HYPERATTN_EXACT);
    heads_have_their_steps(&t, &params, &c);
    tensors_free(&t);
}
END_TEST

/* Not causal, 16-bit, and each method's own ladder. */
START_TEST(other_ladders)
{
    hyperattn_problem p = causal_problem(4, 2, 5000, 32);
    choices c;
    p.causal = _i % 2;
    p.dtype = _i / 2 % 2 ? HYPERATTN_BF16 : HYPERATTN_F32;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 5);
    for (int method = HYPERATTN_AUTO; method <= HYPERATTN_MULTIPOLE; method++) {
        const hyperattn_params params = params_with((hyperattn_method)method, 0.2f);
        check_heads(&t, &params, &c);
        heads_have_their_steps(&t, &params, &c);
        for (int h = 0; h < p.nheads; h++)
            ck_assert(method == HYPERATTN_AUTO || c.head[h].method == HYPERATTN_EXACT ||
                      (int)c.head[h].method == method);
    }
    tensors_free(&t);
}
END_TEST

/* But for the family whose error is in a few rows alone: no sample of rows tells of those. */
static const family sampled[] = {FAMILY_GAUSS, FAMILY_CLUSTERED, FAMILY_NEEDLES, FAMILY_NORMS,
                                 FAMILY_LOCAL};

START_TEST(families)
{
    const hyperattn_problem p = causal_problem(1, 1, 6000, 64);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.1f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    family_fill(&t, sampled[_i], 11);
    check_heads(&t, &params, &c);
    tensors_free(&t);
}
END_TEST

static void load(tensors *t, operand which, const char *name)
{
    char path[1024], why[NPY_WHY];
    const char *top = getenv("top_srcdir");
    npy_info info;
    void *data;
    snprintf(path, sizeof path, "%s/bench/data/%s.npy", top ? top : "..", name);
    ck_assert_msg(npy_read(path, &info, &data, why), "%s: %s", path, why);
    ck_assert_uint_eq(info.bytes, t->mem[which].size);
    memcpy(t->mem[which].data, data, info.bytes);
    free(data);
}

/* The captured head of bench/data. */
START_TEST(a_real_head)
{
    static const float targets[] = {0.1f, 0.03f, 0.02f};
    int n = COUNT(targets);
    hyperattn_problem p = causal_problem(1, 1, 8192, 64);
    choices c;
    p.dtype = HYPERATTN_BF16;
    tensors t = tensors_new(&p, AT_END);
    load(&t, T_Q, "q");
    load(&t, T_K, "k");
    load(&t, T_V, "v");
    if (emulated()) {
        n = 1;
        printf("reduced: one target of %d\n", COUNT(targets));
    }
    for (int i = 0; i < n; i++) {
        const hyperattn_params params = params_with(HYPERATTN_AUTO, targets[i]);
        check_heads(&t, &params, &c);
        ck_assert(i > 0 || c.head[0].method != HYPERATTN_EXACT);
    }
    tensors_free(&t);
}
END_TEST

/* AUTO without a target has the bits of EXACT. */
START_TEST(without_target)
{
    const hyperattn_problem p = causal_problem(3, 1, 3000, 32);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 6);
    const hyperattn_params exact = params_with(HYPERATTN_EXACT, 0);
    const hyperattn_params without = params_with(HYPERATTN_AUTO, 0);
    ck_good(tensors_run(&t, &exact, NULL, 2));
    saved s = tensors_save(&t);
    forward_report(&t, &without, 2, &c);
    ck_good(tensors_same_bits(&t, &s, p.seqlen_q));
    for (int h = 0; h < 3; h++) {
        ck_assert_int_eq(c.head[h].method, HYPERATTN_EXACT);
        ck_assert(c.head[h].step == 0 && c.head[h].tried == 1 && isnan(c.head[h].rel_error));
        ck_assert_int_eq(c.head[h].rows_checked, 0);
    }
    saved_free(&s);
    tensors_free(&t);
}
END_TEST

/* A head with a NaN in it is computed exactly, and is NaN where EXACT is; the others choose. */
START_TEST(nan_is_exact)
{
    const hyperattn_problem p = causal_problem(2, 2, 6000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.2f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 7);
    tensors_put(&t, T_V, 0, 1, 10, 3, NAN);
    forward_report(&t, &params, 2, &c);
    ck_assert_int_eq(c.head[1].method, HYPERATTN_EXACT);
    ck_assert_int_ne(c.head[0].method, HYPERATTN_EXACT);
    heads_have_their_steps(&t, &params, &c);
    tensors_free(&t);
}
END_TEST

/* ---- the report as a call -------------------------------------------------------------------- */

typedef struct call {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors t;
} call;

static call call_begin(const hyperattn_params *params)
{
    const hyperattn_problem p = causal_problem(2, 1, 64, 8);
    call c = {.ctx = ctx_at(NULL, 1), .t = tensors_new(&p, AT_END)};
    ck_ok(hyperattn_plan_create(&c.plan, c.ctx, &p, params));
    return c;
}

static hyperattn_status call_report(call *c, void *per_head)
{
    tensors *t = &c->t;
    return hyperattn_forward_report(c->plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                                    t->mem[T_OUT].data, NULL, NULL, per_head);
}

static void call_end(call *c)
{
    tensors_free(&c->t);
    hyperattn_plan_destroy(c->plan);
    hyperattn_ctx_destroy(c->ctx);
}

START_TEST(reports_that_are_refused)
{
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0);
    _Alignas(8) unsigned char bytes[4 * sizeof(hyperattn_choice)];
    hyperattn_choice choice[2];
    call c = call_begin(&params);
    ck_assert_int_eq(call_report(&c, NULL), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "per_head"));
    ck_assert_int_eq(call_report(&c, bytes + 4), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "aligned"));
    choice[0].struct_size = sizeof choice[0] - 1;
    ck_assert_int_eq(call_report(&c, choice), HYPERATTN_EINVAL);
    choice[0].struct_size = sizeof choice[0] + 8;
    ck_assert_int_eq(call_report(&c, choice), HYPERATTN_EVERSION);
    hyperattn_choice_init(&choice[0]);
    memcpy(c.t.mem[T_OUT].data, &choice[0], sizeof choice[0]);
    ck_assert_int_eq(call_report(&c, c.t.mem[T_OUT].data), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "overlaps"));
    ck_assert_int_eq(hyperattn_forward_report(NULL, NULL, NULL, NULL, NULL, NULL, NULL, choice),
                     HYPERATTN_EINVAL);
    hyperattn_choice_init(NULL);
    call_end(&c);
}
END_TEST

/* A caller of an earlier version has shorter entries, one after the other. */
START_TEST(shorter_entries)
{
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0);
    const size_t size = offsetof(hyperattn_choice, rel_error);
    _Alignas(8) unsigned char bytes[2 * sizeof(hyperattn_choice)];
    call c = call_begin(&params);
    memset(bytes, 0x55, sizeof bytes);
    memcpy(bytes, &size, sizeof size);
    ck_ok(call_report(&c, bytes));
    for (int h = 0; h < 2; h++) {
        hyperattn_choice choice;
        memcpy(&choice, bytes + (size_t)h * size, size);
        ck_assert_uint_eq(choice.struct_size, size);
        ck_assert_int_eq(choice.method, HYPERATTN_HYPER);
        ck_assert_int_eq(choice.tried, 1);
    }
    for (size_t i = 2 * size; i < sizeof bytes; i++)
        ck_assert_uint_eq(bytes[i], 0x55);
    call_end(&c);
}
END_TEST

/* ---- backward -------------------------------------------------------------------------------- */

static void check_rows(const tensors *t, operand which, const void *got, int64_t h)
{
    for (int64_t i = 0; i < t->problem.seqlen_q; i++)
        for (int64_t e = 0; e < tensors_dim(t, which); e++) {
            double want = tensors_get(t, which, 0, h, i, e);
            ck_assert_double_eq_tol(element_get(got, tensors_at(t, which, 0, h, i) + e,
                                                HYPERATTN_F32), want, 1e-5 * (1 + fabs(want)));
        }
}

/* dq of each head is that of its step's plan; dk and dv are the sums over the query heads of what
 * their steps' plans give for the head alone. To rounding: sums are cut by how many heads share a
 * key head. */
static void check_gradients(tensors *t, const hyperattn_params *params, const choices *c)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 2);
    hyperattn_plan *plan;
    int64_t heads = t->problem.nheads, group = heads / t->problem.nheads_kv;
    saved s = tensors_save(t);
    double *sum[2];
    for (int part = 0; part < 2; part++)
        sum[part] = calloc((size_t)t->elements[T_DK + part], sizeof *sum[part]);
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, params));
    guarded dout = guarded_new(t->mem[T_DOUT].size, AT_END);
    memcpy(dout.data, t->mem[T_DOUT].data, dout.size);
    for (int64_t h = 0; h < heads; h++) {
        const hyperattn_params one = step_of(plan, c->head[h].step);
        memcpy(t->mem[T_DOUT].data, dout.data, dout.size);
        for (int64_t other = 0; other < heads; other++) /* which then give nothing */
            for (int64_t i = 0; other != h && i < t->problem.seqlen_q; i++)
                tensors_set_row(t, T_DOUT, 0, other, i, 0);
        ck_good(tensors_backward(t, ctx, &one));
        check_rows(t, T_DQ, s.gradient[0], h);
        for (int part = 0; part < 2; part++)
            for (int64_t j = 0; j < t->problem.seqlen_q; j++)
                for (int64_t e = 0; e < tensors_dim(t, T_DK + part); e++)
                    sum[part][tensors_at(t, T_DK + part, 0, h / group, j) + e] +=
                        tensors_get(t, T_DK + part, 0, h / group, j, e);
    }
    for (int part = 0; part < 2; part++) {
        for (int64_t x = 0; x < t->elements[T_DK + part]; x++)
            ck_assert_double_eq_tol(element_get(s.gradient[1 + part], x, HYPERATTN_F32),
                                    sum[part][x], 1e-5 * (1 + fabs(sum[part][x])));
        free(sum[part]);
    }
    guarded_free(&dout);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    saved_free(&s);
}

START_TEST(gradients_are_of_what_was_taken)
{
    const hyperattn_method method = _i / 2 ? HYPERATTN_MULTIPOLE : HYPERATTN_HYPER;
    const hyperattn_problem p = causal_problem(4, _i % 2 ? 2 : 4, 4100, 16);
    const hyperattn_params params = params_with(method, 0.35f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 8);
    tensors_fill_dout(&t, 9);
    forward_report(&t, &params, 2, &c);
    int approximate = 0;
    for (int h = 0; h < 4; h++)
        approximate += c.head[h].method == method;
    ck_assert_int_ge(approximate, 1);
    saved forward = tensors_save(&t);
    ck_good(tensors_run_backward(&t, &params, NULL, 1));
    saved first = tensors_save(&t);
    ck_good(tensors_run_backward(&t, &params, NULL, 3));
    ck_good(tensors_same_gradients(&t, &first, p.seqlen_q, p.seqlen_q));
    ck_good(tensors_same_bits(&t, &forward, p.seqlen_q));
    check_gradients(&t, &params, &c);
    saved_free(&first);
    saved_free(&forward);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("choose");
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
    tcase_add_test(topic, calls_allocate_nothing);
    tcase_add_test(topic, going_up);
    tcase_add_test(topic, trials);
    tcase_add_test(topic, each_head_has_its_own);
    tcase_add_test(topic, threads_change_nothing);
    tcase_add_test(topic, ragged);
    tcase_add_loop_test(topic, other_ladders, 0, 4);
    tcase_add_loop_test(topic, families, 0, COUNT(sampled));
    tcase_add_test(topic, a_real_head);
    tcase_add_test(topic, without_target);
    tcase_add_test(topic, nan_is_exact);
    tcase_add_test(topic, reports_that_are_refused);
    tcase_add_test(topic, shorter_entries);
    tcase_add_loop_test(topic, gradients_are_of_what_was_taken, 0, 4);
    return topic_end();
}
