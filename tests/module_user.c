/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens a context of a library given by its path, and prints what it is or why there is none:
 *
 *     module_user LIBRARY auto|cpu|cuda [DEVICE]
 *     module_user LIBRARY compute    the whole path through the module, compared with the CPU
 *     module_user LIBRARY threads    contexts made by several threads at once
 *     module_user LIBRARY secure     whether the system lets this program run "secure"
 *
 * tests/modules.sh says what must come out. The library is loaded by name, since it must lie where
 * the test wants it.
 */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hyperattn.h"

#ifdef __linux__
#include <sys/auxv.h>
#endif

#define FUNCTIONS(f)                                                                               \
    f(last_error) f(ctx_params_init) f(ctx_create) f(ctx_destroy) f(ctx_backend) f(ctx_isa)        \
    f(ctx_reason) f(problem_init) f(plan_create) f(plan_destroy) f(plan_workspace) f(forward)      \
    f(backward) f(merge) f(measure) f(report_init) f(params_init) f(plan_method) f(plan_steps)

#define MEMBER(name) __typeof__(hyperattn_##name) *name;
static struct {
    FUNCTIONS(MEMBER)
} ha;

static int load(const char *path)
{
    void *address, *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        printf("%s\n", dlerror());
        return 0;
    }
#define FIND(name)                                                                                 \
    address = dlsym(library, "hyperattn_" #name);                                                  \
    memcpy(&ha.name, &address, sizeof ha.name);
    FUNCTIONS(FIND)
    return 1;
}

static hyperattn_ctx *open_ctx(hyperattn_backend backend, int device)
{
    hyperattn_ctx_params params;
    hyperattn_ctx *ctx;
    ha.ctx_params_init(&params);
    params.backend = backend;
    params.device = device;
    params.nthreads = 1;
    hyperattn_status status = ha.ctx_create(&ctx, &params);
    if (status)
        printf("status %d: %s\n", status, ha.last_error());
    return ctx;
}

/* The text of an earlier failure, which a success leaves alone, is printed too. */
static int describe(hyperattn_backend backend, int device)
{
    ha.ctx_create(NULL, NULL);
    hyperattn_ctx *ctx = open_ctx(backend, device);
    if (ctx)
        printf("%s %s (%s) [%s]\n", ha.ctx_backend(ctx), ha.ctx_isa(ctx), ha.ctx_reason(ctx),
               ha.last_error());
    ha.ctx_destroy(ctx);
    if (getenv("FAKE_RAN")) /* code of modules/broken.c */
        puts("ran");
    return 0;
}

/* ---- the whole path ------------------------------------------------------------------------ */

enum { BATCH = 2, HEADS = 4, NQ = 5, NK = 9, D = 3, DV = 2, ROWS = BATCH * HEADS * NQ };
enum { KEYS = BATCH * HEADS / 2 * NK };

static float q[ROWS * D], k[KEYS * D], v[KEYS * DV];

typedef struct outcome {
    float out[ROWS * DV], lse[ROWS], again[ROWS * DV], merged_lse[ROWS];
} outcome;

static hyperattn_plan *plan_of(hyperattn_ctx *ctx, hyperattn_dtype dtype)
{
    hyperattn_problem p;
    hyperattn_plan *plan = NULL;
    ha.problem_init(&p);
    p.batch = BATCH, p.nheads = HEADS, p.nheads_kv = HEADS / 2;
    p.seqlen_q = NQ, p.seqlen_k = NK, p.head_dim = D, p.head_dim_v = DV;
    p.causal = 1;
    p.dtype = dtype;
    hyperattn_status status = ha.plan_create(&plan, ctx, &p, NULL);
    if (status)
        printf("plan: %d, %s\n", status, ha.last_error());
    return plan;
}

/* A backend that cannot choose is exact under AUTO, and refuses HYPER. */
static void try_targets(hyperattn_ctx *ctx)
{
    hyperattn_problem p;
    hyperattn_params params;
    hyperattn_plan *plan;
    ha.problem_init(&p);
    ha.params_init(&params);
    p.seqlen_q = 32768, p.head_dim = D;
    params.target_error = 0.25f;
    hyperattn_status status = ha.plan_create(&plan, ctx, &p, &params);
    printf("target: %d, method %d, steps %d\n", status, ha.plan_method(plan), ha.plan_steps(plan));
    ha.plan_destroy(plan);
    params.method = HYPERATTN_HYPER;
    status = ha.plan_create(&plan, ctx, &p, &params);
    printf("target: %d, %s\n", status, ha.last_error());
}

