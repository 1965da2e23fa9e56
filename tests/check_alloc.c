/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory: what happens when the context's allocator fails at any call, that nothing leaks, and that
 * forward and backward with a caller's workspace allocate nothing at all. The program is linked
 * with -Wl,--wrap for the C library's allocation functions, which counts the library's own calls.
 */
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

/* ---- the C library's allocator, counted ---------------------------------------------------- */

static _Atomic int64_t libc_calls;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void **block, size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_posix_memalign(void **block, size_t align, size_t size);

void *__wrap_malloc(size_t size)
{
    libc_calls++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    libc_calls++;
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *block, size_t size)
{
    libc_calls++;
    return __real_realloc(block, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    libc_calls++;
    return __real_aligned_alloc(align, size);
}

int __wrap_posix_memalign(void **block, size_t align, size_t size)
{
    libc_calls++;
    return __real_posix_memalign(block, align, size);
}

/* ---- ways to compute ----------------------------------------------------------------------- */

typedef struct variant {
    const char *name;
    hyperattn_method method;
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    int causal, masked, ragged;
    float kappa_cap;
} variant;

static const variant variants[] = {
    {"exact", .method = HYPERATTN_EXACT},
    {"exact causal", .method = HYPERATTN_EXACT, .causal = 1},
    {"exact ragged", .method = HYPERATTN_EXACT, .ragged = 1},
    {"uniform", .method = HYPERATTN_HYPER},
    {"uniform causal", .method = HYPERATTN_HYPER, .causal = 1},
    {"uniform ragged causal", .method = HYPERATTN_HYPER, .causal = 1, .ragged = 1},
    {"vnorm", .method = HYPERATTN_HYPER, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"vnorm causal", .method = HYPERATTN_HYPER, .sampling = HYPERATTN_SAMPLING_VNORM, .causal = 1},
    {"no block", .method = HYPERATTN_HYPER, .heavy = HYPERATTN_HEAVY_NONE},
    {"block mask", .method = HYPERATTN_HYPER, .masked = 1},
    {"multipole", .method = HYPERATTN_MULTIPOLE},
    {"multipole causal", .method = HYPERATTN_MULTIPOLE, .causal = 1},
    {"multipole ragged causal", .method = HYPERATTN_MULTIPOLE, .causal = 1, .ragged = 1},
    {"capped", .method = HYPERATTN_HYPER, .kappa_cap = 2},
};

static const int64_t cu_seqlens[] = {0, 300, 301, 420};
static const int64_t row_start[] = {0, 1, 2, 3}, key_blocks[] = {0, 1, 2};
static hyperattn_block_mask mask;

static void variant_begin(const variant *v, tensors *t, hyperattn_params *params)
{
    hyperattn_problem p = problem_of(2, 300, 24);
    p.causal = v->causal;
    if (v->ragged) {
        p.batch = 3;
        p.cu_seqlens_q = p.cu_seqlens_k = cu_seqlens;
    }
    *t = tensors_new(&p, AT_END);
    tensors_fill(t, FILL_GAUSS, 4);
    tensors_fill_dout(t, 4);
    hyperattn_params_init(params);
    params->method = v->method;
    params->heavy = v->heavy;
    params->sampling = v->sampling;
    params->block_size = 32;
    params->sample_size = 32;
    params->min_seq_len = 64;
    params->leaf_size = 128;
    params->num_selected = 8;
    params->private_depth = 3;
    params->kappa_cap = v->kappa_cap;
    hyperattn_block_mask_init(&mask);
    mask.query_block = mask.key_block = 100;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    if (v->masked)
        params->block_mask = &mask;
}

static hyperattn_status forward(const hyperattn_plan *plan, tensors *t, void *workspace)
{
    return hyperattn_forward(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                             t->mem[T_OUT].data, (float *)t->lse.data, workspace);
}

static hyperattn_status backward(const hyperattn_plan *plan, tensors *t, void *workspace)
{
    return hyperattn_backward(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                              t->mem[T_OUT].data, (float *)t->lse.data, t->mem[T_DOUT].data,
                              t->mem[T_DQ].data, t->mem[T_DK].data, t->mem[T_DV].data, workspace);
}

/* ---- failing allocations ------------------------------------------------------------------- */

static void fail_at(allocs *memory, int64_t n, int for_good)
{
    memory->calls = 0;
    memory->fail_at = n;
    memory->fail_for_good = for_good;
}

START_TEST(ctx_create_survives_failing_allocations)
{
    hyperattn_status status = HYPERATTN_ENOMEM;
    int failures = 0;
    for (int64_t n = 1; status != HYPERATTN_OK; n++) {
        allocs memory = {.fail_at = n, .fail_for_good = _i};
        hyperattn_ctx_params params = allocs_params(&memory);
        hyperattn_ctx *ctx = (hyperattn_ctx *)&memory;
        status = hyperattn_ctx_create(&ctx, &params);
        if (status != HYPERATTN_OK) {
            ck_assert_int_eq(status, HYPERATTN_ENOMEM);
            ck_assert_ptr_null(ctx);
            ck_assert_str_ne(hyperattn_last_error(), "");
            failures++;
        }
        hyperattn_ctx_destroy(ctx);
        ck_assert_int_eq(memory.live, 0);
        ck_assert_int_eq(memory.misaligned, 0);
    }
    ck_assert_int_gt(failures, 0);
}
END_TEST

/* A context whose allocator the test commands, with one of the variants. */
typedef struct subject {
    allocs memory;
    hyperattn_ctx *ctx;
    tensors t;
    hyperattn_params params;
} subject;

static void subject_begin(subject *s, const variant *v, int nthreads)
{
    memset(s, 0, sizeof *s);
    variant_begin(v, &s->t, &s->params);
    hyperattn_ctx_params ctx_params = allocs_params(&s->memory);
    ctx_params.nthreads = nthreads;
    ck_ok(hyperattn_ctx_create(&s->ctx, &ctx_params));
}

static void subject_end(subject *s)
{
    tensors_free(&s->t);
    hyperattn_ctx_destroy(s->ctx);
    ck_assert_int_eq(s->memory.live, 0);
    ck_assert_int_eq(s->memory.misaligned, 0);
}

static void check_plan_create(const variant *v, int for_good)
{
    subject s;
    subject_begin(&s, v, 2);
    int64_t live = s.memory.live;
    hyperattn_status status = HYPERATTN_ENOMEM;
    int failures = 0;
    for (int64_t n = 1; status != HYPERATTN_OK; n++) {
        hyperattn_plan *plan = (hyperattn_plan *)&s;
        fail_at(&s.memory, n, for_good);
        status = hyperattn_plan_create(&plan, s.ctx, &s.t.problem, &s.params);
        fail_at(&s.memory, 0, 0);
        if (status != HYPERATTN_OK) {
            ck_assert_int_eq(status, HYPERATTN_ENOMEM);
            ck_assert_ptr_null(plan);
            ck_assert_int_eq(s.memory.live, live);
            failures++;
        }
        hyperattn_plan_destroy(plan);
        ck_good_at(tensors_forward(&s.t, s.ctx, &s.params), "%s after failure %lld", v->name,
                   (long long)n);
        ck_assert_int_eq(s.memory.live, live);
    }
    ck_assert_int_gt(failures, 0);
    subject_end(&s);
}

START_TEST(plan_create_survives_failing_allocations)
{
    for (int v = 0; v < COUNT(variants); v++)
        check_plan_create(&variants[v], _i);
}
END_TEST

/* The call under test: hyperattn_forward or hyperattn_backward. */
typedef hyperattn_status run_function(const hyperattn_plan *plan, tensors *t, void *workspace);

/* Without a workspace a call allocates; where it cannot, its outputs stay as they were. */
static void check_run(const variant *v, run_function *run, int for_good)
{
    subject s;
    subject_begin(&s, v, 2);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, s.ctx, &s.t.problem, &s.params));
    ck_ok(forward(plan, &s.t, NULL));
    int64_t live = s.memory.live;
    hyperattn_status status = HYPERATTN_ENOMEM;
    int failures = 0;
    for (int64_t n = 1; status != HYPERATTN_OK; n++) {
        if (run == forward)
            tensors_reset(&s.t);
        tensors_reset_gradients(&s.t);
        saved untouched = tensors_save(&s.t);
        fail_at(&s.memory, n, for_good);
        status = run(plan, &s.t, NULL);
        fail_at(&s.memory, 0, 0);
        if (status != HYPERATTN_OK) {
            ck_assert_int_eq(status, HYPERATTN_ENOMEM);
            ck_good(tensors_same_bits(&s.t, &untouched, 300));
            ck_good(tensors_same_gradients(&s.t, &untouched, 300, 300));
            failures++;
        }
        ck_assert_int_eq(s.memory.live, live);
        ck_ok(run(plan, &s.t, NULL));
        saved_free(&untouched);
    }
    ck_assert_msg(failures > 0 || hyperattn_plan_workspace(plan, run == backward) == 0,
                  "%s: the workspace was not taken from the context", v->name);
    hyperattn_plan_destroy(plan);
    subject_end(&s);
}

