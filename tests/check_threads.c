/* SPDX-License-Identifier: Apache-2.0
 *
 * Same seed, problem, params and level: the same bits, for any number of threads, from run to run,
 * from several callers at once, inside a caller's own parallel region, and after a fork.
 */
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkmain.h"
#include "tensors.h"

/* One of the ways to compute, with everything else small enough to split in many places. */
typedef struct variant {
    const char *name;
    hyperattn_method method;
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    hyperattn_dtype dtype;
    int causal, strict, ragged, sinks, window;
    float kappa_cap;
    int64_t nk; /* 0: 735 */
    int block;  /* 0: 64 */
} variant;

static const variant variants[] = {
    {"exact", .method = HYPERATTN_EXACT},
    {"exact causal bf16", .method = HYPERATTN_EXACT, .dtype = HYPERATTN_BF16, .causal = 1},
    {"exact, few keys", .method = HYPERATTN_EXACT, .nk = 250},
    {"exact ragged", .method = HYPERATTN_EXACT, .causal = 1, .ragged = 1},
    {"uniform", .method = HYPERATTN_HYPER},
    {"uniform f16", .method = HYPERATTN_HYPER, .dtype = HYPERATTN_F16, .sinks = 5},
    {"uniform causal", .method = HYPERATTN_HYPER, .causal = 1, .sinks = 3, .window = 9},
    {"uniform strict", .method = HYPERATTN_HYPER, .causal = 1, .strict = 1},
    {"uniform ragged", .method = HYPERATTN_HYPER, .causal = 1, .ragged = 1},
    {"vnorm", .method = HYPERATTN_HYPER, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"vnorm causal", .method = HYPERATTN_HYPER, .sampling = HYPERATTN_SAMPLING_VNORM, .causal = 1},
    {"no block", .method = HYPERATTN_HYPER, .heavy = HYPERATTN_HEAVY_NONE},
    {"rounds of short tasks", .method = HYPERATTN_HYPER, .heavy = HYPERATTN_HEAVY_NONE, .block = 1},
    {"capped", .method = HYPERATTN_HYPER, .kappa_cap = 3},
    {"capped causal", .method = HYPERATTN_HYPER, .kappa_cap = 3, .causal = 1},
    {"multipole", .method = HYPERATTN_MULTIPOLE, .sinks = 5},
    {"multipole causal", .method = HYPERATTN_MULTIPOLE, .causal = 1, .sinks = 5, .window = 1},
    {"multipole causal bf16", .method = HYPERATTN_MULTIPOLE, .dtype = HYPERATTN_BF16, .causal = 1,
     .sinks = 5, .window = 1},
    {"multipole ragged", .method = HYPERATTN_MULTIPOLE, .causal = 1, .ragged = 1, .window = 1},
};

static const int64_t cu_seqlens[] = {0, 700, 701, 1101};

static tensors variant_tensors(const variant *v)
{
    hyperattn_problem p = problem_of(4, 700, 24);
    p.nheads_kv = 2;
    p.head_dim_v = 20;
    p.dtype = v->dtype;
    p.causal = v->causal;
    if (v->ragged) {
        p.batch = 3;
        p.cu_seqlens_q = p.cu_seqlens_k = cu_seqlens;
    } else {
        p.seqlen_k = v->nk ? v->nk : 735;
    }
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 2);
    tensors_fill_dout(&t, 2);
    return t;
}

static hyperattn_params variant_params(const variant *v)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = v->method;
    params.heavy = v->heavy;
    params.sampling = v->sampling;
    params.block_size = v->block ? v->block : 64;
    params.sample_size = 48;
    params.min_seq_len = 100;
    params.num_sinks = v->sinks;
    params.window = v->window;
    params.strict_causal = v->strict;
    params.kappa_cap = v->kappa_cap;
    params.leaf_size = 128;
    params.num_selected = 8;
    params.private_depth = 3;
    params.num_candidates = 64;
    params.cell_size = 8;
    params.far_cell_size = 32;
    params.seed = 42;
    return params;
}

/* ---- number of threads --------------------------------------------------------------------- */

static void run_both(tensors *t, const hyperattn_params *params, const char *level, int nthreads)
{
    ck_good(tensors_run(t, params, level, nthreads));
    ck_good(tensors_run_backward(t, params, level, nthreads));
}

START_TEST(bits_do_not_depend_on_threads_or_run)
{
    static const int threads[] = {2, 3, 5, 8, 16, 0, 1};
    const char *names[8];
    int nlevels = levels_here(names, COUNT(names));
    const variant *v = &variants[_i];
    hyperattn_params params = variant_params(v);
    tensors t = variant_tensors(v);
    for (int level = 0; level < nlevels; level++) {
        run_both(&t, &params, names[level], 1);
        saved first = tensors_save(&t);
        for (int s = 0; s < COUNT(threads); s += emulated() ? 3 : 1)
            for (int repeat = 0; repeat < (emulated() || level < nlevels - 1 ? 1 : 2); repeat++) {
                run_both(&t, &params, names[level], threads[s]);
                const char *why = tensors_same_bits(&t, &first, 700);
                if (!why)
                    why = tensors_same_gradients(&t, &first, 735, 735);
                ck_good_at(why, "%s, %s, %d threads, run %d", v->name, names[level], threads[s],
                           repeat);
            }
        saved_free(&first);
    }
    tensors_free(&t);
}
END_TEST

/* ---- callers at once ----------------------------------------------------------------------- */

