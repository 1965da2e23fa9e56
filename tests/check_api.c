/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls around the computation: texts, version, context getters, environment, and methods.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "checkmain.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

/* ---- texts --------------------------------------------------------------------------------- */

START_TEST(every_status_has_its_own_text)
{
    for (int a = HYPERATTN_EVERSION; a <= HYPERATTN_OK; a++) {
        ck_assert_str_ne(hyperattn_strerror(a), "");
        for (int b = a + 1; b <= HYPERATTN_OK; b++)
            ck_assert_str_ne(hyperattn_strerror(a), hyperattn_strerror(b));
    }
}
END_TEST

START_TEST(unknown_statuses_have_a_text)
{
    static const int unknown[] = {1, -6, -1000, INT32_MAX, INT32_MIN};
    for (int s = 0; s < COUNT(unknown); s++) {
        const char *text = hyperattn_strerror(unknown[s]);
        ck_assert_ptr_nonnull(text);
        ck_assert_str_ne(text, "");
        for (int known = HYPERATTN_EVERSION; known <= HYPERATTN_OK; known++)
            ck_assert_str_ne(text, hyperattn_strerror(known));
    }
}
END_TEST

START_TEST(version_is_that_of_the_header)
{
    ck_assert_str_eq(hyperattn_version(),
                     TEXT(HYPERATTN_VERSION_MAJOR) "." TEXT(HYPERATTN_VERSION_MINOR) "." TEXT(
                         HYPERATTN_VERSION_PATCH));
}
END_TEST

/* Returns what a fresh thread sees before and after a failure of its own. */
static void *fail_in_a_thread(void *after)
{
    char *before = strdup(hyperattn_last_error());
    hyperattn_ctx_create(NULL, NULL);
    strcpy(after, hyperattn_last_error());
    return before;
}

START_TEST(last_error_belongs_to_its_thread)
{
    hyperattn_ctx *ctx;
    hyperattn_ctx_params params;
    hyperattn_ctx_params_init(&params);
    params.nthreads = -5;
    ck_assert_int_eq(hyperattn_ctx_create(&ctx, &params), HYPERATTN_EINVAL);
    char *mine = strdup(hyperattn_last_error()), theirs[512];
    ck_assert_ptr_nonnull(strstr(mine, "-5"));
    pthread_t thread;
    void *before;
    pthread_create(&thread, NULL, fail_in_a_thread, theirs);
    pthread_join(thread, &before);
    ck_assert_str_eq(before, "");
    ck_assert_str_ne(theirs, mine);
    ck_assert_str_eq(hyperattn_last_error(), mine);
    free(before);
    free(mine);
}
END_TEST

/* ---- context ------------------------------------------------------------------------------- */

static hyperattn_ctx *default_ctx(void)
{
    hyperattn_ctx *ctx;
    ck_ok(hyperattn_ctx_create(&ctx, NULL));
    return ctx;
}

START_TEST(a_context_says_what_it_is)
{
    hyperattn_ctx *ctx = default_ctx();
    const char *names[8];
    int n = levels_here(names, COUNT(names));
    ck_assert_str_eq(hyperattn_ctx_backend(ctx), "cpu");
    ck_assert_str_eq(hyperattn_ctx_isa(ctx), names[n - 1]); /* the best */
    ck_assert_ptr_nonnull(hyperattn_ctx_reason(ctx));
    hyperattn_ctx_destroy(ctx);
}
END_TEST

START_TEST(cpu_is_a_ceiling)
{
    const char *names[8];
    int n = levels_here(names, COUNT(names));
    for (int level = 0; level < n; level++) {
        setenv("HYPERATTN_CPU", names[level], 1);
        hyperattn_ctx *ctx = default_ctx();
        ck_assert_str_eq(hyperattn_ctx_isa(ctx), names[level]);
        if (level < n - 1)
            ck_assert_ptr_nonnull(strstr(hyperattn_ctx_reason(ctx), "HYPERATTN_CPU"));
        hyperattn_ctx_destroy(ctx);
    }
    unsetenv("HYPERATTN_CPU");
}
END_TEST