START_TEST(forward_survives_failing_allocations)
{
    for (int v = 0; v < COUNT(variants); v++)
        check_run(&variants[v], forward, _i);
}
END_TEST

START_TEST(backward_survives_failing_allocations)
{
    for (int v = 0; v < COUNT(variants); v++)
        check_run(&variants[v], backward, _i);
}
END_TEST

/* ---- no allocation at all ------------------------------------------------------------------ */

static void check_silence(const variant *v, run_function *run, int nthreads)
{
    subject s;
    subject_begin(&s, v, nthreads);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, s.ctx, &s.t.problem, &s.params));
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(plan, run == backward));
    ck_ok(forward(plan, &s.t, NULL));
    ck_ok(run(plan, &s.t, workspace.data)); /* OpenMP may start its threads here */
    int64_t own = s.memory.calls, libc = libc_calls;
    for (int repeat = 0; repeat < 3; repeat++)
        ck_ok(run(plan, &s.t, workspace.data));
    int64_t libc_after = libc_calls; /* Check's own calls count too */
    ck_assert_msg(s.memory.calls == own, "%s, %d threads: the context's allocator was called",
                  v->name, nthreads);
    ck_assert_msg(libc_after == libc, "%s, %d threads: malloc was called", v->name, nthreads);
    ck_good(guarded_check(&workspace));
    guarded_free(&workspace);
    hyperattn_plan_destroy(plan);
    subject_end(&s);
}

