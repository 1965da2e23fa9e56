/* SPDX-License-Identifier: Apache-2.0
 *
 * Every public function leaves errno as it was, whether it succeeds or fails, and whatever the
 * caller's allocator does to it.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

enum { MARK = 4711, N = 300, D = 8 };

/* A call, and what errno is behind it. */
#define KEEPS(call)                                                                                \
    do {                                                                                           \
        errno = MARK;                                                                              \
        call;                                                                                      \
        ck_assert_msg(errno == MARK, "%s leaves errno %d", #call, errno);                          \
    } while (0)

/* The same of a call that must have the given status. */
#define KEEPS_AND(status, call)                                                                    \
    do {                                                                                           \
        hyperattn_status got_;                                                                     \
        KEEPS(got_ = (call));                                                                      \
        ck_assert_msg(got_ == (status), "%s: %d, %s", #call, got_, hyperattn_last_error());        \
    } while (0)

static int64_t left; /* allocations that succeed */

static void *rude_alloc(size_t align, size_t size, void *user)
{
    void *block = NULL;
    (void)user;
    if (left-- > 0 && posix_memalign(&block, align, size) != 0)
        block = NULL;
    errno = ENOMEM;
    return block;
}

static void rude_free(void *block, void *user)
{
    (void)user;
    free(block);
    errno = EBADF;
}

static hyperattn_ctx *rude_ctx(void)
{
    hyperattn_ctx_params params;
    hyperattn_ctx *ctx;
    KEEPS(hyperattn_ctx_params_init(&params));
    params.alloc = rude_alloc;
    params.free = rude_free;
    params.nthreads = 2;
    left = 0;
    KEEPS_AND(HYPERATTN_ENOMEM, hyperattn_ctx_create(&ctx, &params));
    left = INT64_MAX;
    KEEPS_AND(HYPERATTN_OK, hyperattn_ctx_create(&ctx, &params));
    return ctx;
}

static hyperattn_plan *plan_of(hyperattn_ctx *ctx, const hyperattn_params *params)
{
    hyperattn_problem p;
    hyperattn_plan *plan;
    KEEPS(hyperattn_problem_init(&p));
    p.seqlen_q = N;
    p.head_dim = D;
    left = 1;
    KEEPS_AND(HYPERATTN_ENOMEM, hyperattn_plan_create(&plan, ctx, &p, params));
    left = INT64_MAX;
    KEEPS_AND(HYPERATTN_OK, hyperattn_plan_create(&plan, ctx, &p, params));
    p.head_dim = -1;
    hyperattn_plan *refused;
    KEEPS_AND(HYPERATTN_EINVAL, hyperattn_plan_create(&refused, ctx, &p, params));
    return plan;
}

static float q[N * D], k[N * D], v[N * D], out[N * D], lse[N], dq[N * D], dk[N * D], dv[N * D];
static float other[N * D], other_lse[N];

/* Scores up to some hundreds, so that weights underflow, and zeros, whose logarithm is an error. */
static void fill_inputs(void)
{
    rng r = rng_new(1);
    for (int i = 0; i < N * D; i++) {
        q[i] = 30 * (float)rng_gauss(&r);
        k[i] = i % 3 ? (float)rng_gauss(&r) : 0;
        v[i] = other[i] = (float)rng_gauss(&r);
    }
    for (int i = 0; i < N; i++)
        other_lse[i] = i % 2 ? 1e4f : -INFINITY;
}

static void run(const hyperattn_plan *plan)
{
    hyperattn_report report;
    KEEPS(hyperattn_report_init(&report));
    KEEPS_AND(HYPERATTN_OK, hyperattn_forward(plan, q, k, v, out, lse, NULL));
    KEEPS_AND(HYPERATTN_OK, hyperattn_backward(plan, q, k, v, out, lse, v, dq, dk, dv, NULL));
    KEEPS_AND(HYPERATTN_OK, hyperattn_merge(plan, out, lse, other, other_lse));
    KEEPS_AND(HYPERATTN_OK, hyperattn_measure(plan, q, k, v, out, 20, &report, NULL));
    left = 0;
    KEEPS_AND(HYPERATTN_ENOMEM, hyperattn_measure(plan, q, k, v, out, 20, &report, NULL));
    KEEPS_AND(HYPERATTN_ENOMEM, hyperattn_forward(plan, q, k, v, out, lse, NULL));
    KEEPS_AND(HYPERATTN_ENOMEM,
              hyperattn_backward(plan, q, k, v, out, lse, v, dq, dk, dv, NULL));
    left = INT64_MAX;
    KEEPS_AND(HYPERATTN_EINVAL, hyperattn_forward(plan, q, k, v, q, lse, NULL));
    KEEPS_AND(HYPERATTN_EINVAL, hyperattn_backward(plan, q, k, v, q, lse, v, dq, dq, dv, NULL));
    KEEPS_AND(HYPERATTN_EINVAL, hyperattn_merge(plan, out, NULL, other, other_lse));
    KEEPS_AND(HYPERATTN_EINVAL, hyperattn_measure(plan, q, k, v, out, 0, &report, NULL));
    KEEPS((void)hyperattn_plan_method(plan));
    KEEPS((void)hyperattn_plan_workspace(plan, 1));
    KEEPS((void)hyperattn_plan_workspace(plan, 2));
}

/* The methods, HyperAttention with its cap too, and MULTIPOLE with more keys than it selects. */
static void run_methods(hyperattn_ctx *ctx, const hyperattn_params *paper)
{
    hyperattn_params hyper = *paper, capped, multipole = *paper;
    hyper.block_size = hyper.sample_size = 16;
    capped = hyper;
    capped.kappa_cap = 4;
    multipole.method = HYPERATTN_MULTIPOLE;
    multipole.num_selected = 4;
    multipole.private_depth = 3;
    multipole.num_candidates = 16;
    multipole.cell_size = 8;
    multipole.far_cell_size = 16;
    const hyperattn_params *const methods[] = {NULL, &hyper, &capped, &multipole};
    for (int x = 0; x < COUNT(methods); x++) {
        hyperattn_plan *plan = plan_of(ctx, methods[x]);
        run(plan);
        KEEPS(hyperattn_plan_destroy(plan));
    }
}

static void try_everything(void)
{
    hyperattn_params params;
    hyperattn_block_mask mask;
    KEEPS(hyperattn_params_init(&params));
    KEEPS(hyperattn_params_paper(&params));
    KEEPS(hyperattn_block_mask_init(&mask));
    KEEPS((void)hyperattn_strerror(-100));
    KEEPS((void)hyperattn_version());
    hyperattn_ctx *ctx = rude_ctx();
    KEEPS((void)hyperattn_ctx_backend(ctx));
    KEEPS((void)hyperattn_ctx_isa(ctx));
    KEEPS((void)hyperattn_ctx_reason(ctx));
    fill_inputs();
    run_methods(ctx, &params);
    KEEPS((void)hyperattn_last_error());
    KEEPS(hyperattn_ctx_destroy(ctx));
}

START_TEST(errno_stays_at_every_level)
{
    setenv("HYPERATTN_CPU", levels[_i], 1);
    try_everything();
    unsetenv("HYPERATTN_CPU");
}
END_TEST

START_TEST(errno_stays_without_a_backend)
{
    hyperattn_ctx *ctx;
    setenv("HYPERATTN_BACKEND", "none", 1);
    KEEPS_AND(HYPERATTN_EBACKEND, hyperattn_ctx_create(&ctx, NULL));
    setenv("HYPERATTN_BACKEND", "cuda", 1);
    setenv("HYPERATTN_MODULE_PATH", "/nonexistent", 1);
    KEEPS(hyperattn_ctx_create(&ctx, NULL));
    KEEPS(hyperattn_ctx_destroy(ctx));
    unsetenv("HYPERATTN_BACKEND");
    unsetenv("HYPERATTN_MODULE_PATH");
}
END_TEST

/* A message that nobody can read is lost, and errno still what it was. */
START_TEST(errno_stays_when_logging_fails)
{
    if (!freopen("/dev/full", "w", stderr))
        return;
    setenv("HYPERATTN_LOG", "debug", 1);
    hyperattn_ctx *ctx;
    KEEPS_AND(HYPERATTN_EINVAL, hyperattn_ctx_create(NULL, NULL));
    KEEPS_AND(HYPERATTN_OK, hyperattn_ctx_create(&ctx, NULL));
    KEEPS((void)hyperattn_plan_workspace(NULL, 0));
    KEEPS(hyperattn_ctx_destroy(ctx));
    unsetenv("HYPERATTN_LOG");
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("errno");
    tcase_add_loop_test(topic, errno_stays_at_every_level, 0, topic_levels());
    tcase_add_test(topic, errno_stays_without_a_backend);
    tcase_add_test(topic, errno_stays_when_logging_fails);
    return topic_end();
}