/* A name that is no level counts for nothing, and an empty one as unset. */
START_TEST(an_unknown_cpu_is_ignored_with_a_reason)
{
    static const char *const values[] = {"avx3", "REF", "ref ", "avx512,avx2"};
    hyperattn_ctx *ctx = default_ctx();
    const char *best = hyperattn_ctx_isa(ctx);
    for (int s = 0; s < COUNT(values); s++) {
        setenv("HYPERATTN_CPU", values[s], 1);
        hyperattn_ctx *other = default_ctx();
        ck_assert_str_eq(hyperattn_ctx_isa(other), best);
        ck_assert_ptr_nonnull(strstr(hyperattn_ctx_reason(other), "HYPERATTN_CPU"));
        hyperattn_ctx_destroy(other);
    }
    setenv("HYPERATTN_CPU", "", 1);
    hyperattn_ctx *other = default_ctx();
    ck_assert_str_eq(hyperattn_ctx_isa(other), best);
    ck_assert_str_eq(hyperattn_ctx_reason(other), hyperattn_ctx_reason(ctx));
    hyperattn_ctx_destroy(other);
    hyperattn_ctx_destroy(ctx);
    unsetenv("HYPERATTN_CPU");
}
END_TEST

START_TEST(a_missing_level_falls_to_the_next_lower)
{
    static const char *const all[] = {"avx2", "avx512", "avx512bf16", "neon", "neonbf16"};
    const char *names[8];
    int n = levels_here(names, COUNT(names));
    for (int s = 0; s < COUNT(all); s++) {
        setenv("HYPERATTN_CPU", all[s], 1);
        hyperattn_ctx *ctx = default_ctx();
        int known = 0, asked = 0;
        for (int level = 0; level < n; level++) {
            known |= strcmp(hyperattn_ctx_isa(ctx), names[level]) == 0;
            asked |= strcmp(all[s], names[level]) == 0;
        }
        ck_assert_msg(known, "%s gives %s, which is not here", all[s], hyperattn_ctx_isa(ctx));
        if (!asked)
            ck_assert_str_ne(hyperattn_ctx_reason(ctx), "");
        hyperattn_ctx_destroy(ctx);
    }
    unsetenv("HYPERATTN_CPU");
}
END_TEST

START_TEST(backend_from_the_environment)
{
    static const char *const good[] = {"auto", "cpu", ""};
    hyperattn_ctx *ctx;
    for (int s = 0; s < COUNT(good); s++) {
        setenv("HYPERATTN_BACKEND", good[s], 1);
        ck_ok(hyperattn_ctx_create(&ctx, NULL));
        ck_assert_str_eq(hyperattn_ctx_backend(ctx), "cpu");
        hyperattn_ctx_destroy(ctx);
    }
    setenv("HYPERATTN_BACKEND", "abacus", 1);
    ck_assert_int_eq(hyperattn_ctx_create(&ctx, NULL), HYPERATTN_EBACKEND);
    ck_assert_ptr_null(ctx);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "abacus"));
    setenv("HYPERATTN_BACKEND", "cuda", 1); /* which this machine may have */
    hyperattn_status status = hyperattn_ctx_create(&ctx, NULL);
    if (status) {
        ck_assert_int_eq(status, HYPERATTN_EBACKEND);
        ck_assert_ptr_null(ctx);
        ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "cuda"));
    } else
        ck_assert_str_eq(hyperattn_ctx_backend(ctx), "cuda");
    hyperattn_ctx_destroy(ctx);
    unsetenv("HYPERATTN_BACKEND");
}
END_TEST

/* ---- plan ---------------------------------------------------------------------------------- */

/* What a request for n rows becomes. */
static hyperattn_method chosen(hyperattn_method method, int64_t n, int causal)
{
    hyperattn_problem problem;
    hyperattn_problem_init(&problem);
    problem.seqlen_q = n;
    problem.head_dim = 64;
    problem.causal = causal;
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = method;
    hyperattn_ctx *ctx = default_ctx();
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &problem, &params));
    hyperattn_method got = hyperattn_plan_method(plan);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    return got;
}