/* What the module's table refuses, and a workspace from the caller, of the size that it names. */
static void try_refusals(hyperattn_ctx *ctx, const hyperattn_plan *plan, outcome *o)
{
    static float dq[ROWS * D], dk[KEYS * D], dv[KEYS * DV], dout[ROWS * DV];
    _Alignas(64) float workspace[NK];
    hyperattn_status status =
        ha.backward(plan, q, k, v, o->out, o->lse, dout, dq, dk, dv, NULL);
    printf("backward: %d, %s\n", status, ha.last_error());
    hyperattn_report report;
    ha.report_init(&report);
    status = ha.measure(plan, q, k, v, o->out, 2, &report, NULL);
    printf("measure: %d, %s\n", status, ha.last_error());
    ha.plan_destroy(plan_of(ctx, HYPERATTN_BF16));
    try_targets(ctx);
    printf("workspace %zu %zu\n", ha.plan_workspace(plan, 0), ha.plan_workspace(plan, 1));
    if (ha.forward(plan, q, k, v, o->again, NULL, workspace) != HYPERATTN_OK ||
        memcmp(o->out, o->again, sizeof o->out) != 0)
        puts("another result with a workspace");
}

static int compute(hyperattn_backend backend, int device, outcome *o)
{
    hyperattn_ctx *ctx = open_ctx(backend, device);
    hyperattn_plan *plan = ctx ? plan_of(ctx, HYPERATTN_F32) : NULL;
    int good = plan && ha.forward(plan, q, k, v, o->out, o->lse, NULL) == HYPERATTN_OK;
    if (good && backend == HYPERATTN_BACKEND_CUDA)
        try_refusals(ctx, plan, o);
    if (good) {
        memcpy(o->again, o->out, sizeof o->out);
        memcpy(o->merged_lse, o->lse, sizeof o->lse);
        good = ha.merge(plan, o->again, o->merged_lse, o->out, o->lse) == HYPERATTN_OK;
    }
    ha.plan_destroy(plan);
    ha.ctx_destroy(ctx);
    return good;
}

static int compare(void)
{
    static outcome module, cpu;
    for (int i = 0; i < ROWS * D; i++)
        q[i] = sinf((float)i);
    for (int i = 0; i < KEYS * D; i++)
        k[i] = cosf((float)(3 * i));
    for (int i = 0; i < KEYS * DV; i++)
        v[i] = sinf((float)(7 * i + 1));
    if (!compute(HYPERATTN_BACKEND_CUDA, 1, &module) || !compute(HYPERATTN_BACKEND_CPU, 0, &cpu))
        return 1;
    const float *a = (const float *)&module, *b = (const float *)&cpu;
    float worst = 0;
    for (size_t i = 0; i < sizeof cpu / sizeof *a; i++)
        worst = fmaxf(worst, fabsf(a[i] - b[i]) < 1 ? fabsf(a[i] - b[i]) : 1);
    if (worst < 1e-5f)
        puts("same");
    else
        printf("off by %g\n", (double)worst);
    return 0;
}

/* ---- threads ------------------------------------------------------------------------------- */

enum { THREADS = 8 };

static void *open_and_close(void *arg)
{
    pthread_barrier_wait(arg);
    hyperattn_ctx *ctx = open_ctx(HYPERATTN_BACKEND_CUDA, 0);
    const char *reason = ctx ? ha.ctx_reason(ctx) : "";
    void *asked_once = strcmp(reason, "queries: 1") == 0 ? arg : NULL;
    ha.ctx_destroy(ctx);
    return asked_once;
}

static int open_by_threads(void)
{
    pthread_barrier_t start;
    pthread_t thread[THREADS];
    int once = 0;
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, open_and_close, &start);
    for (int i = 0; i < THREADS; i++) {
        void *asked_once;
        pthread_join(thread[i], &asked_once);
        once += asked_once != NULL;
    }
    printf("%d of %d\n", once, THREADS);
    return 0;
}

/* -------------------------------------------------------------------------------------------- */

static int is_secure(void)
{
#ifdef __linux__
    return getauxval(AT_SECURE) != 0;
#else
    return 0;
#endif
}

int main(int argc, char **argv)
{
    static const char *const backends[] = {"auto", "cpu", "cuda"};
    if (argc < 3 || !load(argv[1]))
        return 1;
    if (strcmp(argv[2], "compute") == 0)
        return compare();
    if (strcmp(argv[2], "threads") == 0)
        return open_by_threads();
    if (strcmp(argv[2], "secure") == 0)
        return !is_secure();
    for (int i = 0; i < 3; i++)
        if (strcmp(argv[2], backends[i]) == 0)
            return describe((hyperattn_backend)i, argc > 3 ? atoi(argv[3]) : 0);
    return 1;
}