START_TEST(with_a_workspace_nothing_is_allocated)
{
    int64_t before = libc_calls;
    void *volatile block = malloc(1); /* the counter itself works */
    free(block);
    ck_assert_int_gt(libc_calls, before);
    for (int v = 0; v < COUNT(variants); v++)
        for (int nthreads = 1; nthreads <= 2; nthreads++) {
            check_silence(&variants[v], forward, nthreads);
            check_silence(&variants[v], backward, nthreads);
        }
}
END_TEST

/* The workspace grows with n (d + dv), not with n^2: twice the length, about twice the bytes. */
START_TEST(workspace_is_linear_in_the_length)
{
    for (int v = 0; v < COUNT(variants); v++) {
        subject s;
        subject_begin(&s, &variants[v], 2);
        if (variants[v].ragged || variants[v].masked) {
            subject_end(&s);
            continue;
        }
        size_t bytes[2], backward_bytes[2];
        for (int twice = 0; twice < 2; twice++) {
            hyperattn_problem p = problem_of(2, 200000 << twice, 64);
            p.causal = variants[v].causal;
            hyperattn_plan *plan;
            ck_ok(hyperattn_plan_create(&plan, s.ctx, &p, &s.params));
            bytes[twice] = hyperattn_plan_workspace(plan, 0);
            backward_bytes[twice] = hyperattn_plan_workspace(plan, 1);
            hyperattn_plan_destroy(plan);
        }
        ck_assert_msg((double)bytes[1] <= 2.2 * (double)bytes[0], "%s: %zu, then %zu bytes",
                      variants[v].name, bytes[0], bytes[1]);
        ck_assert_msg((double)backward_bytes[1] <= 2.2 * (double)backward_bytes[0],
                      "%s, backward: %zu, then %zu bytes", variants[v].name, backward_bytes[0],
                      backward_bytes[1]);
        subject_end(&s);
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("alloc");
    /* loop index: 0 the one allocation fails, 1 it and all later ones */
    tcase_add_loop_test(topic, ctx_create_survives_failing_allocations, 0, 2);
    tcase_add_loop_test(topic, plan_create_survives_failing_allocations, 0, 2);
    tcase_add_loop_test(topic, forward_survives_failing_allocations, 0, 2);
    tcase_add_loop_test(topic, backward_survives_failing_allocations, 0, 2);
    tcase_add_test(topic, with_a_workspace_nothing_is_allocated);
    tcase_add_test(topic, workspace_is_linear_in_the_length);
    return topic_end();
}