START_TEST(auto_is_exact)
{
    for (int causal = 0; causal < 2; causal++)
        for (int64_t n = 1; n <= 1048576; n *= 32)
            ck_assert_int_eq(chosen(HYPERATTN_AUTO, n, causal), HYPERATTN_EXACT);
}
END_TEST

/* At the largest scale there is, whose product with log2(e) is finite too: all scores are 0. */
START_TEST(the_largest_scale_gives_numbers)
{
    hyperattn_problem problem;
    hyperattn_problem_init(&problem);
    problem.seqlen_q = 8;
    problem.head_dim = 4;
    float q[8 * 4] = {0}, x[8 * 4], out[8 * 4];
    for (int e = 0; e < 8 * 4; e++)
        x[e] = 1;
    hyperattn_ctx *ctx = default_ctx();
    for (int sign = -1; sign <= 1; sign += 2) {
        hyperattn_plan *plan;
        problem.softmax_scale = (float)sign * 2.3586e38f;
        ck_ok(hyperattn_plan_create(&plan, ctx, &problem, NULL));
        ck_ok(hyperattn_forward(plan, q, x, x, out, NULL, NULL));
        for (int e = 0; e < 8 * 4; e++)
            ck_assert_msg(out[e] == 1, "%g", (double)out[e]);
        hyperattn_plan_destroy(plan);
    }
    hyperattn_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_named_method_is_kept)
{
    ck_assert_int_eq(chosen(HYPERATTN_EXACT, 1048576, 1), HYPERATTN_EXACT);
    ck_assert_int_eq(chosen(HYPERATTN_HYPER, 1, 0), HYPERATTN_HYPER);
}
END_TEST

/* Arrays that a plan was made from may be freed or changed: it holds copies. */
START_TEST(a_plan_copies_what_it_was_given)
{
    int64_t cu[] = {0, 3, 8}, row_start[] = {0, 1}, key_blocks[] = {0};
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    mask.query_block = mask.key_block = 8;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.block_mask = &mask;
    hyperattn_problem problem;
    hyperattn_problem_init(&problem);
    problem.batch = 2;
    problem.seqlen_q = 8;
    problem.head_dim = 4;
    problem.cu_seqlens_q = problem.cu_seqlens_k = cu;
    hyperattn_ctx *ctx = default_ctx();
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &problem, &params));
    float x[8 * 4], out[2][8 * 4];
    for (int e = 0; e < 8 * 4; e++)
        x[e] = (float)(e % 5) / 4;
    ck_ok(hyperattn_forward(plan, x, x, x, out[0], NULL, NULL));
    cu[1] = cu[2] = row_start[1] = key_blocks[0] = INT64_MAX;
    memset(&mask, 0x55, sizeof mask);
    memset(&params, 0x55, sizeof params);
    memset(&problem, 0x55, sizeof problem);
    ck_ok(hyperattn_forward(plan, x, x, x, out[1], NULL, NULL));
    ck_assert_mem_eq(out[0], out[1], sizeof x);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

int main(void)
{
    unsetenv("HYPERATTN_CPU"); /* what the caller set would be in the way */
    unsetenv("HYPERATTN_BACKEND");
    TCase *topic = topic_begin("api");
    tcase_add_test(topic, every_status_has_its_own_text);
    tcase_add_test(topic, unknown_statuses_have_a_text);
    tcase_add_test(topic, version_is_that_of_the_header);
    tcase_add_test(topic, last_error_belongs_to_its_thread);
    tcase_add_test(topic, a_context_says_what_it_is);
    tcase_add_test(topic, cpu_is_a_ceiling);
    tcase_add_test(topic, an_unknown_cpu_is_ignored_with_a_reason);
    tcase_add_test(topic, a_missing_level_falls_to_the_next_lower);
    tcase_add_test(topic, backend_from_the_environment);
    tcase_add_test(topic, auto_is_exact);
    tcase_add_test(topic, a_named_method_is_kept);
    tcase_add_test(topic, the_largest_scale_gives_numbers);
    tcase_add_test(topic, a_plan_copies_what_it_was_given);
    return topic_end();
}