/* A plan with its inputs, and the result that every caller must get. */
typedef struct shared {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors t;
    saved expected;
} shared;

static void shared_begin(shared *s, const variant *v, int nthreads)
{
    hyperattn_params params = variant_params(v);
    s->t = variant_tensors(v);
    s->ctx = ctx_at(NULL, nthreads);
    ck_ok(hyperattn_plan_create(&s->plan, s->ctx, &s->t.problem, &params));
    ck_good(tensors_forward(&s->t, s->ctx, &params));
    ck_good(tensors_backward(&s->t, s->ctx, &params));
    s->expected = tensors_save(&s->t);
}

static void shared_end(shared *s)
{
    hyperattn_plan_destroy(s->plan);
    hyperattn_ctx_destroy(s->ctx);
    saved_free(&s->expected);
    tensors_free(&s->t);
}

/* One backward call with gradients and a workspace of its own, from the expected out and lse. */
static const char *backward_caller(const shared *s)
{
    const guarded *m = s->t.mem;
    void *gradient[3];
    for (int part = 0; part < 3; part++)
        gradient[part] = calloc(m[T_DQ + part].size, 1);
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(s->plan, 1));
    const char *why = NULL;
    if (hyperattn_backward(s->plan, m[T_Q].data, m[T_K].data, m[T_V].data, s->expected.out,
                           s->expected.lse, m[T_DOUT].data, gradient[0], gradient[1], gradient[2],
                           workspace.data) != HYPERATTN_OK)
        why = failure("backward: %s", hyperattn_last_error());
    for (int part = 0; part < 3; part++) {
        if (!why && memcmp(gradient[part], s->expected.gradient[part], m[T_DQ + part].size) != 0)
            why = failure("d%c has other bits", "qkv"[part]);
        free(gradient[part]);
    }
    guarded_free(&workspace);
    return why;
}

/* One forward call, and then a backward one, with outputs and workspaces of their own; no Check
 * calls, so any thread and any process may make it. The outputs are packed, so whole buffers can be
 * compared. */
static const char *caller(const shared *s)
{
    size_t out_size = s->t.mem[T_OUT].size, lse_size = s->t.lse.size;
    void *out = calloc(out_size, 1);
    float *lse = calloc(lse_size, 1);
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(s->plan, 0));
    const char *why = NULL;
    if (hyperattn_forward(s->plan, s->t.mem[T_Q].data, s->t.mem[T_K].data, s->t.mem[T_V].data, out,
                          lse, workspace.data) != HYPERATTN_OK)
        why = failure("forward: %s", hyperattn_last_error());
    else if (memcmp(out, s->expected.out, out_size) != 0)
        why = "out has other bits";
    else if (memcmp(lse, s->expected.lse, lse_size) != 0)
        why = "lse has other bits";
    guarded_free(&workspace);
    free(out);
    free(lse);
    return why ? why : backward_caller(s);
}

static void *calling_thread(void *argument)
{
    for (int repeat = 0; repeat < (emulated() ? 1 : 3); repeat++) {
        const char *why = caller(argument);
        if (why)
            return strdup(why);
    }
    return NULL;
}

START_TEST(a_plan_serves_several_threads)
{
    enum { CALLERS = 4 };
    for (int v = 0; v < COUNT(variants); v++) {
        shared s;
        shared_begin(&s, &variants[v], 2);
        pthread_t threads[CALLERS];
        for (int i = 0; i < CALLERS; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, calling_thread, &s), 0);
        for (int i = 0; i < CALLERS; i++) {
            void *why;
            pthread_join(threads[i], &why);
            ck_good_at((const char *)why, "%s", variants[v].name);
        }
        shared_end(&s);
    }
}
END_TEST

START_TEST(calls_work_inside_a_parallel_region)
{
    for (int v = 0; v < COUNT(variants); v++) {
        shared s;
        shared_begin(&s, &variants[v], 2);
        int failed = 0;
#pragma omp parallel num_threads(3) reduction(+ : failed)
        failed += caller(&s) != NULL;
        ck_assert_msg(failed == 0, "%s: %d calls failed", variants[v].name, failed);
        shared_end(&s);
    }
}
END_TEST

/* ---- fork ---------------------------------------------------------------------------------- */

/* Forks depth times, one child inside the other; each calls the library. An alarm ends a child
 * that hangs, as libgomp does when its threads are gone. Returns 0 if all went well. */
static int fork_and_call(const shared *s, int depth)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(emulated() ? 600 : 60);
        int failed = caller(s) != NULL;
        if (depth > 1)
            failed |= fork_and_call(s, depth - 1);
        failed |= caller(s) != NULL;
        _exit(failed);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 1;
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

START_TEST(a_forked_child_may_call)
{
    for (int v = 0; v < COUNT(variants); v++) {
        shared s;
        shared_begin(&s, &variants[v], 4);
        ck_assert_msg(fork_and_call(&s, 3) == 0, "%s: a child failed or hung", variants[v].name);
        ck_good_at(caller(&s), "%s, the parent afterwards", variants[v].name);
        shared_end(&s);
    }
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: 2, 8 and 1 threads, 3 of 14 calls; 1 of 3 calls of each concurrent caller");
    TCase *topic = topic_begin("threads");
    tcase_add_loop_test(topic, bits_do_not_depend_on_threads_or_run, 0, COUNT(variants));
    tcase_add_test(topic, a_plan_serves_several_threads);
    tcase_add_test(topic, calls_work_inside_a_parallel_region);
    tcase_add_test(topic, a_forked_child_may_call);
    return topic_end();
}
